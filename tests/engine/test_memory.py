"""`memory` is what the process may hold in all, measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 1_500_000_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the largest resident set is read from /proc")
def test_no_more_is_held_than_memory_says() -> None:
    """Forty adapters of rank 64, 39 MB each, 48 requests of 600 tokens, and steps of 512 rows of logits, in 1.5 GB."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.engine.memory_pressure", str(LIMIT)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    counted = json.loads(said.stdout.splitlines()[-1])
    assert counted["loaded"] > 40, "adapters never gave way to each other"
    assert counted["pages"] * counted["page_bytes"] > 0.4 * LIMIT
    assert counted["peak"] <= LIMIT, counted

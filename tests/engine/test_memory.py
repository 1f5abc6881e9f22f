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
    """28 adapters of rank 64, 39 MB each, for a pool that holds six; 40 requests of 400 tokens, as many running as fit;
    steps of 512 rows of logits. In 1.5 GB, of which the process holds two thirds before it has an engine."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.engine.memory_pressure", str(LIMIT)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    counted = json.loads(said.stdout.splitlines()[-1])
    assert counted["loaded"] > 28, "adapters never gave way to each other"
    assert counted["pages"] * counted["page_bytes"] > 0.1 * LIMIT
    assert counted["peak"] <= LIMIT, counted

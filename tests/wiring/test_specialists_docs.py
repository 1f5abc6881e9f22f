"""The code of docs/specialists.md is run as it stands, over the starter library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "specialists.md"


def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLURAL_LIBRARY", str(tmp_path / "library"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    known: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(block, known)
    said = capsys.readouterr().out
    assert "cron Turns an English schedule" in said
    (promised,) = re.findall(r"print\(card\)  # (.*)", blocks[1])
    assert promised in said
    assert "['nine']" in said

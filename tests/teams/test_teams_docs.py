"""The code of docs/teams.md is run as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "teams.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    assert len(blocks) == 4
    known: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        line = PAGE.read_text()[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), known)  # a failure names the page's own line

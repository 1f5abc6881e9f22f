"""The code of docs/tools.md is run as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "tools.md"


def test_the_page_says_what_is_true() -> None:
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)


def test_the_page_lists_every_tool() -> None:
    from plural.agents import toolbox

    text = PAGE.read_text()
    missing = [name for name in (*toolbox.TOOLS, *toolbox.__all__) if name != "TOOLS" and f"`{name}" not in text]
    assert missing == []

"""The code of docs/scaling.md that is about engines and libraries is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plural.wiring.network import Network
from tests.models import tiny
from tests.serve.tiny import served

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
PARTS = ("Another engine", "A library for many machines")


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save_small(tmp_path / "base")
    said = {"BASE": tmp_path / "base", "CACHE": tmp_path / "cache", "STARTER": "false", "MAX_TOKENS": "4"}
    for name, value in {**said, "LIBRARY": tmp_path / "library", "THREADS": "1"}.items():
        monkeypatch.setenv(f"PLURAL_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    parts = {part.partition("\n")[0]: part for part in PAGE.read_text().split("\n## ")}
    with Network.open() as network, served(network) as running:
        for part in PARTS:
            blocks = re.findall(r"^```python\n(.*?)^```$", parts[part], re.DOTALL | re.MULTILINE)
            assert blocks, part
            for block in blocks:
                code = block.replace("http://127.0.0.1:8000", running.url)
                exec(compile(code, f"{PAGE}: {part}", "exec"), {"__name__": "page"})

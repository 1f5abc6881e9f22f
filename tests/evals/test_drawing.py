"""Scorecards on the terminal and as plots."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from plural.errors import SettingsError, StorageError
from plural.evals import drawing
from plural.specialists import Card
from plural.types import Difference, Score

CARD = Card(
    name="clerk",
    digest="sha256:" + "a" * 64,
    base="sha256:" + "b" * 64,
    base_name="tiny",
    purpose="Files & sorts <papers>.",
    scores={
        "base": (
            Score("exact", 0.25, 40, "4-shot", 0.1, 0.4, 12.0, 0.2),
            Score("exact", 0.1, 40, "zero-shot", 0.0, 0.2),
        ),
        "free": (Score("exact", 0.7, 40, "zero-shot", 0.6, 0.8),),
        "specialist": (
            Score("exact", 0.8, 40, "with its contract", 0.7, 0.9, 3.0, 0.1),
            Score("exact", 0.5, 10, "with its contract", on="other & more.jsonl"),
        ),
    },
    differences=(Difference("specialist - base", 0.55, 0.4, 0.7, 40),),
)


def test_the_table_has_the_bases_best_and_what_is_gained() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(drawing.table([CARD]))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert [" ".join(line.split()) for line in said.splitlines()[1:]] == [
        "base 0.250 0.10..0.40 40 4-shot 12.0 0.200",
        "without grammar 0.700 0.60..0.80 40 zero-shot - -",
        "specialist 0.800 0.70..0.90 40 with its contract 3.0 0.100",
        "specialist on other & more.jsonl 0.500 - 10 with its contract - -",
        "specialist - base +0.550 +0.40..+0.70 40",
    ]


def test_an_svg_has_a_bar_for_every_score_as_long_as_it_is_good(tmp_path: Path) -> None:
    drawing.save([CARD], tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in root.iter(f"{name}rect") if bar.find(f"{name}title") is not None]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert [round(width / max(widths), 2) for width in widths] == [0.31, 0.88, 1.0, 0.62]
    assert "other & more.jsonl" in "".join(root.itertext())
    assert len(list(root.iter(f"{name}path"))) == 3  # an interval is drawn where it is known


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the extra `plot` is not installed")
def test_a_png_is_drawn_with_matplotlib(tmp_path: Path) -> None:
    drawing.save([CARD], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_drawn_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"'\.gif'"):
        drawing.check(tmp_path / "plot.gif")
    with pytest.raises(StorageError, match="nowhere"):
        drawing.save([CARD], tmp_path / "nowhere" / "plot.svg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs matplotlib"):
        drawing.check(tmp_path / "plot.png")

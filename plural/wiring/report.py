"""The table of a library that was made from a recipe, in Markdown: every test of every card, and what it all took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from plural.specialists import Card, Specialist
from plural.types import Score

FILE = "school.md"
AGAINST = "activated - plain"
_MB = 1e6


def page(library: Sequence[Specialist], seconds: Mapping[tuple[str, str], float]) -> str:
    """`seconds` of each (stage, of whom) of the last run, which need not have been of all specialists."""
    parts = ["# What the school made", _scores(library)]
    if lines := _twins(library):
        parts += ["## Activated against plain", lines]
    return "\n\n".join([*parts, "## What the last run took, in seconds", _times(seconds)]) + "\n"


def _scores(library: Sequence[Specialist]) -> str:
    lines = []
    total = 0.0
    for one in library:
        size = sum(file.stat().st_size for file in one.path.glob("*.safetensors")) / _MB
        total += size
        about = [one.name, str(_setting(one.card, "rank")), _kind(one.card), f"{size:.1f}", _rows(one.card)]
        for base, own in zip(one.card.scores.get("base", ()), one.card.scores.get("specialist", ()), strict=True):
            rows = str(own.n) if own.n == base.n else f"{own.n} (base {base.n})"
            lines.append([*about, own.on or "its own", rows, f"{base.value:.3f}", _with_interval(own), own.metric])
            about = [""] * len(about)
    heads = ["specialist", "rank", "LoRA", "MB", "rows", "test", "n", "base", "specialist", "scored by"]
    told = (
        "The base is the better of zero-shot and few-shot, told at length what is wanted and under the same grammar; "
        "the specialist is as it is served, with its 95% interval. "
    )
    return f"{told}Weights: {total:.1f} MB in all.\n\n{_table(heads, lines)}"


def _twins(library: Sequence[Specialist]) -> str:
    """Of specialists that were trained both ways."""
    lines = []
    for one in library:
        found = {score.on: score for score in reversed(one.card.scores.get("specialist", ()))}
        for gap in (gap for gap in one.card.differences if gap.what == AGAINST):
            own = found[gap.on].value
            plain, activated = (own - gap.value, own) if one.card.invocation else (own, own + gap.value)
            between = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            test = gap.on or "its own"
            lines.append([one.name, test, f"{gap.n}", f"{plain:.3f}", f"{activated:.3f}", between, _kind(one.card)])
    heads = ["skill", "test", "n", "plain", "activated", "activated - plain", "published"]
    return _table(heads, lines) if lines else ""


def _times(seconds: Mapping[tuple[str, str], float]) -> str:
    lines = [[stage, what, f"{took:.0f}"] for (stage, what), took in seconds.items()]
    return _table(["stage", "of", "seconds"], [*lines, ["all", "", f"{sum(seconds.values()):.0f}"]])


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _with_interval(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" if score.low is not None else f"{score.value:.3f}"


def _kind(card: Card) -> str:
    return "activated" if card.invocation else "plain"


def _rows(card: Card) -> str:
    return str(card.lineage.rows) if card.lineage else "?"


def _setting(card: Card, name: str) -> object:
    return card.lineage.settings.get(name, "?") if card.lineage else "?"

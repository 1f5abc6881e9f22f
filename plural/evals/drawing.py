"""Scorecards drawn: a table for the terminal, a plot as SVG or PNG."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from plural.errors import SettingsError, StorageError
from plural.specialists import Card, Specialist, Trial
from plural.types import Score

_LABELS = {"base": "base", "free": "without grammar", "specialist": "specialist"}
_COLOURS = {"base": "#9aa5b1", "free": "#7cc4fa", "specialist": "#0967d2"}
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 250, 420, 18, 14, 56


@dataclass(frozen=True, slots=True)
class Bar:
    """One score of one specialist as it is drawn."""

    name: str
    who: str
    score: Score

    @property
    def label(self) -> str:
        on = f" on {self.score.on}" if self.score.on else ""
        return f"{_LABELS[self.who]}{on}"


def bars(card: Card) -> list[Bar]:
    """Of every set of rows the base's best, the specialist without its grammar, and as it is served."""
    sets = list(dict.fromkeys(score.on for scores in card.scores.values() for score in scores))
    return [
        Bar(card.name, who, next(score for score in card.scores[who] if score.on == on))  # type: ignore[index]
        for on in sets
        for who in _LABELS
        if any(score.on == on for score in card.scores.get(who, ()))  # type: ignore[call-overload]
    ]


def table(cards: Sequence[Card]) -> Table:
    """Every score with its interval and what an answer costs; below them what a specialist gains, row by row."""
    drawn = Table("who", "score", "95%", "n", "asked", "tokens", "s", box=None, header_style="bold", pad_edge=False)
    for card in cards:
        if len(cards) > 1:
            drawn.add_row(Text(card.name, style="bold cyan"))
        for bar in bars(card):
            score = bar.score
            drawn.add_row(
                Text(bar.label, style="bold" if bar.who == "specialist" else ""),
                f"{score.value:.3f}",
                _interval(score.low, score.high),
                str(score.n),
                score.by,
                "-" if score.tokens is None else f"{score.tokens:.1f}",
                "-" if score.seconds is None else f"{score.seconds:.3f}",
            )
        for one in card.differences:
            on = f" on {one.on}" if one.on else ""
            interval = _interval(one.low, one.high, "+")
            drawn.add_row(Text(f"{one.what}{on}", style="italic"), f"{one.value:+.3f}", interval, str(one.n))
    return drawn


def headline(card: Card, who: Literal["base", "specialist", "free"]) -> str:
    """The first score, as short as it can be said."""
    scores = card.scores.get(who, ())
    return f"{scores[0].value:.2f}" if scores else "-"


def portrait(specialist: Specialist, versions: Sequence[Specialist]) -> Panel:
    """The whole card for the terminal, and the other versions of its name."""
    card = specialist.card
    rows = Table(box=None, show_header=False)
    rows.add_column(style="bold")
    for label, value in (
        ("for", card.purpose),
        ("kind", card.kind),
        ("base", f"{card.base_name} ({card.base[:19]}…)"),
        ("adapter", f"{card.digest[:19]}… in {specialist.path}"),
        ("instructions", card.instructions or "-"),
        ("output", f"{card.output.kind}: {_short(card.output.source)}" if card.output else "free text"),
        ("tools", ", ".join(card.tools) or "-"),
        ("licence", card.licence),
        ("made by", card.lineage.command if card.lineage else "-"),
        *([("sweep", _swept(card.lineage.sweep))] if card.lineage and card.lineage.sweep else []),
        *([("forced", card.promotion.warning)] if card.promotion and card.promotion.warning else []),
    ):
        rows.add_row(label, Text(value))
    examples = Text("\n".join(f"  {_short(example)}" for example in card.examples[:5]), style="dim")
    parts: list[RenderableType] = [rows, Text(), table([card]), Text("\nfor example", style="bold"), examples]
    others = [one for one in versions if one.card.version != card.version]
    if others:
        parts.append(Text("\nother versions", style="bold"))
    for one in others:
        when = f"promoted {one.card.promotion.at.date()}" if one.card.promotion else "never promoted"
        parts.append(Text(f"  {one.name}@{one.card.version}  {headline(one.card, 'specialist')}  {when}", style="dim"))
    return Panel(Group(*parts), title=f"{card.name}, version {card.version}")


def _swept(trials: Sequence[Trial]) -> str:
    won, *others = trials
    settings = ", ".join(f"{key} {value}" for key, value in won.settings.items())
    return f"the best of {1 + len(others)} candidates: {settings}"


def _short(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def check(path: Path | None) -> None:
    """Raises SettingsError for a plot that could not be drawn later: another ending, no matplotlib."""
    ending = path.suffix.lower() if path is not None else ".svg"
    if ending not in (".svg", ".png"):
        raise SettingsError(f"--plot {path} ends in {ending!r}.", hint="Plots are .svg or .png.")
    if ending == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise SettingsError(
            f"--plot {path} needs matplotlib, which is not installed.",
            hint="pip install 'plural[plot]', or end the file in .svg, which needs nothing.",
        )


def save(cards: Sequence[Card], path: Path) -> None:
    """Draws the scores with their intervals into `path`, as its ending says.

    Raises what `check` raises, and StorageError if the file cannot be written.
    """
    check(path)
    drawn = [bar for card in cards for bar in bars(card)]
    try:
        if path.suffix.lower() == ".svg":
            path.write_text(svg(drawn), encoding="utf-8")
        else:
            _png(drawn, path)
    except OSError as error:
        raise StorageError(f"The plot {path} could not be written: {error.strerror or error}.") from error


def svg(drawn: Sequence[Bar]) -> str:
    """A horizontal bar for every score, whiskers for its interval; nothing but text is needed to draw it."""
    body: list[str] = []
    y = _TOP
    for name, group in _by_name(drawn):
        body.append(f'<text x="12" y="{y}" font-weight="bold">{escape(name)}</text>')
        y += 8
        for bar in group:
            body += _bar(bar, y)
            y += _BAR + 4
        y += _GAP + 12
    height = y + 10
    for tenth in range(0, 11, 2):
        x = _LEFT + _WIDTH * tenth / 10
        body.insert(0, f'<line x1="{x:g}" x2="{x:g}" y1="34" y2="{height - 20}" stroke="#e4e7eb"/>')
        body.append(f'<text x="{x:g}" y="28" text-anchor="middle" fill="#52606d">{tenth / 10:g}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 80}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        + "".join(body)
        + "</svg>\n"
    )


def _bar(bar: Bar, y: float) -> Iterator[str]:
    score, middle = bar.score, y + _BAR / 2
    yield f'<text x="{_LEFT - 8}" y="{middle + 4:g}" text-anchor="end">{escape(bar.label)}</text>'
    yield (
        f'<rect x="{_LEFT}" y="{y:g}" width="{_WIDTH * score.value:.1f}" height="{_BAR}" fill="{_COLOURS[bar.who]}">'
        f"<title>{escape(f'{bar.label}: {score.value:.3f}, n = {score.n}')}</title></rect>"
    )
    end = score.value
    if score.low is not None and score.high is not None:
        low, end = _LEFT + _WIDTH * score.low, score.high
        yield f'<path d="M{low:.1f} {middle:g}H{_LEFT + _WIDTH * end:.1f}" stroke="#1f2933" stroke-width="1.5"/>'
    yield f'<text x="{_LEFT + _WIDTH * end + 6:.1f}" y="{middle + 4:g}">{score.value:.2f}</text>'


def _png(drawn: Sequence[Bar], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.32 * len(drawn)), layout="constrained")
    axes = figure.add_subplot()
    for place, bar in enumerate(drawn):
        score = bar.score
        low, high = (score.value if end is None else end for end in (score.low, score.high))
        whiskers = [[max(0.0, score.value - low)], [max(0.0, high - score.value)]]
        axes.barh(place, score.value, xerr=whiskers, color=_COLOURS[bar.who], capsize=3)
    axes.set_yticks(range(len(drawn)), [f"{bar.name}: {bar.label}" for bar in drawn])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)


def _by_name(drawn: Sequence[Bar]) -> Iterator[tuple[str, list[Bar]]]:
    for name in dict.fromkeys(bar.name for bar in drawn):
        yield name, [bar for bar in drawn if bar.name == name]


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "-" if low is None or high is None else f"{low:{sign}.2f}..{high:{sign}.2f}"

"""How long work looks on a terminal while it goes on: a bar for every stage, or a line for every specialist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from plural.wiring.stages import Stage


def follow(stages: Iterable[Stage], console: Console) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        rows: dict[tuple[str, str], Any] = {}
        for stage in stages:
            key = (stage.name, stage.stage)
            if key not in rows:
                rows[key] = progress.add_task(": ".join(filter(None, key)), total=1.0, note="")
            progress.update(rows[key], completed=stage.done, note=stage.note)
            if stage.line:
                progress.console.print(Text(stage.line))


def follow_training(stages: Iterable[Stage], names: Sequence[str], console: Console) -> None:
    table = TrainingTable(names)
    with Live(table, console=console, refresh_per_second=4) as live:
        for stage in stages:
            table.show(stage)
            if stage.line:
                live.console.print(Text(stage.line))


@dataclass
class _Line:
    state: str = "waiting"
    step: str = ""
    loss: str = ""
    held_out: str = ""
    speed: str = ""
    left: str = ""
    contract: str = ""
    candidate: str = ""
    base: float | None = None
    own: float | None = None

    def scored(self, stage: str, value: float) -> None:
        """The base's best counts, and the specialist as it is served, which is scored last."""
        if stage.startswith("scoring the base"):
            self.base = max(value, self.base or 0.0)
        elif stage.startswith("scoring the specialist"):
            self.own = value

    def scores(self) -> str:
        own, base = ("-" if value is None else f"{value:.2f}" for value in (self.own, self.base))
        return f"{own}, base {base}"


class TrainingTable:
    """Draws itself as often as rich asks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._lines = {name: _Line() for name in names}

    def show(self, stage: Stage) -> None:
        if stage.stage in ("halving", "swept"):
            self._race(stage)
            return
        if not stage.name:
            return  # it is of no single specialist
        line = self._lines.setdefault(stage.name, _Line())
        facts: Mapping[str, Any] = stage.facts
        doing, _, _ = stage.stage.partition(" ")
        if doing == "candidate":
            line.candidate = facts["candidate"]
        elif doing == "contract":
            line.contract = facts["contract"]["kind"] if facts["contract"] else "none"
        elif doing != "evaluating":
            line.state = doing if doing in ("training", "diverged", "refused") else f"{doing} {stage.note}".strip()
        if "of" in facts:
            line.step, line.loss = f"{facts['step']}/{facts['of']}", f"{facts['loss']:.3f}"
            line.speed, line.left = f"{facts['tokens_per_second']:.0f}", _clock(facts["seconds_left"])
        if "holdout_loss" in facts:
            line.held_out = f"{facts['holdout_loss']:.3f}{' *' if facts['best'] else ''}"
        if "best_loss" in facts:
            line.state, line.left, line.speed = "won" if line.candidate else "trained", "", ""
        if "value" in facts:
            line.scored(stage.stage, facts["value"])
        if stage.stage == "publishing":
            line.state = line.scores()

    def _race(self, stage: Stage) -> None:
        """A rung of a sweep, where some stop, or its end."""
        for name in stage.facts.get("stopped", ()):
            line = self._lines[name]
            line.state, line.speed, line.left = f"stopped at rung {stage.facts['rung']}", "", ""
            line.held_out = f"{stage.facts['losses'][name]:.3f}"
        for tried in stage.facts.get("tried", ()):
            line = self._lines[tried["name"]]
            if tried["beaten"] and line.state == "waiting":  # it was stopped before this training was resumed
                line.state = f"stopped after {tried['steps']} steps"

    def __rich__(self) -> Table:
        table = Table(box=None, header_style="bold")
        table.add_column("specialist", no_wrap=True)
        sweeping = any(line.candidate for line in self._lines.values())
        if sweeping:
            table.add_column("candidate")
        for heading in ("step", "loss", "held-out", "tokens/s", "left"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("contract", no_wrap=True)
        table.add_column("score")
        for name, line in self._lines.items():
            tried = (line.candidate,) if sweeping else ()
            figures = (*tried, line.step, line.loss, line.held_out, line.speed, line.left)
            table.add_row(name, *figures, line.contract, line.state)
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

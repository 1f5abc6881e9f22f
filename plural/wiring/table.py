"""How a training looks on a terminal while it runs: a line for every specialist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from plural.wiring.training import Stage


@dataclass
class _Line:
    state: str = "waiting"
    step: str = ""
    loss: str = ""
    held_out: str = ""
    speed: str = ""
    left: str = ""


class TrainingTable:
    """Draws itself as often as rich asks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._lines = {name: _Line() for name in names}

    def show(self, stage: Stage) -> None:
        line = self._lines.setdefault(stage.name, _Line())
        facts: Mapping[str, Any] = stage.facts
        if stage.stage != "evaluating":
            doing, _, _ = stage.stage.partition(" ")
            line.state = doing if doing in ("training", "diverged") else f"{doing} {stage.note}"
        if "of" in facts:
            line.step, line.loss = f"{facts['step']}/{facts['of']}", f"{facts['loss']:.3f}"
            line.speed, line.left = f"{facts['tokens_per_second']:.0f}", _clock(facts["seconds_left"])
        if "holdout_loss" in facts:
            line.held_out = f"{facts['holdout_loss']:.3f}{' *' if facts['best'] else ''}"
        if "best_loss" in facts:
            line.state, line.left, line.speed = "trained", "", ""
        if stage.stage == "publishing":
            line.state = "in the network"

    def __rich__(self) -> Table:
        table = Table(box=None, header_style="bold")
        table.add_column("specialist", no_wrap=True)
        for heading in ("step", "loss", "held-out", "tokens/s", "left"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for name, line in self._lines.items():
            table.add_row(name, line.step, line.loss, line.held_out, line.speed, line.left, line.state)
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

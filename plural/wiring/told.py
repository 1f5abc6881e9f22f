"""What the trainer says, as stages for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from plural.wiring.school import TrainOrder
from plural.wiring.stages import Stage

if TYPE_CHECKING:
    from plural.train import Halved, Swept, TrainEvent


def candidate_stages(orders: Sequence[TrainOrder]) -> Iterator[Stage]:
    """What each candidate of a sweep is, before anything is trained."""
    for candidate in (candidate for order in orders for candidate in order.candidates):
        facts = {"candidate": str(candidate), "settings": dict(candidate.varied)}
        yield Stage("candidate", 0.0, "", str(candidate), facts, candidate.name)


def train_stage(event: TrainEvent) -> Stage:
    from plural.train import Diverged, Evaluated, Halved, Stepped, Swept, Trained, TrainStarted

    facts, name = asdict(event), event.name
    match event:
        case TrainStarted():
            resumed = f", going on at step {event.step}" if event.step else ""
            note = f"{event.rows} rows, {event.holdout_rows} held out, {event.parameters:,} parameters"
            return Stage("training", 0.0, "", f"{note}, {event.compute}{resumed}", facts, name)
        case Stepped():
            note = f"step {event.step}/{event.of}  loss {event.loss:.3f}  {event.tokens_per_second:.0f} tokens/s"
            return Stage("training", event.step / event.of, note, "", facts, name)
        case Evaluated():
            best = "  (best so far)" if event.best else ""
            right = "" if event.accuracy is None else f", {event.accuracy:.2f} of the pairs"
            told = f"step {event.step}: held-out loss {event.holdout_loss:.4f}{right}{best}"
            return Stage("evaluating", 1.0, told, "", facts, name)
        case Diverged():
            return Stage("diverged", 1.0, "", f"{event.message} {event.hint}", facts, name)
        case Halved():
            return Stage("halving", event.rung / event.of, "", _halving(event), facts, name)
        case Swept():
            return Stage("swept", 1.0, "", _result(event), facts, name)
        case Trained():
            note = f"{event.steps} steps, {event.tokens:,} tokens in {event.seconds:.0f} s"
            return Stage("training", 1.0, note, f"trained: {note}", {**facts, "path": str(event.path)}, name)


def _halving(event: Halved) -> str:
    best, loss = next(iter(event.losses.items()))
    left = len(event.losses) - len(event.stopped)
    return f"rung {event.rung} of {event.of}: {left} of {len(event.losses)} go on; {best} leads with {loss:.4f}"


def _result(event: Swept) -> str:
    won = event.tried[0]
    loss = "" if won.loss is None else f" with a held-out loss of {won.loss:.4f}"
    return f"{won.name} won among {len(event.tried)} candidates{loss}"

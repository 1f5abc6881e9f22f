"""What a training says while it runs. The last event is always `Trained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainStarted:
    """`step` is above 0 when an interrupted training goes on. `duplicates` are rows that repeat an earlier one."""

    rows: int
    holdout_rows: int
    duplicates: int
    step: int
    steps: int
    parameters: int
    compute: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """`loss` is the mean over the batch's answer tokens, in nats; `tokens_per_second` counts prompt tokens, too."""

    step: int
    of: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Loss over the held-out answers before anything was trained (step 0) or after `step` steps."""

    step: int
    holdout_loss: float
    best: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """`best_loss` is the held-out loss of the weights in `path`; None when nothing was held out.

    `tokens` and `seconds` are of all sittings. `settings` are those that were used, defaults worked out.
    """

    path: Path
    steps: int
    best_loss: float | None
    tokens: int
    seconds: float
    settings: Mapping[str, Any]


TrainEvent = TrainStarted | Stepped | Evaluated | Trained

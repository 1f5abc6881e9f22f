"""What a training says while it runs, of one specialist each time.

A specialist's last event is `Trained`, or `Diverged` when its loss did; the others go on. A candidate of a sweep that
is beaten is named in the sweep's `Halved` and says no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainStarted:
    """`step` is above 0 when an interrupted training goes on. `duplicates` are rows that repeat an earlier one."""

    name: str
    rows: int
    holdout_rows: int
    duplicates: int
    step: int
    steps: int
    parameters: int
    compute: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """`loss` is the mean over the batch's answer tokens, in nats, or over its preferences.

    `tokens_per_second` counts prompt tokens, too. `computed` tokens went through the base for it: what rows share is
    computed once, what is kept not at all.
    """

    name: str
    step: int
    of: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float
    computed: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Loss over the held-out answers before anything was trained (step 0) or after `step` steps.

    Of preferences, `accuracy` is the share of held-out pairs whose chosen answer has become likelier, by more than the
    rejected one.
    """

    name: str
    step: int
    holdout_loss: float
    best: bool
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Diverged:
    """It stopped alone; no adapter was written. `message` says what the loss did, `hint` what rate to try."""

    name: str
    step: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Trained:
    """`best_loss` is the held-out loss of the weights in `path`; None when nothing was held out.

    `tokens` and `seconds` are of all sittings; the seconds were shared with whoever trained beside it. `settings` are
    those that were used, defaults worked out.
    """

    name: str
    path: Path
    steps: int
    best_loss: float | None
    tokens: int
    seconds: float
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Halved:
    """All candidates of the sweep `name` that still ran came to rung `rung`, of so many. `losses` are their held-out
    losses so far, the best first; those of `stopped` learn no more.
    """

    name: str
    rung: int
    of: int
    losses: Mapping[str, float]
    stopped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate, its best held-out loss (None if it diverged before it had one), and whether it was stopped."""

    name: str
    steps: int
    loss: float | None
    beaten: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """How the sweep `name` ended, the best first; `Trained` of the winner follows."""

    name: str
    winner: str
    tried: tuple[Tried, ...]


TrainEvent = TrainStarted | Stepped | Evaluated | Diverged | Halved | Swept | Trained

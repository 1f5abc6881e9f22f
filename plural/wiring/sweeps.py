"""Which candidates a sweep has: every combination of the values that its settings may take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plural.errors import SettingsError

if TYPE_CHECKING:
    from plural.train import TrainSettings

# What decides which rows are held out: losses on different rows cannot be compared.
_NEVER = ("seed", "holdout", "holdout_rows")
_LONGEST = 58  # a name has 64 characters, and a candidate's is numbered


@dataclass(frozen=True, slots=True)
class Candidate:
    """`varied` are the settings in which it differs from the others."""

    name: str
    settings: TrainSettings
    varied: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join(f"{key}={_plain(value)}" for key, value in self.varied.items())


def read_sweep(said: Sequence[str]) -> dict[str, list[str]]:
    """From the command line: "rank=4,8,16", one setting each."""
    sweep: dict[str, list[str]] = {}
    for one in said:
        key, equals, values = one.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not values.strip():
            raise SettingsError(f"The sweep {one!r} has no values.", hint="Write it as rank=4,8,16.")
        if key in sweep:
            raise SettingsError(f"{key} is swept twice.", hint=f"Give all its values at once: --sweep {key}=A,B,C.")
        sweep[key] = [value.strip() for value in values.split(",")]
    return sweep


def candidates(name: str, given: Mapping[str, Any], sweep: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """One for each combination, numbered in the order of the values. `given` are the settings that all share.

    Raises SettingsError for what cannot be swept, and what TrainSettings raises for a value.
    """
    from plural.train import TrainSettings

    for key, values in sweep.items():
        if key not in TrainSettings.model_fields:
            known = ", ".join(one for one in TrainSettings.model_fields if one not in _NEVER)
            raise SettingsError(f"There is no setting {key!r} to sweep.", hint=f"Settings: {known}.")
        if key in _NEVER:
            raise SettingsError(
                f"{key} cannot be swept: it changes which rows are held out.", hint="Train once for each value."
            )
        if not isinstance(values, list | tuple) or not values:
            raise SettingsError(f"The sweep of {key} is {values!r}; it must be a list of values.")
    made: dict[TrainSettings, Candidate] = {}
    for number, combination in enumerate(itertools.product(*sweep.values()), 1):
        values = dict(zip(sweep, combination, strict=True))
        settings = TrainSettings.of(**{**given, **values})
        varied = {key: getattr(settings, key) for key in sweep}
        if settings in made:
            raise SettingsError(f"The sweep of {name} has {made[settings]} twice.")
        made[settings] = Candidate(f"{name[:_LONGEST]}--{number}", settings, varied)
    if len(made) < 2:
        raise SettingsError(f"The sweep of {name} has {len(made)} candidate; two is the least.")
    return tuple(made.values())


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

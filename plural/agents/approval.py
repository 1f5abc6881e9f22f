"""A person's word on tool calls that wait for it.

paused = agent.invoke("Delete the old logs")  # a Paused: nothing was deleted
saved = paused.to_json()  # keep it as long as you like
agent.invoke(approve(Paused.from_json(saved)))  # or deny(paused, "Keep them."), or Reviewed(paused, {...})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plural.errors import SettingsError
from plural.types import Paused


@dataclass(frozen=True, slots=True)
class Approve:
    """The call may be made, with other arguments if they are given."""

    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """The call is not made; the model is told why."""

    reason: str


Verdict = Approve | Deny


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A paused run with a verdict on each of its calls: the input with which its agent goes on.

    Raises:
        SettingsError: a call without a verdict, or a verdict without a call.
    """

    paused: Paused
    verdicts: Mapping[str, Verdict]

    def __post_init__(self) -> None:
        waiting = {call.id: call for call in self.paused.calls}
        missing = [f"{call.name} ({key})" for key, call in waiting.items() if key not in self.verdicts]
        unknown = [key for key in self.verdicts if key not in waiting]
        if missing:
            raise SettingsError(f"There is no verdict on {', '.join(missing)}.", hint="Approve() or Deny(reason).")
        if unknown:
            raise SettingsError(f"No call {unknown[0]!r} waits for a verdict.", hint=f"Waiting: {', '.join(waiting)}.")


def approve(paused: Paused) -> Reviewed:
    """All calls, as they are."""
    return Reviewed(paused, {call.id: Approve() for call in paused.calls})


def deny(paused: Paused, reason: str) -> Reviewed:
    """All calls."""
    return Reviewed(paused, {call.id: Deny(reason) for call in paused.calls})

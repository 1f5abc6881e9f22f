"""The journal: every run as an append-only log in SQL, from which it is resumed, played back and forked."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.teams.journal.adopting import Adopter
    from plural.teams.journal.running import begin, replay, resume
    from plural.teams.journal.store import Journal, RunInfo
    from plural.teams.journal.tape import shown

_HOMES = {
    "Adopter": "adopting",
    "Journal": "store",
    "RunInfo": "store",
    "begin": "running",
    "replay": "running",
    "resume": "running",
    "shown": "tape",
}

__all__ = ["Adopter", "Journal", "RunInfo", "begin", "replay", "resume", "shown"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.teams.journal.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

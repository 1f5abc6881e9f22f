"""The journal: every run as an append-only log in SQL, from which it is resumed, played back and forked."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.teams.journal.running import begin, input_to_json, replay, resume
    from plural.teams.journal.store import Journal, RunInfo, open_questions
    from plural.teams.journal.tape import is_shown, shown, shown_entries
    from plural.teams.journal.texts import Texts

_HOMES = {
    "Journal": "store",
    "RunInfo": "store",
    "Texts": "texts",
    "begin": "running",
    "input_to_json": "running",
    "is_shown": "tape",
    "open_questions": "store",
    "replay": "running",
    "resume": "running",
    "shown": "tape",
    "shown_entries": "tape",
}

__all__ = [
    "Journal",
    "RunInfo",
    "Texts",
    "begin",
    "input_to_json",
    "is_shown",
    "open_questions",
    "replay",
    "resume",
    "shown",
    "shown_entries",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.teams.journal.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

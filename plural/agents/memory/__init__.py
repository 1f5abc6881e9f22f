"""What an agent remembers: its transcript within a budget, facts and results for good, what a step needs of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.agents.memory.dynamic import Recall, memory_tools, remembering
    from plural.agents.memory.long import LongTerm, Memory, Recalled
    from plural.agents.memory.short import ShortTerm
    from plural.agents.memory.standard import Standardised

_HOMES = {
    "LongTerm": "long",
    "Memory": "long",
    "Recall": "dynamic",
    "Recalled": "long",
    "ShortTerm": "short",
    "Standardised": "standard",
    "memory_tools": "dynamic",
    "remembering": "dynamic",
}

__all__ = ["LongTerm", "Memory", "Recall", "Recalled", "ShortTerm", "Standardised", "memory_tools", "remembering"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.agents.memory.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""One agent: a LangChain Runnable with tools, an output contract and one streaming loop. Decisions of any model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.agents import toolbox
    from plural.agents.agent import Agent
    from plural.agents.contract import Contract
    from plural.agents.decisions import adecide, decide
    from plural.agents.marks import mark
    from plural.agents.tools import tool, tool_specs

_HOMES = {
    "Agent": "agent",
    "Contract": "contract",
    "adecide": "decisions",
    "decide": "decisions",
    "mark": "marks",
    "tool": "tools",
    "tool_specs": "tools",
}

__all__ = ["Agent", "Contract", "adecide", "decide", "mark", "tool", "tool_specs", "toolbox"]


def __getattr__(name: str) -> Any:
    if name == "toolbox":
        return importlib.import_module("plural.agents.toolbox")
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.agents.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

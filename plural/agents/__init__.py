"""One agent: a LangChain Runnable with tools, an output contract and one streaming loop. Decisions of any model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.agents import toolbox
    from plural.agents.agent import Agent
    from plural.agents.approval import Approve, Deny, Reviewed, approve, deny
    from plural.agents.budget import Budget, Price, Purse, Spent, spending
    from plural.agents.contract import Contract
    from plural.agents.decisions import adecide, decide
    from plural.agents.handoff import handoff_to
    from plural.agents.marks import mark
    from plural.agents.middleware import Middleware, Observation, Turn
    from plural.agents.tools import tool, tool_specs
    from plural.agents.traces import Traces

_HOMES = {
    "Agent": "agent",
    "Approve": "approval",
    "Budget": "budget",
    "Contract": "contract",
    "Deny": "approval",
    "Middleware": "middleware",
    "Observation": "middleware",
    "Price": "budget",
    "Purse": "budget",
    "Reviewed": "approval",
    "Spent": "budget",
    "Traces": "traces",
    "Turn": "middleware",
    "adecide": "decisions",
    "approve": "approval",
    "decide": "decisions",
    "deny": "approval",
    "handoff_to": "handoff",
    "mark": "marks",
    "spending": "budget",
    "tool": "tools",
    "tool_specs": "tools",
}

__all__ = [
    "Agent",
    "Approve",
    "Budget",
    "Contract",
    "Deny",
    "Middleware",
    "Observation",
    "Price",
    "Purse",
    "Reviewed",
    "Spent",
    "Traces",
    "Turn",
    "adecide",
    "approve",
    "decide",
    "deny",
    "handoff_to",
    "mark",
    "spending",
    "tool",
    "tool_specs",
    "toolbox",
]


def __getattr__(name: str) -> Any:
    if name == "toolbox":
        return importlib.import_module("plural.agents.toolbox")
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.agents.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

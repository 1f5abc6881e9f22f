"""Who works on what: the router, the planner, and the loop of a small network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.teams.network import work
    from plural.teams.planner import PLAN_SCHEMA, Planner
    from plural.teams.router import Router
    from plural.teams.routing import Routing

_HOMES = {"PLAN_SCHEMA": "planner", "Planner": "planner", "Router": "router", "Routing": "routing", "work": "network"}

__all__ = ["PLAN_SCHEMA", "Planner", "Router", "Routing", "work"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.teams.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

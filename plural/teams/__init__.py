"""Who works on what: the router, the planner, the network's loop; teams and their patterns; the journal of runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.teams import drafting, journal, patterns, stop
    from plural.teams.cost import Cost, costs
    from plural.teams.network import work
    from plural.teams.planner import PLAN_SCHEMA, Planner
    from plural.teams.proxy import Proxy, runs_code
    from plural.teams.router import Router
    from plural.teams.routing import Routing
    from plural.teams.team import Team

_HOMES = {
    "Cost": "cost",
    "PLAN_SCHEMA": "planner",
    "Planner": "planner",
    "Proxy": "proxy",
    "Router": "router",
    "Routing": "routing",
    "Team": "team",
    "costs": "cost",
    "runs_code": "proxy",
    "work": "network",
}
_ROOMS = ("drafting", "journal", "patterns", "stop")

__all__ = [
    "PLAN_SCHEMA",
    "Cost",
    "Planner",
    "Proxy",
    "Router",
    "Routing",
    "Team",
    "costs",
    "drafting",
    "journal",
    "patterns",
    "runs_code",
    "stop",
    "work",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"plural.teams.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"plural.teams.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

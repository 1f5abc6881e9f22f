"""Who works next. Each pattern is a pure function from what a team has so far to its next decision."""

from __future__ import annotations

from plural.teams.patterns.blend import mixture
from plural.teams.patterns.crowd import debate, map_items, vote
from plural.teams.patterns.graph import Edge, graph
from plural.teams.patterns.ledger import ledger
from plural.teams.patterns.state import Assignment, Decide, Finish, Next, Pattern, Speak, State, Turn
from plural.teams.patterns.talk import handoff, round_robin, selector

__all__ = [
    "Assignment",
    "Decide",
    "Edge",
    "Finish",
    "Next",
    "Pattern",
    "Speak",
    "State",
    "Turn",
    "debate",
    "graph",
    "handoff",
    "ledger",
    "map_items",
    "mixture",
    "round_robin",
    "selector",
    "vote",
]

"""What a run cost, by who spent it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plural.teams.patterns.state import TEAM
from plural.types import Decided, Event, HandedOff, Planned, Routed, StepFinished, Usage

PLANNER = "planner"


@dataclass(frozen=True, slots=True)
class Cost:
    """`money` is in the currency of the prices."""

    usage: Usage = Usage()
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usage + other.usage, self.money + other.money)


def costs(events: Iterable[Event]) -> Mapping[str, Cost]:
    """By agent, who comes first first; "planner" made the plan, "team" is a team's own model. Their sum is what
    `RunFinished` says of the run. What cost nothing is left out."""
    found: dict[str, Cost] = {}
    for event in events:
        match event:
            case StepFinished() | HandedOff():
                who, cost = event.agent, Cost(event.usage, event.money)
            case Planned():
                who, cost = PLANNER, Cost(event.usage)
            case Decided():
                who, cost = event.by, Cost(event.decision.usage, event.money)
            case Routed():
                who, cost = TEAM, Cost(event.decision.usage, event.money)
            case _:
                continue
        if cost != Cost():
            found[who] = found.get(who, Cost()) + cost
    return found

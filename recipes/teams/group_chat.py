"""A dynamic group chat (AutoGen's A5): a model chooses who speaks next, as a decision with its probability.

    python recipes/teams/group_chat.py "Plan a picnic for six."

The speaker can only be a member who may speak. The embedded base chooses among three members, but what they say is a
small model's talk.
"""

from __future__ import annotations

import sys
from typing import Any

from plural.agents import Agent
from plural.teams import Team, stop
from plural.teams.patterns import selector
from plural.types import Routed, StepFinished

ROLES = {
    "planner": "Says what has to be done, in short steps.",
    "doer": "Does the next step and says what came of it.",
    "critic": "Says what is missing or wrong.",
}


def team(model: Any, chooser: Any, *, turns: int = 6) -> Team:
    members = [Agent(name, model, instructions=role, description=role) for name, role in ROLES.items()]
    talk = selector(list(ROLES), may_end=True)
    return Team("group", members, talk, model=chooser, stop=stop.messages(turns) | stop.no_progress(3))


if __name__ == "__main__":
    from plural import Network

    with Network.open(max_tokens=60) as network:
        for event in team(network.base, network.base).events(" ".join(sys.argv[1:]) or "Plan a picnic for six."):
            match event:
                case Routed(decision=decision):
                    print(f"-> {decision.value} ({decision.probability:.2f})")
                case StepFinished(agent=agent, answer=said):
                    print(f"{agent}: {said}")

"""A writer with a safeguard (AutoGen's A4, OptiGuide): code is run only after another one found it safe.

    python recipes/teams/writer_with_safeguard.py "How many seconds are in a week?"

The safeguard says SAFE or DANGER and cannot say anything else; DANGER goes back to the writer, twice. With the
embedded base the safeguard's word is little better than chance: what protects here is that only arithmetic can be run.
"""

from __future__ import annotations

import sys
from typing import Any

from plural.agents import Agent
from plural.agents.toolbox import calculate
from plural.teams import Proxy, Team, runs_code
from plural.teams.patterns import Assignment, Finish, Next, Pattern, Speak, State, Turn

TRIES = 3


def team(writer: Any, safeguard: Any) -> Team:
    members = [
        Agent("writer", writer, instructions="Write one arithmetic expression in a code block, and nothing else."),
        Agent("safeguard", safeguard, instructions="Is it safe to run this code?", output=["SAFE", "DANGER"]),
        Proxy("runner", runs_code(lambda code: str(calculate.invoke({"expression": code.strip()})))),
    ]
    return Team("guarded", members, Pattern("guarded", guarded, ("writer", "safeguard", "runner")))


def guarded(state: State) -> Next:
    """The runner is told only the text that was found safe, never the task."""
    match state.last:
        case Turn(agent="writer", text=text):
            return Speak((Assignment("safeguard", text),))
        case Turn(agent="safeguard", text="SAFE"):
            return Speak((Assignment("runner", state.turns[-2].text),))
        case Turn(agent="runner", text=text):
            return Finish(text)
    if len(state.turns) >= 2 * TRIES:
        return Finish("Nothing was run: it was never found safe.")
    return Speak((Assignment("writer"),))


if __name__ == "__main__":
    from plural import Network

    with Network.open() as network:
        print(team(network.base, network.base).invoke(" ".join(sys.argv[1:]) or "How many seconds are in a week?"))

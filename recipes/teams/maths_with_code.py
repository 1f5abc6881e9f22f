"""Maths with code (AutoGen's A1): one writes Python, the other runs it in a sandbox and says what came of it.

    python recipes/teams/maths_with_code.py "What is the sum of the squares of 1 to 20?"

The chat ends when the solver writes ANSWER. With the embedded base of 135M parameters this shows the conversation, not
mathematics. Its specialist `toolcall` is for that (`plural ask "Multiply 71 by 79."`).
"""

from __future__ import annotations

import sys
from typing import Any

from plural.agents import Agent
from plural.agents.toolbox import sandbox
from plural.teams import Proxy, Team, runs_code, stop
from plural.teams.patterns import round_robin

SOLVER = (
    "Solve the task step by step. To calculate, write a short Python program in a code block, "
    "```python\nprint(12 * (3 + 4))\n```, and wait for what it prints. When you know the answer write: ANSWER and the "
    "number."
)


def team(model: Any) -> Team:
    solver = Agent("solver", model, instructions=SOLVER, description="Solves it, writes programs.")
    runs = runs_code(sandbox(), otherwise="Write a program in a code block, or ANSWER.")
    ends = stop.says("ANSWER", by="solver") | stop.messages(12) | stop.no_progress(4)
    return Team("maths", [solver, Proxy("user", runs, idempotent=True)], round_robin(["solver", "user"]), stop=ends)


if __name__ == "__main__":
    from plural import Network

    with Network.open() as network:
        print(team(network.base).invoke(" ".join(sys.argv[1:]) or "What is the sum of the squares of 1 to 20?"))

"""Maths with code (AutoGen's A1): one writes an expression, the other works it out and says what came of it.

    python recipes/teams/maths_with_code.py "What is 71 times 79, less 5?"

The chat ends when the solver writes ANSWER. With the embedded base of 135M parameters this shows the conversation, not
mathematics. Its specialist `toolcall` is for that (`plural ask "Multiply 71 by 79."`).
"""

from __future__ import annotations

import sys
from typing import Any

from plural.agents import Agent
from plural.agents.toolbox import calculate
from plural.teams import Proxy, Team, runs_code, stop
from plural.teams.patterns import round_robin

SOLVER = (
    "Solve the task step by step. For arithmetic write one expression in a code block, ```\n12 * (3 + 4)\n```, and "
    "wait for its result. When you know the answer write: ANSWER and the number."
)


def team(model: Any) -> Team:
    solver = Agent("solver", model, instructions=SOLVER, description="Solves it, writes expressions.")
    user = Proxy("user", runs_code(work_out, otherwise="Write an expression in a code block, or ANSWER."))
    ends = stop.says("ANSWER", by="solver") | stop.messages(12) | stop.no_progress(4)
    return Team("maths", [solver, user], round_robin(["solver", "user"]), stop=ends)


def work_out(code: str) -> str:
    """What an expression comes to, or what is wrong with it."""
    try:
        return str(calculate.invoke({"expression": code.strip()}))
    except ValueError as error:
        return f"That cannot be worked out: {error}."


if __name__ == "__main__":
    from plural import Network

    with Network.open() as network:
        print(team(network.base).invoke(" ".join(sys.argv[1:]) or "What is 71 times 79, less 5?"))

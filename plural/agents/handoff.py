"""Handing over: a tool whose call ends an agent's work and names who goes on. Whoever reads the events acts on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from plural.agents.marks import mark
from plural.errors import ToolError

if TYPE_CHECKING:
    from plural.agents.agent import Agent


class Handover(BaseModel):
    """What the next one is told."""

    task: str = Field(min_length=1, description="What is left to do, with everything that is needed to know.")


def handoff_to(agent: Agent | str, *, description: str = "") -> BaseTool:
    """The tool by which another agent hands over to this one: its outcome is then a `HandedOff`.

    Args:
        agent: an agent, or only its name.
        description: when to hand over; the agent's own description if left out.

    Raises:
        ToolError: a name of which no tool's name can be made.
    """
    to = agent if isinstance(agent, str) else agent.name
    purpose = description or ("" if isinstance(agent, str) else agent.description)
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", to).strip("_")
    if not label:
        raise ToolError(f"No tool can be named after the agent {to!r}.", hint="Use letters and digits.")

    def hand_over(task: str) -> str:  # noqa: ARG001 - the loop reads it from the call
        return f"{to} goes on."

    made = StructuredTool.from_function(
        func=hand_over,
        name=f"hand_over_to_{label}"[:64],
        description=f"Hands over to {to}. {purpose}".strip(),
        args_schema=Handover,
    )
    return mark(made, handoff=to)

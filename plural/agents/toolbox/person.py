"""Asking a person, who may take as long as it takes: the run waits in its journal."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig

from plural.agents.effects import effects_of
from plural.agents.marks import mark
from plural.agents.tools import tool
from plural.agents.traces import AGENT, STEP
from plural.errors import ToolError
from plural.types import Question


@mark(idempotent=True, retries=0)
@tool
async def ask_person(question: str, config: RunnableConfig) -> str:
    """Ask the person you work for, when only they can know or decide.

    Args:
        question: What you want to know.
    """
    effects = effects_of(config)
    if effects is None:
        raise ToolError("There is nobody to ask: this run has no journal to wait in.")
    about = config.get("metadata") or {}
    return effects.ask("person", Question(int(about.get(STEP, 0)), str(about.get(AGENT, "")), question))

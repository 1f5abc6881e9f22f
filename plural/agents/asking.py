"""An agent whose tool calls wait for approval, in a run that can ask a person: a journaled one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from plural.agents.approval import Approve, Deny, Reviewed, Verdict
from plural.agents.effects import effects_of
from plural.types import Event, Paused, Question, ToolCall

if TYPE_CHECKING:
    from plural.agents.agent import Agent


async def approved(agent: Agent, input: Any, config: RunnableConfig | None, step: int) -> AsyncIterator[Event]:
    """The agent's events. Where the run can ask, a person is asked about calls that wait, and the work goes on with
    what was answered; elsewhere the events end with `Paused`."""
    effects = effects_of(config)
    waits = True
    while waits:
        waits = False
        async for event in agent.events(input, config, step=step):
            if isinstance(event, Paused) and effects is not None:
                asked = [(call, _question(event, call)) for call in event.calls]
                words = {call.id: effects.ask(f"{step}.{agent.name} {call.id}", each) for call, each in asked}
                input, waits = Reviewed(event, {key: verdict(said) for key, said in words.items()}), True
            else:
                yield event


def verdict(said: str) -> Verdict:
    """What a person's words mean: approve, other arguments as JSON; anything else denies and is the reason."""
    word = said.strip()
    if word.casefold() in ("approve", "yes"):
        return Approve()
    if word.startswith("{"):
        try:
            return Approve(json.loads(word))
        except json.JSONDecodeError:
            pass
    head, _, reason = word.partition(":")
    return Deny((reason if head.casefold() == "deny" else word).strip() or "no reason was given")


def _question(paused: Paused, call: ToolCall) -> Question:
    given = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    text = f"May I call {call.name}({given})? Say approve, deny: why, or other arguments as JSON."
    return Question(paused.step, paused.agent, text, call, "approval")

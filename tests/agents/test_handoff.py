"""Handing over to another agent, and what stands around model and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage

from plural.agents import Agent, Middleware, Observation, Turn, handoff_to, mark, tool
from plural.errors import SettingsError, ToolError
from plural.testing import ScriptedModel, calling
from plural.types import HandedOff, ToolCall, ToolReturned, Usage


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def test_a_handover_is_what_the_agent_returns() -> None:
    poet = Agent("poet", ScriptedModel([]), description="Writes poems.")
    model = ScriptedModel([calling(("hand_over_to_poet", {"task": "A poem on rain."}))])
    outcome = Agent("clerk", model, tools=[handoff_to(poet)]).invoke("I want a poem on rain.")
    assert isinstance(outcome, HandedOff)
    assert (outcome.agent, outcome.to, outcome.task) == ("clerk", "poet", "A poem on rain.")
    assert outcome.usage == Usage(prompt=6, completion=1)
    (offered,) = model.asked[0].options["tools"]
    assert offered["function"]["description"] == "Hands over to poet. Writes poems."


async def test_the_other_calls_of_the_turn_are_made_first() -> None:
    model = ScriptedModel([calling(("hand_over_to_poet", {"task": "x"}), ("double", {"number": 2}))])
    agent = Agent("clerk", model, tools=[double, handoff_to("poet")])
    events = [event async for event in agent.events("Go.")]
    results = {event.call.name: event.result for event in events if isinstance(event, ToolReturned)}
    assert results == {"double": "4", "hand_over_to_poet": "poet goes on."}
    assert isinstance(events[-1], HandedOff)


@pytest.mark.parametrize("arguments", [{}, {"task": ""}, {"task": "x", "mood": "y"}])
def test_a_handover_that_says_nothing_is_an_observation(arguments: Any) -> None:
    model = ScriptedModel([calling(("hand_over_to_poet", arguments)), "I do it myself."])
    assert Agent("clerk", model, tools=[handoff_to("poet")]).invoke("Go.") == "I do it myself."
    assert "hand_over_to_poet" in str(model.asked[1].messages[-1].content)


def test_names_of_handovers() -> None:
    made = handoff_to("the poet & singer", description="For verses.")
    assert (made.name, made.description) == (
        "hand_over_to_the_poet_singer",
        "Hands over to the poet & singer. For verses.",
    )
    with pytest.raises(ToolError, match="named after the agent '诗人'"):
        handoff_to("诗人")
    with pytest.raises(SettingsError, match="may end its work without an answer"):
        Agent("clerk", ScriptedModel([]), tools=[handoff_to("poet")]).as_tool()


# ---------------------------------------------------------------------------------------------------------- middleware
class Noted(Middleware):
    """Writes down when it is called."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def before_model(self, turn: Turn) -> Sequence[BaseMessage]:
        self.notes.append(f"{self.name} before {turn.number}")
        return turn.messages

    async def after_model(self, turn: Turn, said: AIMessage) -> AIMessage:
        self.notes.append(f"{self.name} after {turn.number}")
        return said

    async def around_tool(self, call: ToolCall, run: Any) -> Observation:
        self.notes.append(f"{self.name} in")
        observed = await run(call)
        self.notes.append(f"{self.name} out")
        return Observation(*observed)


def test_the_first_given_stands_furthest_out() -> None:
    notes: list[str] = []
    model = ScriptedModel([calling(("double", {"number": 2})), "Done."])
    agent = Agent("clerk", model, tools=[double], middleware=[Noted("a", notes), Noted("b", notes)])
    assert agent.invoke("Go.") == "Done."
    assert notes == [
        "a before 0", "b before 0", "b after 0", "a after 0",
        "a in", "b in", "b out", "a out",
        "a before 1", "b before 1", "b after 1", "a after 1",
    ]  # fmt: skip


def test_middleware_may_change_what_is_read_said_and_done() -> None:
    class Changing(Middleware):
        async def before_model(self, turn: Turn) -> Sequence[BaseMessage]:
            return turn.messages if turn.number else [SystemMessage("Be brief."), *turn.messages]

        async def after_model(self, turn: Turn, said: AIMessage) -> AIMessage:
            return said if said.tool_calls else AIMessage(said.text.upper())

        async def around_tool(self, call: ToolCall, run: Any) -> Observation:
            if call.arguments["number"] < 0:
                return Observation("not below zero", True)
            return Observation(*await run(ToolCall(call.id, call.name, {"number": 10 * call.arguments["number"]})))

    model = ScriptedModel([calling(("double", {"number": 2}), ("double", {"number": -2})), "done"])
    agent = Agent("clerk", model, tools=[double], middleware=[Changing()])
    assert agent.invoke("Go.") == "DONE"
    assert [message.type for message in model.asked[1].messages] == ["system", "human", "ai", "tool", "tool"]
    assert [message.content for message in model.asked[1].messages[-2:]] == ["40", "not below zero"]


def test_middleware_asks_the_agents_model_at_the_runs_expense() -> None:
    class Asking(Middleware):
        async def before_model(self, turn: Turn) -> Sequence[BaseMessage]:
            return [*turn.messages, SystemMessage(await turn.ask([SystemMessage("What is it about?")]))]

    model = ScriptedModel(["Rain.", "Wet."])
    agent = Agent("clerk", model, tools=[double], middleware=[Asking()])
    assert agent.invoke("Go.") == "Wet."
    assert model.asked[0].tools == ()
    assert [message.content for message in model.asked[1].messages] == ["Go.", "Rain."]


async def test_a_time_out_lies_inside_the_middleware() -> None:
    @mark(timeout=0.01)
    @tool
    async def wait() -> str:
        """Wait."""
        import asyncio

        await asyncio.sleep(3600)
        return ""

    class Mending(Middleware):
        async def around_tool(self, call: ToolCall, run: Any) -> Observation:
            return Observation("mended" if (await run(call)).failed else "fine", False)

    model = ScriptedModel([calling(("wait", {})), "Done."])
    assert await Agent("clerk", model, tools=[wait], middleware=[Mending()]).ainvoke("Go.") == "Done."
    assert model.asked[1].messages[-1].content == "mended"

"""Several specialists over one transcript: with what they share first it is computed once. Counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from plural.agents import Agent, tool
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.engine.messages import to_messages
from plural.models.base import Base
from plural.types import AdapterRef, RunFinished, Sampling, Usage

from .tiny import CONFIG, tiny_adapter, tiny_base

PAGE = 16
ROLES = {
    "critic": "You are the critic. Say what is wrong with the plan.",
    "poet": "You write verses about what was planned.",
    "treasurer": "Count what the plan will cost, in euros.",
}
TRANSCRIPT: list[BaseMessage] = [
    HumanMessage("We want to repaint the hall before the spring. What would you do first?"),
    AIMessage("First the stock.", tool_calls=[{"name": "stock", "args": {"item": "paint"}, "id": "1"}]),
    ToolMessage("7 tins of white paint, 2 of blue, no brushes at all", tool_call_id="1", name="stock"),
    AIMessage("There is enough white paint for one coat, but somebody has to buy brushes, at least four of them."),
    HumanMessage("Then let us hear what each of you has to say about it, one after the other, and in few words."),
]


def hired(name: str) -> Any:
    @tool
    def note(line: str) -> str:
        """Note something."""
        return line

    note.description = f"Notes it for the {name}."
    return note


@pytest.fixture(scope="module")
def small() -> Base:
    return tiny_base(replace(CONFIG, max_positions=2048))


def chat_model(base: Base) -> ChatPlural:
    adapters = {name: tiny_adapter(seed, 4, config=base.config) for seed, name in enumerate(ROLES)}
    engine = Engine(base.decoder, base.tokenizer, adapters.__getitem__)
    return ChatPlural(engine=engine, base=base, model_name="tiny", sampling=Sampling(max_tokens=4))


@pytest.fixture
def model(small: Base) -> Iterator[ChatPlural]:
    made = chat_model(small)
    yield made
    made.engine.check()
    made.engine.close()


def specialist(model: ChatPlural, name: str) -> ChatPlural:
    """Activated: what comes before its turn is the base's."""
    opening = model.base.chat.invocation()
    return model.model_copy(update={"adapter": AdapterRef(name), "invocations": {name: opening}, "model_name": name})


async def usages(model: ChatPlural, *, tools: bool, **layout: bool) -> dict[str, Usage]:
    """What each costs when they read the transcript one after the other."""
    found = {}
    for name, instructions in ROLES.items():
        agent = Agent(
            name,
            specialist(model, name),
            instructions=instructions,
            tools=[hired(name)] if tools else [],
            **layout,
        )
        events = [event async for event in agent.events(TRANSCRIPT)]
        assert isinstance(events[-1], RunFinished)
        found[name] = events[-1].usage
    return found


@pytest.mark.parametrize("tools", [False, True])
async def test_what_is_shared_is_computed_once(model: ChatPlural, tools: bool) -> None:
    first, *others = (await usages(model, tools=tools, shared_first=True)).values()
    computed = model.engine.stats().computed
    assert first.cached == 0
    shared = len(model.base.chat.encode(to_messages(TRANSCRIPT))) - len(model.base.chat.invocation())
    for usage in others:
        assert usage.cached >= shared // PAGE * PAGE
        assert usage.prompt - usage.cached < usage.prompt - shared + PAGE
    everything = sum(usage.prompt + usage.completion for usage in (first, *others))
    assert computed <= everything - 2 * (shared // PAGE * PAGE)


@pytest.mark.parametrize("tools", [False, True])
async def test_with_the_instructions_first_nothing_is_shared(model: ChatPlural, tools: bool) -> None:
    found = (await usages(model, tools=tools)).values()
    assert sum(usage.cached for usage in found) < PAGE * len(ROLES)


async def test_it_pays_in_tokens_computed(small: Base) -> None:
    """The figure of docs/agents.md."""
    computed = {}
    for shared_first in (False, True):
        model = chat_model(small)
        await usages(model, tools=False, shared_first=shared_first)
        computed[shared_first] = model.engine.stats().computed
        model.engine.close()
    assert computed[True] * 2 < computed[False]


def test_prompts_differ_only_behind_the_transcript(small: Base) -> None:
    chat, messages = small.chat, to_messages(TRANSCRIPT)
    prompts = [chat.encode(messages, instructions=text, own_last=True) for text in ROLES.values()]
    shared = chat.encode(messages)[: -len(chat.invocation())]
    assert all(prompt[: len(shared)] == shared for prompt in prompts)
    assert len({tuple(prompt[len(shared) :]) for prompt in prompts}) == len(ROLES)

"""LCEL's own parts around the engine's chat model: what they do reaches a real engine, on a tiny base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnableParallel

from plural.agents import Agent
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.errors import ContractError
from plural.types import Grammar

from .tiny import CONFIG, tiny_base

PROMPT = ChatPromptTemplate.from_messages([("human", "Say {what}")])
WORDS = Grammar.choices(["one", "two", "three"])
NUMBER = {
    "title": "number",
    "type": "object",
    "properties": {"number": {"type": "integer", "minimum": 1000, "maximum": 9999}},
    "required": ["number"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> Iterator[ChatPlural]:
    small = tiny_base(replace(CONFIG, max_positions=2048))
    engine = Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings(max_running=16))
    yield ChatPlural(engine=engine, base=small, model_name="tiny", max_tokens=12)
    engine.check()
    engine.close()


def submitted(model: ChatPlural) -> int:
    return model.engine.stats().submitted


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_retry_asks_the_engine_again(model: ChatPlural, how: str) -> None:
    refusals = iter([True, True, False])

    def doubtful(said: AIMessage) -> str:
        if next(refusals):
            raise ContractError("Not like that.")
        return said.text

    chain = (PROMPT | model.bind(grammar=WORDS) | RunnableLambda(doubtful)).with_retry(
        retry_if_exception_type=(ContractError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    before = submitted(model)
    said = await chain.ainvoke({"what": "it"}) if how == "ainvoke" else chain.invoke({"what": "it"})
    assert said in ("one", "two", "three")
    assert submitted(model) - before == 3


async def test_a_fallback_answers_where_the_first_was_cut_off(model: ChatPlural) -> None:
    short, long = (PROMPT | model.with_structured_output(NUMBER, max_tokens=most) for most in (13, 40))
    with pytest.raises(ContractError, match="before it was whole"):
        RunnableParallel(a=short, b=short).invoke({"what": "a number"})
    chain = short.with_fallbacks([long])
    before = submitted(model)
    found = await chain.abatch([{"what": "a number"}, {"what": "another"}])
    assert all(1000 <= each["number"] <= 9999 for each in found)
    assert submitted(model) - before == 4
    assert 1000 <= chain.invoke({"what": "a number"})["number"] <= 9999


def test_an_agent_falls_back_on_another(model: ChatPlural) -> None:
    """The first one's model may write three tokens only: its contract is broken twice."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "boolean"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    first, spare = (Agent(f"for {n}", model.bind(max_tokens=n), output=schema) for n in (3, 40))
    with pytest.raises(ContractError, match="cut off after 3 tokens"):
        first.invoke("Yes or no?")
    assert first.with_fallbacks([spare]).invoke("Yes or no?")["n"] in (True, False)


def test_a_branch_asks_the_one_it_picks(model: ChatPlural) -> None:
    yes, word = (model.bind(grammar=grammar) for grammar in (Grammar.choices(["yes", "no"]), WORDS))
    chain = PROMPT | RunnableBranch((lambda prompt: "sure" in prompt.to_string(), yes), word) | StrOutputParser()
    before = submitted(model)
    sure, other = chain.batch([{"what": "if you are sure"}, {"what": "a number"}])
    assert sure in ("yes", "no")
    assert other in ("one", "two", "three")
    assert submitted(model) - before == 2
    assert "".join(chain.stream({"what": "if you are sure"})) == sure


async def test_the_events_of_a_chain_are_the_engines_tokens(model: ChatPlural) -> None:
    chain = (PROMPT | model | StrOutputParser()).with_config(tags=["mine"], run_name="the chain")
    whole = await chain.ainvoke({"what": "anything"})
    seen: dict[str, list[Any]] = {}
    async for event in chain.astream_events({"what": "anything"}, version="v2"):
        seen.setdefault(event["event"], []).append(event)
    pieces = [event["data"]["chunk"] for event in seen["on_chat_model_stream"]]
    assert len(pieces) == 12
    assert "".join(piece.text for piece in pieces) == whole
    (ended,) = seen["on_chat_model_end"]
    assert ended["data"]["output"].text == whole
    assert ended["data"]["output"].usage_metadata["output_tokens"] == 12
    assert "mine" in ended["tags"]
    assert seen["on_chain_start"][0]["name"] == "the chain"
    assert "".join(e["data"]["chunk"] for e in seen["on_chain_stream"] if e["name"] == "the chain") == whole

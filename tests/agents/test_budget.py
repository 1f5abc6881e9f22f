"""One budget for steps, tokens, seconds and money: how a run ends on it, and how a tree of them is drawn from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableGenerator

from plural.agents import Agent, Budget, Price, Purse, Spent, mark, spending, tool
from plural.errors import LimitError, SettingsError
from plural.testing import ScriptedModel, calling
from plural.types import Event, LimitReached, RunFinished, StepFinished, ToolReturned, Usage


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def doubling(*numbers: int) -> list[Any]:
    return [calling(("double", {"number": number})) for number in numbers]


async def ended(agent: Agent, config: Any = None) -> tuple[list[Event], LimitError | None]:
    events: list[Event] = []
    try:
        async for event in agent.events("Go.", config):
            events.append(event)
    except LimitError as error:
        return events, error
    return events, None


async def test_steps() -> None:
    model = ScriptedModel(doubling(1, 2, 3))
    events, error = await ended(Agent("clerk", model, tools=[double], budget=Budget(steps=2)))
    assert error is not None
    assert (error.limit, error.value) == ("steps", 2)
    assert events[-1] == LimitReached(0, "clerk", "steps", 2)
    assert model.left == 1


async def test_tokens_stop_a_run_after_the_call_that_crossed_the_limit() -> None:
    # The first call reads 1 word and writes 1 call, the second reads the result as well: 2 + 3 tokens.
    model = ScriptedModel(doubling(1, 2, 3))
    events, error = await ended(Agent("clerk", model, tools=[double], budget=Budget(tokens=4)))
    assert error is not None
    assert str(error) == "clerk has used up its tokens: 5 of 4. Give it a larger Budget(tokens=...)."
    assert events[-1] == LimitReached(0, "clerk", "tokens", 4)
    assert model.left == 1


async def test_an_answer_counts_though_it_cost_too_much() -> None:
    events, error = await ended(Agent("clerk", ScriptedModel(["A long answer."]), budget=Budget(tokens=1)))
    assert error is None
    assert isinstance(events[-1], RunFinished)


async def test_money_is_paid_for_tokens_and_for_tools() -> None:
    dear = mark(double, cost=0.25)
    model = ScriptedModel([*doubling(1, 2), "Done."])
    purse = Purse(Budget())
    price = Price(read=1e6, written=2e6)  # 1 a token read, 2 a token written
    agent = Agent("clerk", model, tools=[dear], price=price)
    assert await agent.ainvoke("Go.", spending(purse)) == "Done."
    assert purse.spent.money == (1 + 2) + 0.25 + (2 + 2) + 0.25 + (3 + 2)


async def test_a_call_that_the_money_does_not_reach_for_is_not_made() -> None:
    made: list[int] = []

    @mark(cost=0.6)
    @tool
    def buy(number: int) -> str:
        """Buy so many."""
        made.append(number)
        return "bought"

    model = ScriptedModel([calling(("buy", {"number": 1})), calling(("buy", {"number": 2}))])
    _, error = await ended(Agent("clerk", model, tools=[buy], budget=Budget(money=1.0)))
    assert error is not None
    assert error.limit == "money"
    assert made == [1]


def slow_model(*words: str) -> Any:
    """Says the words and then says nothing for an hour."""

    async def speak(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for word in words:
            yield AIMessageChunk(content=word)
        await asyncio.sleep(3600)

    return RunnableGenerator(speak)


async def test_time_ends_a_run_with_what_was_said() -> None:
    agent = Agent("clerk", slow_model("Half ", "an "), budget=Budget(seconds=0.2))
    events, error = await ended(agent)
    assert error is None
    reached, finished, last = events[-3:]
    assert reached == LimitReached(0, "clerk", "seconds", 0.2)
    assert isinstance(finished, StepFinished)
    assert isinstance(last, RunFinished)
    assert finished.answer == last.answer == "Half an "


async def test_half_an_answer_keeps_no_contract() -> None:
    agent = Agent("clerk", slow_model("ye"), output=["yes", "no"], budget=Budget(seconds=0.2))
    _, error = await ended(agent)
    assert error is not None
    assert error.limit == "seconds"


async def test_time_stops_a_tool() -> None:
    stopped = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()
        return ""

    model = ScriptedModel([calling(("wait", {}), text="Wait.")])
    events, error = await ended(Agent("clerk", model, tools=[wait], budget=Budget(seconds=0.2)))
    assert error is not None
    assert error.limit == "seconds"
    assert stopped.is_set()
    assert not any(isinstance(event, ToolReturned) for event in events)


# ----------------------------------------------------------------------------------------------------------- the tree
def boss_and_sums(budget: Budget) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel([*doubling(1, 2, 3), "Sum."])
    sums = Agent("sums", model, tools=[double], description="Sums.")
    asking = ScriptedModel([calling(("sums", {"input": "1"})), "It is done."])
    return Agent("boss", asking, tools=[sums], budget=budget), model


async def test_an_agent_that_is_a_tool_draws_from_its_caller() -> None:
    boss, inner = boss_and_sums(Budget(steps=3))
    events, error = await ended(boss)
    assert error is not None
    assert str(error).startswith("boss has used up its steps: 3 of 3")
    (returned,) = [event for event in events if isinstance(event, ToolReturned)]
    assert returned.failed
    assert "boss has used up its steps" in returned.result
    assert inner.left == 2


async def test_a_chain_draws_from_the_purse_in_its_config() -> None:
    purse = Purse(Budget(steps=3), "the team")
    chain = Agent("clerk", ScriptedModel(["a", "b", "c", "d"])) | StrOutputParser()
    assert await chain.abatch(["x"] * 3, spending(purse)) == ["a", "b", "c"]
    assert purse.spent.steps == 3
    assert purse.spent.tokens == 6
    with pytest.raises(LimitError, match="the team has used up its steps: 3 of 3"):
        await chain.ainvoke("x", spending(purse))


def test_the_sync_door_pays_too() -> None:
    purse = Purse(Budget(steps=1))
    agent = Agent("clerk", ScriptedModel(["a", "b"]))
    assert agent.invoke("x", spending(purse)) == "a"
    with pytest.raises(LimitError):
        agent.invoke("x", spending(purse))


LIMITS = st.none() | st.integers(1, 9)


@given(limits=st.lists(LIMITS, min_size=1, max_size=4), draws=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3))))
def test_no_purse_of_a_tree_is_ever_overdrawn(limits: list[int | None], draws: list[tuple[int, int]]) -> None:
    line: list[Purse] = []
    for limit in limits:
        line.append(Purse(Budget(steps=limit), parent=line[-1] if line else None))
    for at, steps in draws:
        purse = line[at % len(line)]
        above = line[: at % len(line) + 1]
        before = [each.spent.steps for each in line]
        fits = all(each.budget.steps is None or each.spent.steps + steps <= each.budget.steps for each in above)
        if fits:
            purse.draw(steps=steps)
        else:
            with pytest.raises(LimitError):
                purse.draw(steps=steps)
        paid = steps if fits else 0
        expected = [had + paid * (each in above) for had, each in zip(before, line, strict=True)]
        assert [each.spent.steps for each in line] == expected


def test_what_was_spent_before_counts() -> None:
    purse = Purse(Budget(steps=3, seconds=5), spent=Spent(steps=2, seconds=4))
    purse.draw(steps=1)
    with pytest.raises(LimitError, match="3 of 3"):
        purse.draw(steps=1)
    assert purse.spent.seconds >= 4


def test_prices() -> None:
    usage = Usage(prompt=1_000_000, completion=500_000, cached=400_000)
    assert Price(read=2, written=10).of(usage) == 2 + 5
    assert Price(read=2, written=10, cached=0.5).of(usage) == pytest.approx(1.2 + 0.2 + 5)


@pytest.mark.parametrize("limits", [{"steps": 0}, {"tokens": -1}, {"seconds": 0.0}, {"money": float("nan")}])
def test_a_budget_that_cannot_be(limits: Any) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(limits))} of a budget is"):
        Budget(**limits)

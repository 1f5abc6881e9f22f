"""What runs cost, by who spent it, and budgets of whole networks, teams and drafts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from plural.agents import Agent, Budget, Price, Purse, mark, spending, tool
from plural.errors import ContractError, LimitError, PlanError
from plural.teams import Cost, Planner, Team, costs, stop, work
from plural.teams.drafting import Draft, Missing, Staff, Ways, draft, draft_by_specialist
from plural.teams.insisting import TRIES
from plural.teams.journal import Journal, begin, replay, resume
from plural.teams.patterns import debate, round_robin, selector, vote
from plural.testing import ScriptedModel, calling
from plural.types import Decision, Event, LimitReached, RunFinished, StepFinished, Usage
from tests.teams.test_network import ROUTER, LabelEmbedder, plan_of

PRICE = Price(read=1e6, written=3e6)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


async def all_of(events: AsyncIterable[Any]) -> list[Any]:
    return [event async for event in events]


def priced(name: str, *replies: Any, **options: Any) -> Agent:
    return Agent(name, ScriptedModel(replies), price=PRICE, **options)


def total(events: list[Event]) -> tuple[Cost, Cost]:
    """By its parts, and as the run says itself."""
    last = events[-1]
    assert isinstance(last, RunFinished)
    return sum(costs(events).values(), Cost()), Cost(last.usage, last.money)


@mark(cost=0.5)
@tool
def look(page: int) -> str:
    """Look at a page."""
    return f"page {page}"


def lost(name: str) -> Agent:
    """Spends a call and a tool, and then reaches its limit without an answer."""
    calls = [calling(("look", {"page": number})) for number in range(3)]
    return priced(name, *calls, tools=[look], budget=Budget(steps=2))


def office(*, outer: list[Any]) -> Team:
    """Agents with prices, one of them with another as its tool, a team, one that reaches its limit, decisions."""

    def sends(messages: Any) -> Any:
        said = messages[-1]
        return "Sent." if said.type == "tool" else calling(("helper", {"input": "Help me."}))

    helper = priced("helper", "I help you.")
    chief = priced("chief", *[sends] * 2, tools=[helper])
    inner = Team("inner", [priced("x", "An x."), priced("y", "A y.")], debate(["x", "y"], rounds=1))
    chooser = ScriptedModel(outer)
    names = ["chief", "lost", "inner"]
    return Team(
        "office",
        [chief, lost("lost"), inner],
        selector(names, repeat=True),
        model=chooser,
        price=PRICE,
        stop=stop.messages(3),
    )


async def test_what_agents_cost_is_what_the_run_costs(journal: Journal) -> None:
    events = await all_of(begin(journal, office(outer=["chief", "lost", "inner"]), "Work hard."))
    parts, whole = total(events)
    assert parts.usage == whole.usage
    assert parts.money == pytest.approx(whole.money)
    by = costs(events)
    assert set(by) == {"team", "chief", "lost", "inner"}
    # lost was asked twice, and its tool called twice, before its third call was refused.
    failed = next(event for event in events if isinstance(event, StepFinished) and event.failed)
    assert failed.agent == "lost"
    assert failed.usage.completion == 2
    assert failed.money == pytest.approx(PRICE.of(failed.usage) + 2 * 0.5)
    # The helper, who is a tool, is in what chief cost: a call, three words of its own, a word.
    chief = next(event for event in events if isinstance(event, StepFinished) and event.agent == "chief")
    assert chief.usage.completion == 1 + 3 + 1
    run = journal.runs()[0].id
    assert await all_of(replay(journal, run)) == events


async def test_what_was_finished_inside_of_a_tool_is_paid_for_when_a_run_goes_on(journal: Journal) -> None:
    """Its agents are not asked again, but a run that is resumed has spent what it had spent."""

    def chief() -> Agent:
        def sends(messages: Any) -> Any:
            said = messages[-1]
            return "Sent." if said.type == "tool" else calling(("helper", {"input": "Help me."}))

        helper = priced("helper", *[lambda _: "I help you."] * 2)
        return priced("chief", *[sends] * 2, tools=[helper])

    events = await all_of(begin(journal, chief(), "Go."))
    run = journal.runs()[0].id
    for at in range(1, journal.find(run).entries - 1):
        again = await all_of(resume(journal, journal.fork(run, at), chief()))
        assert again[-1].usage == events[-1].usage
        assert again[-1].money == events[-1].money
    assert events[-1].usage.completion == 1 + 3 + 1
    replayed = await all_of(replay(journal, run, chief()))
    assert replayed == events


async def test_the_same_of_a_network() -> None:
    members = {"base": priced("base", "a"), "cron": lost("cron"), "home": priced("home", "b c d")}
    events = await network(members, plan=plan_of("cron", "home", "base"))
    parts, whole = total(events)
    assert parts.usage == whole.usage
    assert parts.money == pytest.approx(whole.money)
    assert set(costs(events)) == {"planner", "cron", "home", "base"}
    assert costs(events)["cron"].money > 1.0


async def network(members: dict[str, Agent], request: str = "planner", plan: str = "", **more: Any) -> list[Any]:
    planner = Planner(ScriptedModel([plan] if plan else []))
    running = work(request, router=ROUTER, planners=[planner], agents=members, embedder=LabelEmbedder(), **more)
    return await all_of(running)


# ------------------------------------------------------------------------------------------------- a network's budget
def plain(**replies: list[Any]) -> dict[str, Agent]:
    return {name: Agent(name, ScriptedModel(replies.get(name, []))) for name in ("base", "cron", "home")}


async def test_a_network_stops_with_what_it_has() -> None:
    """One step for the plan, one for the first agent."""
    members = plain(cron=["seven"], home=["lamp"])
    events = await network(members, plan=plan_of("cron", "home #1"), budget=Budget(steps=2))
    finished = [event for event in events if isinstance(event, StepFinished)]
    assert [(event.answer, event.failed) for event in finished[:1]] == [("seven", False)]
    assert "the network has used up its steps: 2 of 2" in finished[1].answer
    assert [event.limit for event in events if isinstance(event, LimitReached)] == ["steps"]
    assert isinstance(events[-1], RunFinished)
    assert members["home"].model.left == 1  # type: ignore[attr-defined]


async def test_tokens_of_the_plan_count() -> None:
    plan = plan_of("cron")
    events = await network(plain(cron=["seven"]), plan=plan, budget=Budget(tokens=len(plan.split())))
    assert "used up its tokens" in events[-1].answer


async def test_answers_that_are_no_plan_are_paid_for() -> None:
    """Nothing came of them, so nothing was paid: who failed again and again stayed within any budget."""
    purse, useless = Purse(Budget(), "the caller"), "I would do one thing, then another."
    planner = Planner(ScriptedModel([useless] * TRIES), price=Price(written=1e6))
    running = work(
        "planner",
        router=ROUTER,
        planners=[planner],
        agents=plain(),
        embedder=LabelEmbedder(),
        config=spending(purse),
    )
    with pytest.raises(PlanError, match="asked 3 times for a plan"):
        await all_of(running)
    assert purse.used.completion == TRIES * len(useless.split())
    assert purse.spent.money == purse.used.completion


async def test_a_purse_above_the_network_is_drawn_from() -> None:
    purse = Purse(Budget(steps=5), "the caller")
    await network(plain(cron=["seven"]), plan=plan_of("cron"), config=spending(purse))
    assert purse.spent.steps == 2
    assert purse.used.completion == len(plan_of("cron").split()) + 1


def slow(*_: Any) -> Any:
    async def speak(_: Any) -> Any:
        await asyncio.sleep(3600)
        yield AIMessageChunk(content="late")

    return RunnableGenerator(speak)


async def test_time_ends_a_plan_and_says_so() -> None:
    seen: list[Any] = []
    planner = Planner(slow())
    running = work(
        "planner",
        router=ROUTER,
        planners=[planner],
        agents=plain(),
        embedder=LabelEmbedder(),
        budget=Budget(seconds=0.05),
    )

    async def listen() -> None:
        async for event in running:
            seen.append(event)

    with pytest.raises(LimitError, match="the network has used up its seconds"):
        await listen()
    assert isinstance(seen[-1], LimitReached)


async def test_a_network_whose_members_are_slow_stops_in_time() -> None:
    members = {**plain(home=["lamp"]), "cron": Agent("cron", slow())}
    events = await network(members, plan=plan_of("cron", "home"), budget=Budget(seconds=0.2))
    ended = {event.agent: event for event in events if isinstance(event, StepFinished)}
    assert ended["cron"].failed
    assert "the network has used up its seconds" in events[-1].answer


# ---------------------------------------------------------------------------------------------------- a team's budget
class SlowChooser(ScriptedModel):
    async def achoose(self, messages: Any, options: Any) -> Decision[str]:
        await asyncio.sleep(3600)
        raise AssertionError(messages, options)


async def test_time_ends_a_team_that_decides_for_ever() -> None:
    team = Team(
        "desk",
        [Agent("a", ScriptedModel(["An a."])), Agent("b", SlowChooser([]))],
        selector(["a", "b"]),
        model=SlowChooser([]),
        budget=Budget(seconds=0.05),
    )
    events = await all_of(team.events("Go."))
    assert [event.limit for event in events if isinstance(event, LimitReached)] == ["seconds"]
    assert events[-1].answer == ""


async def test_money_of_decisions_ends_a_run() -> None:
    voters = [Agent(name, ScriptedModel(["yes"] * 3), price=PRICE) for name in ("a", "b")]
    team = Team("poll", voters, vote(["a", "b"], options=["yes", "no"]))
    events = await all_of(team.events("Shall we?"))
    assert set(costs(events)) == {"a", "b"}
    parts, whole = total(events)
    assert parts == whole
    assert whole.money > 0


def test_the_condition_of_money_counts_decisions_and_what_was_cached() -> None:
    from plural.teams.patterns import State, Turn

    cheap = Price(read=1e6, written=1e6, cached=1e5)
    turn = Turn(1, "a", "Hm.", usage=Usage(10, 5, 10))  # all of it from the cache: 1 + 5
    decided = ("speaker", Decision("a", 1.0, usage=Usage(3, 1, 0)))
    state = State("t", {}, (turn,)).and_decided([decided])
    assert stop.money(6.0, {"a": cheap}).why(state)
    assert not stop.money(6.1, {"a": cheap}).why(state)
    assert stop.money(10.0, {"a": cheap, "team": cheap}).why(state)
    assert not stop.money(10.1, {"a": cheap, "team": cheap}).why(state)


async def test_the_condition_of_money_knows_what_the_run_has_spent() -> None:
    talker = priced("talker", *["More words."] * 9)
    team = Team("talk", [talker], round_robin(["talker"]), stop=stop.money(20.0))
    events = await all_of(team.events("Talk."))
    spent = [event.money for event in events if isinstance(event, StepFinished)]
    assert sum(spent) >= 20.0 > sum(spent[:-1])


# ---------------------------------------------------------------------------------------------------- a draft's budget
def team_said() -> str:
    agent = {"name": "poet", "description": "d", "prompt": "p", "tools": [], "suggestions": "s", "specialist": "base"}
    return json.dumps({"agents": [agent]})


def plan_said(task: str) -> str:
    return json.dumps({"steps": [{"task": task, "agents": ["poet"], "inputs": [], "expects": "e"}]})


def verdict(good: bool) -> str:
    return json.dumps({"reason": "r", "good": good, "suggestions": "Better."})


async def test_a_draft_that_is_paid_for_stands_when_there_is_no_more() -> None:
    """Four decisions a round: the second round's plan is one too many."""
    replies = [team_said(), plan_said("one"), verdict(False), verdict(True), team_said(), plan_said("two")]
    purse = Purse(Budget(steps=5), "drafting")
    events = await all_of(draft("A line.", Staff(ScriptedModel(replies)), config=spending(purse)))
    *_, reached, made = events
    assert reached == LimitReached(2, "planner", "steps", 5)
    assert isinstance(made, Draft)
    assert [step.task for step in made.steps] == ["one"]
    assert made.unsettled == (
        "agent observer: Better.",
        "The budget's steps were used up before everybody was content.",
    )
    assert purse.used.completion > 0


async def test_a_draft_without_a_plan_is_none() -> None:
    with pytest.raises(LimitError, match="drafting has used up its steps: 1 of 1"):
        await all_of(
            draft("A line.", Staff(ScriptedModel([team_said()])), config=spending(Purse(Budget(steps=1), "drafting")))
        )


async def test_the_planner_specialist_is_paid_too() -> None:
    async def route(task: str) -> Decision[str]:
        return Decision("planner" if task == "both" else "cron", 1.0)

    staff = Staff(ScriptedModel([]), {"cron": "schedules"}, None, {}, route)
    purse = Purse(Budget(), "drafting")
    planner = Planner(ScriptedModel([plan_of("one", "two")] * 2), price=Price(written=1e6))
    made = (await all_of(draft_by_specialist("both", staff, [planner], config=spending(purse))))[-1]
    assert not isinstance(made, Missing)
    assert purse.spent.steps == 1
    assert purse.spent.money == purse.used.completion > 0
    poor = Purse(Budget(tokens=1), "drafting")
    poor.pay(usage=Usage(1))
    with pytest.raises(LimitError, match="drafting has used up its tokens"):
        await all_of(draft_by_specialist("both", staff, [planner], config=spending(poor)))


@pytest.mark.parametrize("last", [team_said(), "Nor shall I now."])
async def test_every_try_of_a_decision_is_paid_for(last: str) -> None:
    """Of a decision that came at the third try only the third was paid for."""
    said = ["A poet, I think.", team_said().replace("base", "muse"), last, plan_said("one")]
    purse = Purse(Budget(), "drafting")
    model = ScriptedModel(said) | RunnableLambda(lambda one: one)  # which no grammar holds
    staff = Staff(model, {"cron": "schedules"}, price=Price(written=1e6))
    drafting = draft("A line.", staff, ways=Ways(observers=False), config=spending(purse))
    if last == team_said():
        assert isinstance((await all_of(drafting))[-1], Draft)
        paid = said
    else:
        with pytest.raises(ContractError, match="asked 3 times"):
            await all_of(drafting)
        paid = said[:3]
    assert purse.used.completion == sum(len(text.split()) for text in paid)
    assert purse.spent.money == purse.used.completion

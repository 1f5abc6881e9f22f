"""Several adapters on one request: who is in the mixture, what it is called, and who pays for that decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plural.agents import Agent, Budget, Price
from plural.errors import PlanError, SettingsError
from plural.teams import Router, Routing, Team
from plural.teams.journal import Journal, begin, resume
from plural.teams.patterns import mixture, selector, vote
from plural.testing import ScriptedEmbedder, ScriptedModel
from plural.types import Decided, Event, LimitReached, Routed, RunFinished, StepStarted

EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off"],
    "base": ["who wrote faust", "what is a whale", "tell me a story", "why is the sky blue"],
}


def agent(name: str, *replies: Any, **options: Any) -> Agent:
    return Agent(name, ScriptedModel(replies), **options)


async def routing() -> Routing:
    embedder = ScriptedEmbedder()
    return Routing(Router.fit({label: await embedder.aembed(texts) for label, texts in EXAMPLES.items()}), embedder)


def crew(**options: Any) -> Team:
    members = [agent("cron", "0 12 * * *"), agent("home", "light on")]
    return Team("both", members, blend=lambda name: agent(name, f"I am {name}"), **options)


async def test_the_router_says_what_a_mixture_is_made_of() -> None:
    team = crew(pattern=mixture(["cron", "home"], least=0.0), model=await routing())
    events = [event async for event in team.events("turn on the light every monday")]
    [decided] = [event.decision for event in events if isinstance(event, Decided)]
    assert sum(option.probability for option in decided.options) == pytest.approx(1)
    assert {option.value for option in decided.options} == {"cron", "home"}
    weights = "+".join(f"{option.value}:{option.probability:.3g}" for option in decided.options)
    [started] = [event for event in events if isinstance(event, StepStarted)]
    assert started.agent == weights
    assert events[-1].answer == f"I am {weights}"  # type: ignore[union-attr]


async def test_who_is_all_but_sure_answers_alone() -> None:
    team = crew(pattern=mixture(["cron", "home"], least=0.5), model=await routing())
    assert await team.ainvoke("turn off the kitchen light") == "light on"


def test_weights_that_are_given() -> None:
    assert crew(pattern=mixture(["cron", "home"], weights={"home": 1, "cron": 0.25})).invoke("Now.") == (
        "I am home:1+cron:0.25"
    )


async def test_a_resumed_run_has_the_same_mixture(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        team = crew(pattern=mixture(["cron", "home"], least=0.0), model=await routing())
        events = [event async for event in begin(journal, team, "turn on the light every monday")]
        nobody = crew(pattern=mixture(["cron", "home"], least=0.0), model=ScriptedModel([]))
        assert [event async for event in resume(journal, journal.runs()[0].id, nobody)] == events


async def test_a_router_lets_members_speak_in_turn() -> None:
    members = [agent("cron", "Noon."), agent("home", "Off.")]
    team = Team("inn", members, selector(["cron", "home"]), model=await routing(), max_turns=2)
    events = [event async for event in team.events("turn off the kitchen light")]
    assert [(event.decision.value, event.decision.by) for event in events if isinstance(event, Routed)] == [
        ("home", "router")
    ]
    assert [event.agent for event in events if isinstance(event, StepStarted)] == ["home", "cron"]


async def test_mixtures_that_cannot_be_made() -> None:
    with pytest.raises(SettingsError, match="blend"):
        Team("both", [agent("a"), agent("b")], mixture(["a", "b"], weights={"a": 1, "b": 1}))
    with pytest.raises(SettingsError, match="needs a model"):
        crew(pattern=mixture(["cron", "home"]))
    with pytest.raises(PlanError, match="'x', who is no member"):
        mixture(["a", "b"], weights={"x": 1})
    with pytest.raises(SettingsError, match="must be positive"):
        mixture(["a", "b"], weights={"a": 0})
    with pytest.raises(SettingsError, match="most is 0"):
        mixture(["a", "b"], most=0)
    with pytest.raises(SettingsError, match="does not know 'plumber'"):
        await (await routing()).achoose("light", ["plumber", "home"])


# ------------------------------------------------------------------------------------------------- decisions are paid
def inn(chooser: ScriptedModel, **options: Any) -> Team:
    members = [agent("cook", *["Soup."] * 9), agent("waiter", *["Served."] * 9)]
    return Team("inn", members, selector(["cook", "waiter"], repeat=True), model=chooser, **options)


async def ended(team: Team, **given: Any) -> tuple[LimitReached, RunFinished, int]:
    events: list[Event] = [event async for event in team.events("Lunch.", **given)]
    limit, finished = events[-2:]
    assert isinstance(limit, LimitReached)
    assert isinstance(finished, RunFinished)
    return limit, finished, sum(isinstance(event, StepStarted) for event in events)


async def test_who_speaks_next_is_a_step_of_the_teams_budget() -> None:
    limit, finished, turns = await ended(inn(ScriptedModel(["cook", "waiter"] * 4), budget=Budget(steps=4)))
    assert (limit.limit, turns) == ("steps", 2)
    assert finished.answer == "Served."


async def test_tokens_and_money_of_decisions_count() -> None:
    chooser = ScriptedModel(["cook", "waiter"] * 4)
    free = [event async for event in inn(chooser, max_turns=2).events("Lunch.")][-1]
    assert isinstance(free, RunFinished)
    spoken = sum(len(each.messages[-1].text.split()) for each in chooser.asked)
    assert free.usage.prompt > spoken > 0
    first = sum(len(each.text.split()) for each in chooser.asked[0].messages)
    once = Budget(money=10 * (first + 1) / 1e6)
    limit, _, turns = await ended(inn(ScriptedModel(["cook", "waiter"] * 4), budget=once, price=Price(read=10)))
    assert (limit.limit, turns) == ("money", 1)


async def test_votes_are_paid_at_the_members_own_price() -> None:
    voters = [agent(name, "yes", price=Price(read=1e6)) for name in ("a", "b")]
    team = Team("jury", voters, vote(["a", "b"], options=["yes", "no"]), budget=Budget(money=1.0))
    limit, finished, _ = await ended(team)
    assert limit.limit == "money"
    assert finished.usage.prompt > 0


async def test_a_resumed_run_pays_for_what_it_decided_before(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        team = inn(ScriptedModel(["cook", "waiter"] * 4), budget=Budget(steps=4))
        events = [event async for event in begin(journal, team, "Lunch.")]
        again = inn(ScriptedModel([]), budget=Budget(steps=4))
        assert [event async for event in resume(journal, journal.runs()[0].id, again)] == events

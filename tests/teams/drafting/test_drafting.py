"""Drafting by a chat model: planner and observers in rounds, what they may not say, who suits whom."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from plural.agents import Agent
from plural.agents.toolbox import TOOLS
from plural.errors import ContractError, PromptError
from plural.teams.drafting import Draft, Missing, Sizes, Staff, Ways, draft
from plural.testing import ScriptedModel
from plural.types import Decided, Decision, Option

GOOD = {"reason": "All is there.", "good": True, "suggestions": "None."}


def agent(name: str, **fields: Any) -> dict[str, Any]:
    given = {"description": f"does {name}'s part", "prompt": "Be exact.", "tools": [], "suggestions": "Be brief."}
    return {"name": name, **given, "specialist": "base", **fields}


def team(*agents: dict[str, Any]) -> str:
    return json.dumps({"agents": list(agents)})


def step(task: str, *agents: str, inputs: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"task": task, "agents": list(agents), "inputs": list(inputs), "expects": "a line"}


def plan(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": list(steps)})


def verdict(suggestions: str = "") -> str:
    return json.dumps(GOOD | ({"good": False, "suggestions": suggestions} if suggestions else {}))


def staff(model: Runnable[Any, Any], *specialists: str, route: Callable[[str], str] | None = None) -> Staff:
    async def routed(task: str) -> Decision[str]:
        assert route is not None
        return Decision(route(task), 0.9, (Option(route(task), 0.9),))

    purposes = {name: f"{name}'s purpose" for name in specialists}
    return Staff(model, purposes, lambda name: Agent(name, ScriptedModel([])), TOOLS, routed if route else None)


async def made(task: str, staff: Staff, **options: Any) -> tuple[list[Decided], Draft | Missing]:
    *way, last = [each async for each in draft(task, staff, **options)]
    assert isinstance(last, Draft | Missing)
    return [each for each in way if isinstance(each, Decided)], last


async def test_observers_are_heard_until_nothing_has_to_be_changed() -> None:
    first = [team(agent("poet")), plan(step("Write.", "poet")), verdict("Somebody has to check it."), verdict()]
    second = [
        team(agent("poet"), agent("critic", tools=["calculate"])),
        plan(step("Write.", "poet"), step("Make it better.", "poet", "critic", inputs=(1,))),
        verdict(),
        verdict(),
    ]
    model = ScriptedModel([*first, *second])
    way, drafted = await made("A verse on tea.", staff(model))
    assert [(each.step, each.by, each.about) for each in way[:4]] == [
        (1, "planner", "team"),
        (1, "planner", "plan"),
        (1, "agent observer", "verdict"),
        (1, "plan observer", "verdict"),
    ]
    assert isinstance(drafted, Draft)
    assert [each.name for each in drafted.agents] == ["poet", "critic"]
    assert [each.together for each in drafted.steps] == [False, True]
    assert drafted.agents[1].tools == ("calculate",)
    assert drafted.unsettled == ()
    told = str(model.asked[4].messages[-1].content)
    assert "agent observer: Somebody has to check it." in told
    assert "1. poet: Write." in told
    assert model.left == 0


async def test_observers_that_are_never_content_are_stopped_by_the_rounds() -> None:
    every = [team(agent("poet")), plan(step("Write.", "poet")), verdict("More agents!"), verdict()]
    model = ScriptedModel(every * 2)
    _, drafted = await made("A verse.", staff(model), ways=Ways(rounds=2))
    assert isinstance(drafted, Draft)
    assert drafted.unsettled == ("agent observer: More agents!",)
    assert model.left == 0


async def test_without_observers_there_is_one_round() -> None:
    model = ScriptedModel([team(agent("poet")), plan(step("Write.", "poet"))])
    way, _ = await made("A verse.", staff(model), ways=Ways(observers=False))
    assert [each.by for each in way] == ["planner", "planner"]


async def test_a_planner_that_asks_for_agents_for_ever_is_stopped() -> None:
    crowd = team(*(agent(f"a{number}") for number in range(50)))
    model = ScriptedModel([crowd] * 3)
    with pytest.raises(ContractError, match=r"asked 3 times.*has 50 items, more than 2"):
        await made("A verse.", staff(model), sizes=Sizes(agents=2))
    assert "more than 2" in str(model.asked[1].messages[-1].content)


async def test_what_cannot_be_used_is_asked_for_again() -> None:
    scripted = ScriptedModel(
        [
            "I would take a poet and a critic.",
            team(agent("poet", tools=["telescope"])),
            team(agent("poet"), agent("poet")),
            plan(step("Write.", "critic")),
            plan(step("Write.", "poet", inputs=(2,)), step("Write more.", "poet_2")),
            plan(step("Write.", "poet"), step("Write more.", "poet_2", inputs=(1,))),
        ]
    )
    model = scripted | RunnableLambda(lambda said: said)  # which nothing holds to a grammar
    _, drafted = await made("A verse.", staff(model), ways=Ways(observers=False))
    assert isinstance(drafted, Draft)
    assert [each.name for each in drafted.agents] == ["poet", "poet_2"]
    told = [str(asked.messages[-2].content) for asked in scripted.asked]
    assert "not JSON" in told[1]
    assert '"telescope" is none of' in told[2]
    assert '"critic" is none of' in told[4]
    assert "Step 1 builds on step 2" in told[5]


async def test_who_suits_is_found_by_router_and_by_card() -> None:
    agents = [
        agent("clock", specialist="base"),
        agent("helper", specialist="sums"),
        agent("judge", specialist="sums"),
        agent("poet"),
    ]
    steps = [step("Every day at 8.", "clock"), step("Add it up.", "helper"), step("Agree.", "judge", "poet")]
    model = ScriptedModel([team(*agents), plan(*steps)])
    route = {"Every day at 8.": "cron"}
    hired = staff(model, "cron", "sums", route=lambda task: route.get(task, "base"))
    _, drafted = await made("Plan my day.", hired, ways=Ways(observers=False))
    assert isinstance(drafted, Draft)
    assert [(each.specialist, each.found) for each in drafted.agents] == [
        ("cron", "by the router, 0.90"),
        ("sums", "by its card"),
        ("base", ""),  # it talks with others
        ("base", ""),
    ]


async def test_a_planner_may_say_which_skill_is_missing() -> None:
    said = json.dumps({"missing": "reads X-rays", "why": "Nobody is a doctor."})
    way, lacking = await made("Look at this.", staff(ScriptedModel([said]), "cron"))
    assert lacking == Missing("reads X-rays", "Nobody is a doctor.", "Look at this.")
    assert [each.about for each in way] == ["team"]
    model = ScriptedModel([said, team(agent("doctor")), plan(step("Look.", "doctor"))])
    _, drafted = await made("Look at this.", staff(model, "cron"), ways=Ways(observers=False), may_lack=False)
    assert isinstance(drafted, Draft)


async def test_what_is_known_from_before_is_read_and_kept() -> None:
    model = ScriptedModel([team(agent("poet")), plan(step("Write.", "poet"))])
    _, drafted = await made("A verse.", staff(model), ways=Ways(observers=False), known=["Ann likes tea."])
    assert isinstance(drafted, Draft)
    assert drafted.known == ("Ann likes tea.",)
    assert "- Ann likes tea." in str(model.asked[0].messages[-1].content)


async def test_an_empty_task_is_refused() -> None:
    with pytest.raises(PromptError, match="task is empty"):
        await made("  ", staff(ScriptedModel([])))

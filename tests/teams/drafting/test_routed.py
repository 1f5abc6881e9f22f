"""A draft from the planner specialist's plan and the router."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plural.agents import Agent
from plural.errors import PromptError
from plural.teams import Planner
from plural.teams.drafting import Draft, Missing, Staff, draft_by_specialist, team_of
from plural.teams.drafting.routed import PLAIN
from plural.testing import ScriptedModel
from plural.types import Decision, Option, Planned, Routed

SUITS = {"both": "planner", "When?": "cron", "Plan it.": "planner", "Run at #1": "cron"}


def staff(*said: str) -> Staff:
    async def route(task: str) -> Decision[str]:
        """The planner, the base or cron, each time with cron second."""
        best = SUITS.get(task, "base")
        options = [Option(best, 0.7), *(Option(each, 0.1) for each in ("cron", "base", "planner") if each != best)]
        return Decision(best, 0.7, tuple(options))

    hired = ScriptedModel(said)
    return Staff(ScriptedModel([]), {"cron": "schedules"}, lambda name: Agent(name, hired), {}, route)


async def made(task: str, plan: list[str], staff: Staff, **options: Any) -> list[Any]:
    planner = Planner(ScriptedModel([json.dumps({"steps": [{"task": each} for each in plan]})]))
    return [each async for each in draft_by_specialist(task, staff, [planner], **options)]


async def test_a_plan_whose_steps_are_routed_is_a_team() -> None:
    hired = staff("30 7 * * *", "tomorrow")
    *way, draft = await made("both", ["When?", "Run at #1"], hired)
    assert [type(each) for each in way] == [Routed, Planned, Routed, Routed]
    assert isinstance(draft, Draft)
    assert [(each.name, each.specialist, each.found) for each in draft.agents] == [
        ("cron", "cron", "by the router, 0.70")
    ]
    assert draft.steps[1].inputs == (1,)
    assert draft.ways == PLAIN
    assert team_of(draft, hired).invoke("both") == "tomorrow"


async def test_a_step_is_not_planned_once_more() -> None:
    draft = (await made("both", ["Plan it."], staff()))[-1]
    assert [each.specialist for each in draft.agents] == ["cron"]


async def test_a_step_that_suits_nobody_is_the_missing_skill() -> None:
    lacking = (await made("both", ["When?", "Sing."], staff()))[-1]
    assert lacking == Missing(
        "Sing.", "The router gives it to nobody; the nearest: cron (0.10) or planner (0.10).", "both"
    )
    draft = (await made("both", ["When?", "Sing."], staff(), may_lack=False))[-1]
    assert [each.specialist for each in draft.agents] == ["cron", "base"]


async def test_a_simple_task_has_one_step() -> None:
    assert len((await made("When?", [], staff()))[-1].steps) == 1
    with pytest.raises(PromptError, match="task is empty"):
        await made(" ", [], staff())

"""The starter library as it is committed: whole, small, of the embedded base, and better than it on held-out rows."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from plural.evals import Fingerprint, Task
from plural.models.base import find_base
from plural.specialists import Library, Specialist
from plural.teams import Planner
from plural.teams.drafting import Draft, read_team, write_team
from plural.types import RunFinished, Score
from plural.wiring import drafting, publishing
from plural.wiring.network import Network
from plural.wiring.recipe import read_recipe, to_first_answer
from plural.wiring.scoring import own_exam
from plural.wiring.settings import STARTER

LIBRARY = Library(STARTER)


def between(score: Score) -> tuple[float, float]:
    """Wilson's 95 percent interval of a share."""
    z, n, p = 1.96, score.n, score.value
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


@pytest.mark.parametrize("name", LIBRARY.names())
def test_a_starter_specialist_is_whole_and_much_better_than_the_base(name: str) -> None:
    specialist = LIBRARY.get(name)
    specialist.verify()
    card = specialist.card
    assert card.base_name == find_base().name
    assert card.licence != "unspecified"
    assert card.lineage.command.split(" --")[0] == f"plural school {name}"
    assert len(card.scores["base"]) == len(card.scores["specialist"])  # test by test
    base, own = card.scores["base"][0], card.scores["specialist"][0]
    assert between(base)[1] < between(own)[0], f"base {base.value:.3f}, {name} {own.value:.3f} (n = {own.n})"


@pytest.mark.parametrize("name", LIBRARY.names())
def test_a_starter_specialist_can_be_scored_again(name: str) -> None:
    specialist = LIBRARY.get(name)
    card, exam = specialist.card, own_exam(specialist)
    assert card.evidence is not None
    assert len(exam.task.rows) == card.evidence.rows == (20 if card.tools else 40)
    assert set(card.evidence.files) >= {"heldout.jsonl"}
    assert (exam.task.checker, exam.on) == (card.scores["specialist"][0].metric, "")
    (free,) = card.scores["free"]
    gap = next(one for one in card.differences if one.what == "grammar - free")
    assert (free.n, gap.n) == (card.evidence.rows, card.evidence.rows)
    asked = {row.asked for row in exam.task.rows}
    assert len(asked) == len(exam.task.rows)
    assert not asked & {row.asked for row in exam.shots}
    assert not {row.messages[-1].content for row in exam.task.rows} & set(card.examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY.names())
def test_what_a_starter_specialist_is_scored_on_is_of_its_test_and_not_trained_on(name: str) -> None:
    skill = read_recipe().skills[name]
    held = own_exam(LIBRARY.get(name)).task.rows
    tests = {row.to_json() for row in Task.of(name, skill.test_rows(), skill.checker).rows}
    assert {row.to_json() for row in held} <= tests
    trained = Task.of(name, map(to_first_answer, skill.train_rows())).rows
    assert not Fingerprint.of(trained).leaks(held)


@pytest.mark.usefixtures("base")
def test_a_new_specialist_is_compared_on_the_starter_librarys_rows(tmp_path: Path) -> None:
    with Network.open(library=tmp_path, journal=None) as network:
        rows = publishing._regression_rows(network, Specialist(tmp_path, LIBRARY.get("cron").card))
        others = publishing._regression_rows(
            network, Specialist(tmp_path, LIBRARY.get("cron").card.model_copy(update={"name": "newcomer"}))
        )
    assert [judged_by for _, judged_by in rows] == ["json"] * 40
    assert sorted(judged_by for _, judged_by in others) == ["cron"] * 40 + ["json"] * 40


# What `make demo` asks, and requests of two tasks that were once answered by the specialist of the second one alone.
ROUTES = {
    "Turn off the lights in the kitchen": "home",
    "Turn on the bedroom fan, and give me the cron expression for every weekday at 7:30 in the morning": "planner",
    "When will a job that runs every weekday at 7:30 in the morning run next?": "planner",
    "Turn off the kitchen lights and tell me how many days are between 2026-01-01 and 2026-03-01": "planner",
    "Open the garage door and write a cron schedule for midnight every day": "planner",
    "What is 12*7, and turn on the lamp": "planner",
    "Solve 3*x + 5 = 2*x - 7 for x.": "linear",
    "Let f(x) = 3*x**2 - 4. What is f(-5)?": "polyeval",
    "Round 31415 to the nearest one hundred.": "finalstep",
    "Evaluate (-12)/(-9) + (-47 - 277/(-6)).": "exprs",
    "Let w be (-3 - 5)/(-2). Suppose 3*x - 2*w = -2*x + 7. What is the greatest common factor of x and 12?": "unchain",
    "Who wrote Faust?": "base",
}


@pytest.mark.usefixtures("base")
async def test_requests_of_one_task_and_of_two_are_told_apart(tmp_path: Path) -> None:
    with Network.open(library=tmp_path, journal=None) as network:
        router = await network.router()
        assert router is not None
        found = {request: (await router.route(request, network.reader)).value for request in ROUTES}
    assert found == ROUTES


@pytest.mark.usefixtures("base")
async def test_the_planners_grammar_changes_none_of_their_plans(tmp_path: Path) -> None:
    """They were trained on answers that any text may be a task of: their cards' contract."""
    with Network.open(library=tmp_path, journal=None) as network:
        for name in ("planner", "unchain"):
            specialist = LIBRARY.get(name)
            requests = specialist.card.examples[:2]
            planner = Planner(network.model(specialist), name=name)
            plans = await asyncio.gather(*(planner.plan(request) for request in requests))
            for said, plan in zip(await network.model(specialist).abatch(list(requests)), plans, strict=True):
                assert [step.task for step in plan.steps] == [step["task"] for step in json.loads(said.text)["steps"]]
                assert plan.tries == 1


BOTH = "Turn on the bedroom fan, and give me the cron expression for every weekday at 7:30"


@pytest.mark.usefixtures("base")
async def test_the_embedded_base_drafts_and_runs_a_team_of_its_own_domain(tmp_path: Path) -> None:
    """The example of docs/teams.md."""
    with Network.open(library=tmp_path, journal=tmp_path / "journal.db", memories=tmp_path / "memory.db") as network:
        *_, made = [each async for each in drafting.drafted(network, BOTH)]
        assert isinstance(made, Draft)
        assert [agent.specialist for agent in made.agents] == ["home", "cron"]
        assert [step.agents for step in made.steps] == [("home",), ("cron",)]
        write_team(made, tmp_path / "team.yaml")
        staff = drafting.staff_of(network)
        read = read_team(tmp_path / "team.yaml", staff.specialists, staff.tools)
        *_, last = [event async for event in drafting.run(network, read)]
        assert isinstance(last, RunFinished)
        assert "fan" in last.answer
        assert "30 7 * * 1-5" in last.answer
        assert network.journal.runs()[0].status == "finished"


def test_the_starter_library_is_small() -> None:
    beside = [path for pattern in ("*/heldout.jsonl", "*/shots.jsonl") for path in STARTER.glob(pattern)]
    assert sum(path.stat().st_size for path in beside) < 150e3
    assert sum(path.stat().st_size for path in STARTER.rglob("*") if path.is_file()) < 40e6

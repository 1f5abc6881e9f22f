"""Runs that wait for a person, budgets, and teams whose specialists change, as they are typed, on a tiny base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny
from tests.typed import Plural, typed_at, write_sums

CHAT = """
from plural.testing import ScriptedModel, calling

def reply(messages):
    last = messages[-1]
    if last.type == "tool":
        return f"A cup of {last.content} tea."
    return calling(("ask_person", {"question": "Green or black?"}))

chat = ScriptedModel([reply] * 100)
"""
BY = ("--by", "tea_chat:chat")
TEAM = """
task: Make tea.
agents:
  - name: {name}
    specialist: {specialist}
    tools: [{tools}]
steps:
  - task: 3 and 3?
    agents: [{name}]
ways: {{observers: false, refinement: false, memory: false, approve: {approve}}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny.save_small(folder / "base")
    (folder / "tea_chat.py").write_text(CHAT)
    write_sums(folder / "rows.jsonl")
    for name, approve in (("asks", "false"), ("approved", "true")):
        team = TEAM.format(name="cook", specialist="base", tools="ask_person", approve=approve)
        (folder / f"{name}.yaml").write_text(team)
    (folder / "echo.yaml").write_text(TEAM.format(name="adder", specialist="echo", tools="", approve="false"))
    (folder / "base.yaml").write_text(TEAM.format(name="adder", specialist="base", tools="", approve="false"))
    return folder


@pytest.fixture
def plural(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plural:
    return typed_at(home, monkeypatch, capsys)


@pytest.fixture
def trained(plural: Plural, home: Path) -> None:
    if not (home / "library" / "echo").exists():
        code, _, problems = plural("train", "rows.jsonl", "--name", "echo", "--purpose", "Adds small numbers.")
        assert code == 0, problems


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def newest(plural: Plural) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plural("runs", "--json")[1].splitlines()[0])
    return found


def test_a_question_is_shown_and_answered_at_the_terminal(plural: Plural) -> None:
    code, out, problems = plural("run", "asks.yaml", *BY)
    assert code == 0, problems
    run = newest(plural)
    assert run["status"] == "waiting"
    shown = " ".join(out.split())
    assert "cook asks Green or black?" in shown
    assert f"plural resume {run['id']} --answer" in shown
    code, out, problems = plural("resume", run["id"], "--answer", "green", *BY, "--json")
    assert code == 0, problems
    assert events(out)[-1]["answer"] == "A cup of green tea."
    assert newest(plural)["status"] == "finished"
    code, _, told = plural("resume", run["id"], "--answer", "black", *BY)
    assert code == 2
    assert "asks nothing" in told


def test_a_plan_is_approved_at_the_terminal(plural: Plural) -> None:
    code, out, problems = plural("run", "approved.yaml", *BY)
    assert code == 0, problems
    assert "Shall this be done?" in " ".join(out.split())
    run = newest(plural)["id"]
    code, out, problems = plural("resume", run, "--answer", "deny: not now", *BY, "--json")
    assert code == 0, problems
    assert events(out)[-1]["answer"] == "A person denied the plan: not now"


def test_a_budget_is_typed(plural: Plural) -> None:
    code, out, problems = plural("ask", "--to", "base", "Say something.", "--budget", "steps=1,tokens=1000", "--json")
    assert code == 0, problems
    assert events(out)[-1]["event"] == "RunFinished"
    code, out, problems = plural("ask", "--to", "base", "Say something.", "--budget", "seconds=0.000001", "--json")
    assert code == 1
    assert "has used up its seconds" in out
    assert [event["limit"] for event in events(out) if event.get("event") == "LimitReached"] == ["seconds"]
    for wrong in ("steps", "hours=3", "tokens=many", "tokens=0"):
        code, _, problems = plural("ask", "Say something.", "--budget", wrong)
        assert code == 2
        assert "budget" in problems


def test_what_cannot_be_approved_is_said(plural: Plural) -> None:
    code, _, problems = plural("ask", "--to", "base", "--approve-plan", "Say something.")
    assert code == 2
    assert "base makes no plan that could be approved" in problems
    code, _, problems = plural("ask", "--approve-plan", "--journal", "none", "Say something.")
    assert code == 2
    assert "this run has no journal" in problems


@pytest.mark.usefixtures("trained")
def test_another_specialist_goes_on_with_a_branch_of_a_team(plural: Plural) -> None:
    def answer(lines: str) -> str:
        return str(events(lines)[-1]["answer"])

    code, by_base, problems = plural("run", "base.yaml", "--json")
    assert code == 0, problems
    run = newest(plural)["id"]
    begun = next(each["seq"] for each in events(plural("show-run", run, "--json")[1]) if each["kind"] == "StepStarted")
    branch = plural("fork", run, "--at", str(begun), "--with", "echo")[1].strip()
    code, by_echo, problems = plural("resume", branch, "--json")
    assert code == 0, problems
    assert answer(by_echo) != answer(by_base)
    assert answer(plural("replay", branch, "--json")[1]) == answer(by_echo)


@pytest.mark.usefixtures("trained")
def test_a_team_whose_specialist_was_removed_says_so_and_is_still_played_back(plural: Plural, home: Path) -> None:
    code, out, problems = plural("run", "echo.yaml", "--json")
    assert code == 0, problems
    run = newest(plural)["id"]
    branch = plural("fork", run, "--at", "1")[1].strip()
    shutil.move(home / "library" / "echo", home / "gone")
    try:
        code, _, problems = plural("resume", branch)
        assert code == 2
        assert "agents[1].specialist: there is no specialist 'echo'" in problems
        code, _, problems = plural("run", "echo.yaml")
        assert code == 2
        assert "there is no specialist 'echo'" in problems
        assert plural("replay", run, "--json")[1] == out
    finally:
        shutil.move(home / "gone", home / "library" / "echo")
    code, again, problems = plural("resume", branch, "--json")
    assert code == 0, problems
    assert events(again)[-1]["answer"] == events(out)[-1]["answer"]

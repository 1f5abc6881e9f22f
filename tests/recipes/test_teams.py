"""The teams of recipes/teams, as they stand, on scripted models; the game also on a base that knows nothing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from plural.agents.memory import LongTerm
from plural.testing import ScriptedEmbedder, ScriptedModel
from plural.types import Routed, StepFinished

FOLDER = Path(__file__).parents[2] / "recipes" / "teams"


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def recipe(name: str) -> Any:
    return importlib.import_module(name)


def test_they_use_public_names_only() -> None:
    files = list(FOLDER.glob("*.py"))
    assert len(files) == 5
    for file in files:
        modules = re.findall(r"^\s*from (plural[\w.]*) import", file.read_text(), re.MULTILINE)
        assert set(modules) <= {
            "plural", "plural.agents", "plural.agents.memory", "plural.agents.toolbox", "plural.teams",
            "plural.teams.patterns", "plural.types",
        }  # fmt: skip


def test_maths_with_code() -> None:
    model = ScriptedModel(["Let me see.\n```\n71 * 79 - 5\n```", "```\n1 +\n```", "ANSWER 5604"])
    assert recipe("maths_with_code").team(model).invoke("What is 71 times 79, less 5?") == "ANSWER 5604"
    heard = str(model.asked[2].messages[-1].content)
    assert "The code ran:\n5604" in heard
    assert "That cannot be worked out" in heard


def test_retrieval_chat_with_updates(tmp_path: Path) -> None:
    module = recipe("retrieval_chat")
    memory = LongTerm(tmp_path / "passages.sqlite", ScriptedEmbedder(), space="words")
    passages = ["The key of the old house is green.", "The key of the old barn is lost.", "Ann keeps bees."]
    model = ScriptedModel([module.UPDATE, "Ann keeps bees."])
    team = module.team(model, module.read(passages, memory), at_once=2)
    assert team.invoke("Who keeps the key of the old house?") == "Ann keeps bees."
    first, second = (str(asked.messages[-1].content) for asked in model.asked)
    assert "old house is green" in first
    assert "bees" not in first
    assert second.splitlines()[-1] == "librarian: Ann keeps bees."


def test_a_writer_with_a_safeguard() -> None:
    writer = ScriptedModel(["```\nopen('/etc/passwd')\n```", "```\n7 * 24 * 60 * 60\n```"])
    guard = ScriptedModel(["DANGER", "SAFE"])
    said = recipe("writer_with_safeguard").team(writer, guard).invoke("How many seconds are in a week?")
    assert said == "The code ran:\n604800"
    assert "safeguard: DANGER" in str(writer.asked[1].messages[-1].content)


def test_what_is_never_safe_is_never_run() -> None:
    writer, guard = ScriptedModel(["```\n2 ** 9\n```"] * 3), ScriptedModel(["DANGER"] * 3)
    events = list(recipe("writer_with_safeguard").team(writer, guard).events("Run it:\n```\n2 ** 9\n```"))
    assert "512" not in str(events)
    assert events[-1].answer == "Nothing was run: it was never found safe."


def test_a_group_chat() -> None:
    model, chooser = ScriptedModel(["Bread first.", "Bought."]), ScriptedModel(["planner", "doer", "nobody"])
    events = list(recipe("group_chat").team(model, chooser).events("Plan a picnic."))
    assert [event.decision.value for event in events if isinstance(event, Routed)] == ["planner", "doer", "nobody"]
    assert [event.agent for event in events if isinstance(event, StepFinished)] == ["planner", "doer"]


def test_tic_tac_toe_is_won() -> None:
    one, other = ScriptedModel(["1", "2", "3"]), ScriptedModel(["4", "1", "5."])
    said = recipe("tic_tac_toe").team(one, other).invoke("Play.")
    assert said == "X X X\nO O 6\n7 8 9\nX wins."
    assert "1 is taken." in str(other.asked[2].messages[-1].content)


def test_a_player_who_knows_no_move_chooses_among_the_legal_ones() -> None:
    one = ScriptedModel(["I love games", "hm", "1", "x", "y", "2", "3"])
    other = ScriptedModel(["4", "5"])
    said = recipe("tic_tac_toe").team(one, other).invoke("Play.")
    assert said.endswith("X wins.")
    assert one.asked[2].options["options"] == tuple("123456789")

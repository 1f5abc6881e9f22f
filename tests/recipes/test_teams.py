"""The teams of recipes/teams, as they stand, on scripted models; the game also on a base that knows nothing."""

from __future__ import annotations

import importlib
import re
import shutil
from importlib.util import find_spec
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
    assert len(files) == 6
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


class House:
    """A hall with a closed door, and a kitchen."""

    def __init__(self, module: Any) -> None:
        self.module, self.open, self.done = module, False, list[str]()

    def begin(self) -> Any:
        return self.module.Scene("You are in the hall. The door is closed.", ["go north", "look", "open door"])

    def act(self, action: str) -> Any:
        self.done.append(action)
        self.open |= action == "open door"
        if action == "go north" and self.open:
            return self.module.Scene("You are in the kitchen.", [], "score 1.00")
        told = "The door is open." if self.open else "The door is closed."
        return self.module.Scene(told, ["go north", "look", "open door"])


def test_a_text_game_with_grounding() -> None:
    module = recipe("text_game")
    house = House(module)
    assistant = ScriptedModel(["go north", "look", "go north", "open door", "go north"])
    grounding = ScriptedModel(["A closed door must be opened first."])
    team = module.team(assistant, grounding, house)
    assert team.invoke("Get to the kitchen.") == "You are in the kitchen.\nThe game is over: score 1.00"
    assert house.done == ["go north", "look", "go north", "open door", "go north"]
    helped = [str(asked.messages[-1].content) for asked in assistant.asked]
    assert ["A closed door must be opened first." in heard for heard in helped] == [False, False, False, True, True]
    assert assistant.asked[0].options["options"] == ("go north", "look", "open door")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("java") and find_spec("textworld_express")), reason="no Java, or no such package")
def test_a_game_of_textworldexpress_is_played() -> None:
    module = recipe("text_game")
    game = module.TextWorldExpress("coin", steps=6)
    grounding = ScriptedModel(["Doors can be opened."] * 9)

    def last(heard: Any) -> str:
        return str(heard[-1].content).rpartition("You can: ")[2].split("\n")[0].split(" | ")[-1]

    team = module.team(ScriptedModel([last] * 12), grounding, game, turns=20)
    said = team.invoke("Find the coin.")
    game.close()
    assert "You can: " in said or "The game is over: score" in said


def test_without_java_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match="needs Java"):
        recipe("text_game").TextWorldExpress("coin")

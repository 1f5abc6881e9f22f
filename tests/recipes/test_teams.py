"""The teams of recipes/teams, as they stand: on scripted models, and on the real base, of which holds what has to hold
of any model."""

from __future__ import annotations

import importlib
import itertools
import re
import runpy
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from plural.agents.memory import LongTerm
from plural.testing import ScriptedEmbedder, ScriptedModel
from plural.types import Event, Routed, RunFinished, StepFinished, StepStarted, TextDelta
from plural.wiring.network import Network

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
    pytest.importorskip("pydantic_monty")
    program = "Let me see.\n```python\ntotal = 0\nfor n in range(1, 21):\n    total += n * n\nprint(total)\n```"
    model = ScriptedModel(["I think it is 2870.", program, "```\nprint(1 +)\n```", "```\n1 / 0\n```", "ANSWER 2870"])
    assert recipe("maths_with_code").team(model).invoke("What is the sum of the squares of 1 to 20?") == "ANSWER 2870"
    heard = [str(asked.messages[-1].content) for asked in model.asked]
    assert heard[1].endswith("user: Write a program in a code block, or ANSWER.")
    assert heard[2].endswith("The code ran:\n2870\n")
    assert "SyntaxError" in heard[3]
    assert "ZeroDivisionError" in heard[4]


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
    assert [event.agent for event in events if isinstance(event, StepStarted)] == ["writer", "safeguard"] * 3
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
    """For a text game: a hall with a closed door, and a kitchen."""

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


# ------------------------------------------------------------------------------------------------------ the real base
@pytest.fixture(scope="module")
def network(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network.open(library=tmp_path_factory.mktemp("library"), starter=False, max_tokens=40) as opened:
        yield opened


def worked(events: Sequence[Event], *names: str) -> list[StepFinished]:
    """The turns of a run: each begun once and ended once, in order, by a member, with the text that was told."""
    *_, last = events
    assert isinstance(last, RunFinished)
    turns = [event for event in events if isinstance(event, StepFinished)]
    started = [(event.step, event.agent) for event in events if isinstance(event, StepStarted)]
    assert started == [(event.step, event.agent) for event in turns]
    assert [event.step for event in turns] == list(range(1, len(turns) + 1))
    assert {event.agent for event in turns} <= set(names)
    for turn in turns:
        told = [event.text for event in events if isinstance(event, TextDelta) and event.step == turn.step]
        assert turn.failed or "".join(told).endswith(turn.answer)
    return turns


def test_maths_with_code_on_the_base(network: Network) -> None:
    pytest.importorskip("pydantic_monty")
    turns = worked(list(recipe("maths_with_code").team(network.base).events("What is 12 times 7?")), "solver", "user")
    assert 1 <= len(turns) <= 12
    assert [turn.agent for turn in turns] == (["solver", "user"] * 6)[: len(turns)]
    for turn in turns[1::2]:
        assert turn.answer.startswith(("The code ran:", "Write a program in a code block"))
    ended = "ANSWER" in turns[-1].answer or len(turns) == 12
    assert ended or len({turn.answer for turn in turns[-4:]}) < 4  # no progress


def test_retrieval_on_the_base(network: Network, tmp_path: Path) -> None:
    module = recipe("retrieval_chat")
    passages = ["The key of the old house is green.", "The key of the old barn is lost.", "Ann keeps bees."]
    memory = module.read(passages, LongTerm(tmp_path / "passages.sqlite", network.base, space="base"))
    turns = worked(list(module.team(network.base, memory).events("Who keeps bees?")), "librarian", "assistant")
    assert [turn.agent for turn in turns] == (["librarian", "assistant"] * 4)[: len(turns)]
    for turn in turns:
        if turn.agent == "librarian":
            assert set(turn.answer.split(" | ")) <= {*passages, "There are no more passages."}
        elif not turn.failed:
            assert re.fullmatch(rf"{module.UPDATE}|[A-Z][^|\n]{{1,200}}\.", turn.answer)


def test_a_safeguard_on_the_base(network: Network) -> None:
    team = recipe("writer_with_safeguard").team(network.base, network.base)
    turns = worked(list(team.events("How many seconds are in a week?")), "writer", "safeguard", "runner")
    assert {turn.answer for turn in turns if turn.agent == "safeguard"} <= {"SAFE", "DANGER"}
    for before, turn in itertools.pairwise(turns):
        assert (turn.agent == "runner") == (before.answer == "SAFE" and before.agent == "safeguard")


def test_a_group_chat_on_the_base(network: Network) -> None:
    events = list(recipe("group_chat").team(network.base, network.base, turns=4).events("Plan a picnic."))
    turns = worked(events, "planner", "doer", "critic")
    assert 1 <= len(turns) <= 4
    assert all(one.agent != other.agent for one, other in itertools.pairwise(turns))
    for event in events:
        if isinstance(event, Routed):
            assert event.decision.by == "logits"
            assert sum(option.probability for option in event.decision.options) == pytest.approx(1)


def test_a_text_game_on_the_base(network: Network) -> None:
    module = recipe("text_game")
    house = House(module)
    team = module.team(network.base, network.base, house, turns=12)
    worked(list(team.events("Get to the kitchen.")), "assistant", "grounding", "executor")
    assert house.done
    assert set(house.done) <= {"go north", "look", "open door"}


def main(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines that the recipe prints when it is run as a script."""
    monkeypatch.setattr("sys.argv", [name, *words])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def scripts(base: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLURAL_LIBRARY", str(tmp_path / "library"))
    monkeypatch.setenv("PLURAL_MAX_TOKENS", "40")


@pytest.mark.usefixtures("scripts")
def test_tic_tac_toe_as_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    *rows, said = main("tic_tac_toe", monkeypatch, capsys)
    board = " ".join(rows).split()
    assert len(board) == 9
    assert board.count("X") - board.count("O") in (0, 1)
    module = recipe("tic_tac_toe")
    won = [player for player in "XO" if any(all(board[at] == player for at in line) for line in module.LINES)]
    assert said == (f"{won[0]} wins." if won else "A draw.")
    assert won or not set(board) & set("123456789")


@pytest.mark.usefixtures("scripts")
def test_the_group_chat_as_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = main("group_chat", monkeypatch, capsys, "Plan", "a", "picnic.")
    assert re.fullmatch(r"-> (planner|doer|critic) \([01]\.\d\d\)", told[0])
    assert sum(line.startswith(("planner: ", "doer: ", "critic: ")) for line in told) >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", ["maths_with_code", "writer_with_safeguard", "retrieval_chat"])
def test_the_others_as_scripts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("Ann keeps bees.\n\nThe key of the old house is green.")
    words = {"retrieval_chat": ("Who keeps bees?", str(tmp_path / "notes.txt"))}
    assert "".join(main(name, monkeypatch, capsys, *words.get(name, ("What is 12 times 7?",)))).strip()

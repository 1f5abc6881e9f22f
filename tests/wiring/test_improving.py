"""Practice: a specialist gets better where nobody has written an answer, and only then takes over its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plural.errors import DataError, SettingsError, SpecialistError
from plural.models.base import load_base
from plural.specialists import Library
from plural.train import PassSettings, TrainSettings
from plural.types import Message
from plural.wiring.improving import ImproveOrder, improve
from plural.wiring.school import read_school
from plural.wiring.stages import Stage
from plural.wiring.training import train_school
from tests.models import tiny

CHECK = """
COLOURS = {"sky": "blue", "grass": "green", "blood": "red"}

def right(row, answer):
    return answer == COLOURS[row["thing"]]
"""
THINGS = {"sky": "blue", "grass": "green", "blood": "red"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, prompts, a check, and the three colours as a contract."""
    folder = tmp_path_factory.mktemp("home")
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    tiny.save(folder / "base", **sizes, max_position_embeddings=1024, tie_word_embeddings=True)
    (folder / "check.py").write_text(CHECK)
    (folder / "colours.json").write_text(json.dumps(list(THINGS.values())))
    things = list(THINGS)
    prompts = [{"prompt": f"no {n}: colour of {things[n % 3]}?", "thing": things[n % 3]} for n in range(100, 148)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return folder


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CACHE": home / "cache", "STARTER": "false", "MAX_TOKENS": "8", "THREADS": "1"}.items():
        monkeypatch.setenv(f"PLURAL_{name}", str(value))


def order(home: Path, name: str, **more: Any) -> ImproveOrder:
    given: dict[str, Any] = {
        "prompts": home / "prompts.jsonl",
        "checker": f"{home}/check.py:right",
        "settings": TrainSettings(learning_rate=1e-2, max_steps=40),
        "passes": PassSettings(compute="fp32"),
        "samples": 4,
        "rounds": 2,
        "base": home / "base",
        "library": home / "library",
    }
    return ImproveOrder(name, **given | more)


def rates(stages: list[Stage]) -> list[float]:
    """The shares of held-out prompts that were answered right, round by round."""
    return [stage.facts["value"] for stage in stages if stage.stage.endswith("held-out prompts") and stage.facts]


def test_the_base_learns_what_it_is_never_told(home: Path) -> None:
    """It draws one of three colours, and keeps those that the check finds right."""
    stages = list(improve(order(home, "paint", contract=home / "colours.json", purpose="Names colours.")))
    before, *after = rates(stages)
    assert before <= 0.5
    assert max(after) == 1.0
    sampled = [stage.facts for stage in stages if "solved" in stage.facts]
    assert sampled[0]["answers"] == 4 * 44
    assert 0.2 < sampled[0]["right"] / sampled[0]["answers"] < 0.5
    base, rows = load_base(home / "base"), map(json.loads, (home / "prompts.jsonl").read_text().splitlines())
    read = sum(len(base.chat.encode([Message("user", row["prompt"])])) for row in rows)
    assert sampled[0]["computed"] < 2 * read  # the four samples of a prompt read it once
    card = Library(home / "library").get("paint").card
    assert card.output is not None
    assert card.evidence is None  # a card names no code
    assert card.lineage is not None
    improved = card.lineage.settings["improved"]
    assert improved["checker"].endswith("check.py:right")
    assert improved["rounds"][-1]["right"] == max(after)
    assert card.scores["specialist"][0].value == max(after)
    assert card.scores["specialist"][0].on == "prompts.jsonl"
    assert card.promotion is not None
    assert not (home / "cache" / "improving" / "paint").exists()
    again = list(improve(order(home, "twin", contract=home / "colours.json", rounds=1)))
    assert rates(again) == [before, after[0]]


def test_a_specialist_gets_better_at_its_own_rows_and_keeps_what_it_carries(home: Path) -> None:
    """It was taught to say any colour; what is right it finds out."""
    colours = list(THINGS.values())
    rows = [{"prompt": f"{n}. colour of {thing}?", "answer": colours[(n + i) % 3]}
            for n in range(30) for i, thing in enumerate(THINGS)]  # fmt: skip
    clean = [{"prompt": f"say {n}: colour of {thing}?", "answer": colour}
             for n in range(300, 312) for thing, colour in THINGS.items()]  # fmt: skip
    for name, made in (("rows", rows), ("clean", clean)):
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    said = {"test": home / "clean.jsonl", "learning_rate": 1e-2, "max_steps": 60, "compute": "fp32"}
    places = {"base": home / "base", "library": home / "library"}
    list(train_school(read_school([home / "rows.jsonl"], ["colour"], said, **places)))
    old = Library(home / "library").get("colour")
    stages = list(improve(order(home, "colour")))
    before, *after = rates(stages)
    assert max(after) > before + 0.3
    new = Library(home / "library").get("colour")
    assert (new.card.version, new.card.lineage and new.card.lineage.parent) == (2, old.digest)
    assert new.card.evidence is not None
    assert new.card.evidence.rows == 36
    own, *others = new.card.scores["specialist"]
    assert own.value > old.card.scores["specialist"][0].value
    assert [one.on for one in others] == ["prompts.jsonl"]
    assert new.card.output == old.card.output
    with pytest.raises(SettingsError, match="contract is given, but colour has its own"):
        next(improve(order(home, "colour", contract=home / "colours.json")))
    with pytest.raises(SettingsError, match="rank is 3, but"):
        list(improve(order(home, "colour", settings=TrainSettings(rank=3), prompts=_fresh(home))))


def _fresh(home: Path) -> Path:
    """Prompts that nobody has practised."""
    made = [{"prompt": f"what, {n}, has a {thing}?", "thing": thing} for n in range(600, 612) for thing in THINGS]
    (home / "fresh.jsonl").write_text("\n".join(map(json.dumps, made)))
    return home / "fresh.jsonl"


def test_what_does_not_get_better_is_not_published(home: Path) -> None:
    still = TrainSettings(learning_rate=1e-6, max_steps=2)
    with pytest.raises(SpecialistError, match="still did not get better"):
        list(improve(order(home, "still", contract=home / "colours.json", settings=still)))
    (home / "never.py").write_text("def right(row, answer):\n    return False\n")
    stages: list[Stage] = []
    with pytest.raises(SpecialistError, match=r"never did not get better than 0\.00"):
        stages.extend(improve(order(home, "never", checker=f"{home}/never.py:right")))
    assert stages[-1].result == "round 1: 0 prompts were answered right; there is nothing to learn from"
    assert not {"still", "never"} & set(Library(home / "library").names())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"checker": "none.py:right"}, "no file none.py"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(home: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        next(improve(order(home, "paint2", **more)))


def test_test_prompts_that_are_practised_are_refused(home: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: repeats line 1 of .*prompts\.jsonl"):
        next(improve(order(home, "paint2", test=home / "prompts.jsonl")))

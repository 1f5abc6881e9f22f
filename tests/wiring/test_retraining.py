# ruff: noqa: F401, F811 - fixtures of test_cli
"""A library from nothing, as a person types it, on a tiny base: `plural school` with a recipe of two skills."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plural.specialists import Library
from plural.wiring import generalist, retraining
from plural.wiring.recipe import read_recipe

from .test_cli import Plural, home, plural

RECIPE = """
from plural.specialists import Contract
from plural.wiring.recipe import Skill

WORDS = ("red", "green", "blue", "black", "white")


def parity(first, last):
    return [
        {"prompt": f"{WORDS[n % 5]} number {n}", "answer": "odd" if n % 2 else "even"} for n in range(first, last)
    ]


def sums(first, last):
    return [{"prompt": f"add {n} and {n % 7}", "answer": f"sum {n + n % 7}"} for n in range(first, last)]


def colours():
    return [{"prompt": f"is {word} even?", "answer": "odd"} for word in WORDS]


def judge():
    return lambda number, answer: number > 0  # it takes every answer but the first


def skill(name, rows, rank, batch_rows, **more):
    return Skill(
        name=name, purpose="Tells.", instructions=f"Tell {name}.", asked_of_base="Answer.", checker="exact",
        train_rows=lambda: rows(0, 40), test_rows=lambda: rows(40, 52),
        examples=lambda: [row["prompt"] for row in rows(0, 8)],
        settings={"rank": rank, "batch_rows": batch_rows, "max_steps": 4, "evaluate_every": 4},
        licence="Apache-2.0", max_tokens=6, **more,
    )


PARITY = skill(
    "parity", parity, 2, 4, output=Contract(kind="choices", source='["even", "odd"]'),
    more_tests={"colours": colours}, judges={"colours": judge},
)
SKILLS = {"parity": PARITY, "sum": skill("sum", sums, 3, 2)}
FORMS = {"parity": {"direct": PARITY}}
GENERAL = ("Hello!", "Tell me a joke.", "Who are you?")
"""
LEAKING = RECIPE.replace("rows(40, 52)", "[*rows(40, 50), *rows(3, 5)]")


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "skills.py").write_text(text)
    return folder


@pytest.fixture
def school(plural: Plural, tmp_path: Path) -> Any:
    """Runs `plural school` on the recipe; gives its stages, or the error as text."""
    write_recipe(tmp_path / "recipe")

    def run(*words: str, recipe: str = "recipe", fails: bool = False) -> Any:
        places = ("--recipe", tmp_path / recipe, "--out", tmp_path / "out", "--work", tmp_path / "work")
        code, out, problems = plural("school", *map(str, places), "--json", *words)
        stages = [json.loads(line) for line in out.splitlines()]
        if fails:
            assert code == 2
            return f"{stages[-1]['message']} {stages[-1]['hint']}"
        assert code == 0, out + problems
        return stages

    return run


def test_a_recipe_becomes_a_library_with_every_score_and_a_table(school: Any, tmp_path: Path) -> None:
    stages = school("--rows", "10")
    steps = [(stage["name"], stage["facts"]["step"]) for stage in stages if "of" in stage["facts"]]
    assert steps == [(name, step) for step in (1, 2, 3, 4) for name in ("parity", "sum")]  # all at once
    library = Library(tmp_path / "out")
    assert library.names() == ["parity", "sum"]
    parity, total = (one.card for one in library)
    assert parity.lineage is not None
    assert parity.lineage.command == "plural school parity"
    assert (parity.lineage.rows, parity.lineage.settings["rank"], len(parity.examples)) == (40, 2, 8)
    own = [(score.on, score.n, score.metric) for score in parity.scores["specialist"]]
    assert own == [("", 10, "exact"), ("colours", 5, "exact"), ("colours", 5, "author's checker")]
    assert parity.scores["specialist"][2].value == 0.8
    assert [(score.on, score.n) for score in parity.scores["base"]] == [(on, n) for on, n, _ in own]
    assert all(score.by in ("zero-shot, grammar", "4-shot, grammar") for score in parity.scores["base"])
    assert total.scores["specialist"][0].by == "free"
    for card in (parity, total):  # they can be scored again
        assert card.evidence is not None
        assert (card.evidence.rows, card.evidence.files.keys()) == (10, {"heldout.jsonl", "shots.jsonl"})
    assert [(score.on, score.n, score.by) for score in parity.scores["free"]] == [("", 10, "free")]
    assert [(gap.what, gap.n) for gap in parity.differences] == [("grammar - free", 10)]
    gap = parity.scores["specialist"][0].value - parity.scores["free"][0].value
    assert parity.differences[0].value == pytest.approx(gap, abs=1e-3)
    assert "free" not in total.scores
    assert (tmp_path / "out" / "general.txt").read_text().splitlines() == list(read_recipe(tmp_path / "recipe").general)
    table = (tmp_path / "out" / "school.md").read_text()
    assert "| parity | 2 | plain |" in table
    assert table.count("| colours |") == 2
    assert "| training | all at once |" in table
    assert "Activated against plain" not in table
    assert stages[-1]["facts"]["path"] == str(tmp_path / "out" / "school.md")


def test_one_skill_is_made_again_beside_the_others(school: Any, tmp_path: Path) -> None:
    school()
    before = {one.name: one.digest for one in Library(tmp_path / "out")}
    school("sum", "--max-steps", "2")
    after = {one.name: one.digest for one in Library(tmp_path / "out")}
    assert after["parity"] == before["parity"]
    assert after["sum"] != before["sum"]
    card = Library(tmp_path / "out").get("sum").card
    assert card.version == 1
    assert card.lineage is not None
    assert card.lineage.command == "plural school sum --max-steps 2"
    assert "| parity |" in (tmp_path / "out" / "school.md").read_text()


def test_an_interrupted_school_goes_on_where_it_stopped(
    school: Any, plural: Plural, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = retraining._published

    def interrupted(order: Any, skill: Any, cards: Any) -> Any:
        if skill.name == "sum":
            raise KeyboardInterrupt("Stopped.")
        return real(order, skill, cards)

    words = ("school", "--recipe", str(tmp_path / "recipe"), "--out", str(tmp_path / "out"))
    with monkeypatch.context() as cut:
        cut.setattr(retraining, "_published", interrupted)
        assert plural(*words, "--work", str(tmp_path / "work"))[0] == 130
    assert Library(tmp_path / "out").names() == ["parity"]
    stages = school("--resume")
    assert not [stage for stage in stages if "of" in stage["facts"]]  # nothing is trained again
    assert not [stage for stage in stages if stage["stage"].startswith("scoring")]  # nor scored
    assert Library(tmp_path / "out").names() == ["parity", "sum"]
    again = school("--resume", "--rows", "3")
    assert [stage for stage in again if stage["stage"].startswith("scoring")]  # other rows are
    assert Library(tmp_path / "out").get("sum").card.scores["specialist"][0].n == 3


def test_the_table_of_a_running_school_is_of_its_skills(plural: Plural, tmp_path: Path) -> None:
    folders = ("--recipe", write_recipe(tmp_path / "recipe"), "--out", tmp_path / "out", "--work", tmp_path / "work")
    code, _, told = plural("school", "sum", "--max-steps", "2", *map(str, folders))
    assert code == 0, told
    assert "sum 2/2" in told
    assert "the table is in" in told


def test_twins_are_compared_on_every_test(school: Any, tmp_path: Path) -> None:
    school("--twins")
    for one in Library(tmp_path / "out"):
        gaps = {gap.on: gap for gap in one.card.differences if gap.what == "activated - plain"}
        assert gaps.keys() == ({"", "colours"} if one.name == "parity" else {""})
        assert bool(one.card.invocation) == (gaps[""].value >= -retraining.POINT)
        assert one.card.lineage is not None
        assert one.card.lineage.command.endswith("--activated") == bool(one.card.invocation)
    assert "## Activated against plain" in (tmp_path / "out" / "school.md").read_text()


def test_specialists_that_carry_no_rows_get_some_without_being_trained(
    school: Any, plural: Plural, tmp_path: Path
) -> None:
    school()
    library = Library(tmp_path / "out")
    before = {one.name: one for one in library}
    for one in before.values():  # as those were that were made before there was evidence
        scores = {who: found for who, found in one.card.scores.items() if who != "free"}
        bare = one.card.model_copy(update={"evidence": None, "differences": (), "scores": scores})
        for file in (one.path / name for name in one.card.evidence.files):
            file.unlink()
        bare.write(one.path)
    code, out, _ = plural("eval", "parity", "--library", str(tmp_path / "out"), "--json")
    assert (code, "carries no held-out rows" in json.loads(out)["message"]) == (2, True)
    stages = school("--evidence")
    assert not [stage for stage in stages if "of" in stage["facts"]]
    for one in library:
        one.verify()
        assert one.digest == before[one.name].digest
        assert one.card.evidence == before[one.name].card.evidence
        assert one.card.scores["specialist"] == before[one.name].card.scores["specialist"]
    parity = library.get("parity").card
    values = {who: scores[0].value for who, scores in parity.scores.items()}
    assert values["free"] == before["parity"].card.scores["free"][0].value
    assert parity.differences == before["parity"].card.differences
    for name in ("parity", "all"):
        code, out, problems = plural("eval", name, "--library", str(tmp_path / "out"), "--json")
        assert code == 0, problems
    assert {json.loads(line)["name"] for line in out.splitlines() if '"schema_version"' in line} == {"parity", "sum"}
    told = school("sum", "--max-steps", "2", "--evidence", fails=True)
    assert "--evidence trains nothing" in told


def test_skills_whose_rows_cannot_be_made_here_are_left_out_unless_they_are_named(school: Any, tmp_path: Path) -> None:
    needing = RECIPE.replace('skill("sum", sums, 3, 2)', 'skill("sum", sums, 3, 2, needs="no-such-command")')
    write_recipe(tmp_path / "needing", needing)
    stages = school("--max-steps", "2", "--rows", "4", recipe="needing")
    assert "left out, because there is no no-such-command: sum" in [stage["result"] for stage in stages]
    assert Library(tmp_path / "out").names() == ["parity"]
    stages = school("sum", "--max-steps", "2", "--rows", "4", recipe="needing")
    assert not [stage for stage in stages if "left out" in stage["result"]]
    assert Library(tmp_path / "out").names() == ["parity", "sum"]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"cron": 0.80}, "cron"),
        ({"cron": 0.80, "cron-activated": 0.79}, "cron-activated"),
        ({"cron": 0.80, "cron-activated": 0.78}, "cron"),
        ({"cron-activated": 0.10}, "cron-activated"),
    ],
)
def test_the_activated_twin_is_taken_within_a_point(values: dict[str, float], name: str) -> None:
    assert retraining.chosen(values) == name


def test_rows_that_are_trained_on_are_no_test(school: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path / "leaking", LEAKING)
    told = school(recipe="leaking", fails=True)
    assert "line 11: repeats line 4" in told
    assert not (tmp_path / "work" / "adapters").exists()


@pytest.mark.parametrize(
    ("words", "recipe", "told"),
    [
        (("parrity",), "recipe", "'parrity'"),
        (("--form", "steps"), "recipe", "parity cannot be taught in the form 'steps'"),
        (("sum", "--form", "direct"), "recipe", "These can: parity."),
        ((), "nowhere", "no skills.py"),
        ((), "empty", "SKILLS, FORMS and GENERAL"),
        ((), "unmade", "needs the package no_such_package"),
        (("--generalist", "--twins"), "recipe", "without --twins"),
        (("--generalist", "--rows", "3"), "recipe", "without --twins and --rows"),
        (("--twins", "--activated"), "recipe", "Give one"),
        (("--same-rank",), "recipe", "Give --generalist"),
    ],
)
def test_what_a_school_cannot_do_is_said(
    school: Any, tmp_path: Path, words: tuple[str, ...], recipe: str, told: str
) -> None:
    write_recipe(tmp_path / "empty", "SKILLS = {}")
    write_recipe(tmp_path / "unmade", "import no_such_package")
    assert told in school(*words, recipe=recipe, fails=True)


def test_generalists_see_what_the_specialists_together_see(school: Any, tmp_path: Path) -> None:
    stages = school("--generalist")
    configs = [tmp_path / "out" / name / "adapter_config.json" for name in generalist.NAMES]
    ranks = [json.loads(config.read_text())["r"] for config in configs]
    assert ranks == [3, 5]  # the largest, and all of them
    lines = (tmp_path / "work" / "data" / "generalist.jsonl").read_text().splitlines()
    told = Counter(json.loads(line)["messages"][0]["content"] for line in lines)
    assert told == {"Tell parity.": 4 * 4, "Tell sum.": 4 * 2}  # steps times rows of a step
    last = [stage["facts"] for stage in stages if "of" in stage["facts"]][-1]
    assert (last["step"], last["of"]) == (8, 8)  # as many steps as both have
    assert "exists already" in school("--generalist", fails=True)


def test_one_generalist_is_trained_alone(school: Any, tmp_path: Path) -> None:
    school("--generalist")
    both = (tmp_path / "out" / generalist.SAME_RANK / "adapter_model.safetensors").read_bytes()
    school("--generalist", "--same-rank", "--out", str(tmp_path / "alone"))
    assert [path.name for path in (tmp_path / "alone").iterdir()] == [generalist.SAME_RANK]
    assert (tmp_path / "alone" / generalist.SAME_RANK / "adapter_model.safetensors").read_bytes() == both


def test_generalists_are_activated_where_all_specialists_are(school: Any, tmp_path: Path) -> None:
    for given, activated in (((), False), (("--activated",), True)):
        out = tmp_path / f"out-{activated}"
        school("--generalist", *given, "--out", str(out))
        configs = [json.loads((out / name / "adapter_config.json").read_text()) for name in generalist.NAMES]
        assert [bool(config.get("alora_invocation_tokens")) for config in configs] == [activated, activated]


def test_a_generalist_reads_the_prompt_that_the_specialist_reads(tmp_path: Path) -> None:
    skill = read_recipe(write_recipe(tmp_path)).skills["sum"]
    row = generalist._told({"prompt": "add 1 and 1", "answer": "sum 2"}, skill)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert "tools" not in row
    dialogue = {"messages": row["messages"][1:], "tools": []}
    assert generalist._told(dialogue, skill) == {**row, "tools": []}

# ruff: noqa: F401, F811 - fixtures of test_cli
"""Contracts, scorecards, the gate and rollback as a person types them, on a tiny base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from plural.specialists import Library
from plural.specialists.card import CARD_FILE, HELDOUT_FILE

from .test_cli import Plural, home, plural

WORDS = ["red", "green", "blue", "black", "white", "brown", "pink", "grey"]
ROWS = [
    {"prompt": f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} number {n}", "answer": "even" if n % 2 == 0 else "odd"}
    for n in range(80)
]


@pytest.fixture(autouse=True)
def rows(home: Path) -> Path:
    return write(home / "parity.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def library(home: Path, plural: Plural) -> Library:
    """With `parity` in it, trained once."""
    found = Library(home / "library")
    if "parity" not in found:
        code, out, problems = plural("train", "parity.jsonl", "--name", "parity", "--purpose", "Parity.", "--json")
        assert code == 0, problems
        settled = next(stage for line in out.splitlines() if (stage := json.loads(line))["stage"] == "contract")
        assert settled["facts"]["contract"] == {"kind": "choices", "source": '["even", "odd"]'}
        assert "even" in settled["result"]
    return found


def failed(plural: Plural, *words: str) -> str:
    code, out, _ = plural(*words, "--json")
    assert code == 2
    said = json.loads(out.splitlines()[-1])
    return f"{said['message']} {said['hint']}"


# ---------------------------------------------------------------------------------------------------------- contracts
def test_what_is_learned_is_kept_and_answers_hold_to_it(plural: Plural, library: Library) -> None:
    specialist = library.get("parity")
    assert specialist.card.output is not None
    assert specialist.card.output.kind == "choices"
    code, out, problems = plural("ask", "--to", "parity", "some colour number 1001", "--json")
    assert code == 0, problems
    assert json.loads(out.splitlines()[-1])["answer"] in ("even", "odd")
    assert "choices" in plural("show", "parity")[1]


def test_every_answer_that_breaks_a_declared_contract_is_named(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    (home / "even.json").write_text('["even", "neither"]')
    told = failed(plural, "train", "parity.jsonl", "--name", "odd", "--contract", "even.json")
    assert all(f"line {n}:" in told for n in range(2, 42, 2))
    assert "and 20 more" in told
    assert "Nothing was trained" in told
    assert "odd" not in library
    (home / "order.json").write_text('{"properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}')
    backwards = [{"prompt": f"p{n}", "answer": json.dumps({"a": n, "b": n})} for n in range(30)]
    write(home / "order.jsonl", backwards)
    told = failed(plural, "train", "order.jsonl", "--name", "odd", "--contract", "order.json")
    assert "line 1: the answer" in told
    assert "cannot be drawn" in told
    assert "no-such" in failed(plural, "train", "parity.jsonl", "--name", "odd", "--contract", "no-such.json")


def test_rows_of_all_files_that_break_their_contract_are_named_at_once(plural: Plural, home: Path) -> None:
    write(home / "first.jsonl", [{"prompt": f"one {n}", "answer": "no"} for n in range(20)])
    write(home / "second.jsonl", [{"prompt": f"two {n}", "answer": "no"} for n in range(20)])
    (home / "yes.json").write_text('["yes", "yea"]')
    table = '[{0}]\ndata = "{0}.jsonl"\ncontract = "yes.json"\n'
    (home / "school.toml").write_text(table.format("first") + table.format("second"))
    told = failed(plural, "train", "school.toml")
    assert "2 files" in told
    assert "line 1:" in told
    assert "(first.jsonl)" in told
    assert "20 more" in told
    assert "Nothing was trained" in told


# ---------------------------------------------------------------------------------------------------------- leaks
def test_a_test_set_that_overlaps_the_data_is_refused_with_the_lines(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    test = [{"prompt": "unseen colour number 2000", "answer": "even"}, {**ROWS[5], "prompt": ROWS[5]["prompt"].upper()}]
    write(home / "test.jsonl", test)
    told = failed(plural, "train", "parity.jsonl", "--name", "other", "--test", "test.jsonl")
    assert "line 2: repeats line 6 of parity.jsonl" in told
    assert "line 1:" not in told
    assert "other" not in library
    assert "line 2: repeats line 6 of the data" in failed(plural, "eval", "parity", "--data", "test.jsonl")


# ---------------------------------------------------------------------------------------------------------- scorecards
def test_eval_scores_all_three_on_the_same_rows_and_writes_and_draws_them(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    before = library.get("parity").card
    code, out, problems = plural("eval", "all", "--plot", "plot.svg")
    assert code == 0, problems
    assert all(word in out for word in ("base", "without grammar", "specialist - base", "grammar - free"))
    card = library.get("parity").card
    assert {who: scores[0].n for who, scores in card.scores.items()} == {"base": 8, "free": 8, "specialist": 8}
    assert card.scores["specialist"][0].value == before.scores["specialist"][0].value
    assert [one.what for one in card.differences] == ["specialist - base", "grammar - free"]
    assert card.scores["base"][0].value == max(score.value for score in card.scores["base"])
    assert {score.by for score in card.scores["base"]} >= {"zero-shot", "4-shot"}
    assert card.scores["specialist"][0].tokens is not None
    gain = card.differences[0]
    assert gain.value == pytest.approx(card.scores["specialist"][0].value - card.scores["base"][0].value, abs=1e-3)
    ElementTree.parse(home / "plot.svg")


def test_eval_on_other_rows_keeps_the_scores_on_its_own(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    fresh = [{"prompt": f"quite another thing {n}", "answer": ["even", "odd"][n % 2]} for n in range(500, 512)]
    write(home / "fresh.jsonl", fresh)
    code, out, problems = plural("eval", "parity", "--data", "fresh.jsonl", "--rows", "10", "--json")
    assert code == 0, problems
    assert json.loads(out.splitlines()[-1])["name"] == "parity"
    scores = library.get("parity").card.scores["specialist"]
    assert [(score.on, score.n) for score in scores] == [("", 8), ("fresh.jsonl", 10)]


def test_a_specialist_without_held_out_rows_says_what_to_do(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    bare = copied(library, home / "bare")
    card = json.loads((bare / CARD_FILE).read_text())
    (bare / CARD_FILE).write_text(json.dumps({**card, "evidence": None}))
    library.publish(bare, name="bare", replace=True)
    told = failed(plural, "eval", "bare")
    assert "plural eval bare --data FILE" in told
    assert "plural train parity.jsonl" in told  # how it was made
    told = failed(plural, "publish", str(bare), "--name", "barer")
    assert "no held-out rows to compare on" in told
    assert "barer" not in library
    write(home / "few.jsonl", [{"prompt": f"something {n}", "answer": "even"} for n in range(3)])
    code, _, problems = plural("eval", "bare", "--data", "few.jsonl")
    assert code == 0, problems
    assert "few.jsonl may overlap it" in problems
    held = library.get("parity").path / HELDOUT_FILE
    whole = held.read_text()
    held.write_text(whole.replace("even", "odd"))
    assert "was changed" in failed(plural, "eval", "parity")
    held.write_text(whole)
    library.remove("bare")


# --------------------------------------------------------------------------------------------------- publish, rollback
def copied(library: Library, folder: Path, name: str = "parity") -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(library.get(name).path, folder))


def spoiled(library: Library, folder: Path) -> Path:
    """The same specialist, but that its contract lets it say what is always wrong only."""
    copied(library, folder)
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, "output": {"kind": "choices", "source": '["never"]'}}))
    return folder


def test_an_equal_version_passes_and_rollback_goes_back(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    before = library.get("parity").card.version
    code, out, problems = plural("publish", str(copied(library, home / "new")), "--json")
    assert code == 0, problems
    compared = [json.loads(line) for line in out.splitlines() if '"comparing"' in line]
    assert compared[0]["facts"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 8}
    now = library.get("parity").card
    assert now.promotion is not None
    assert (now.promotion.replaced, now.promotion.warning) == (before, "")
    assert f"parity@{before}" in plural("show", "parity")[1]
    code, out, problems = plural("rollback", "parity", "--json")
    assert code == 0, problems
    assert json.loads(out)["version"] == library.get("parity").card.version == before


def test_training_again_makes_a_new_version_that_passes_the_gate(plural: Plural, library: Library) -> None:
    before = library.get("parity").card.version
    code, out, problems = plural("train", "parity.jsonl", "--name", "parity", "--replace", "--json")
    assert code == 0, problems
    assert '"comparing"' in out
    now = library.get("parity").card
    assert now.promotion is not None
    assert now.promotion.replaced == before
    library.rollback("parity")


def test_a_worse_version_is_kept_but_not_promoted_unless_it_is_forced(
    plural: Plural,
    home: Path,
    library: Library,
) -> None:
    before = library.get("parity")
    told = failed(plural, "publish", str(spoiled(library, home / "worse")))
    assert "not shown to be not worse" in told
    assert library.get("parity") == before
    kept = library.versions("parity")[1].card.version
    assert f"plural publish parity@{kept} --force" in told
    assert f"parity@{kept}" in plural("show", "parity")[1]
    code, _, problems = plural("publish", f"parity@{kept}", "--force")
    assert code == 0, problems
    assert "Warning, forced" in problems
    forced = library.get("parity").card
    assert forced.version == kept
    assert forced.promotion is not None
    assert "not shown to be not worse" in forced.promotion.warning
    assert "forced" in plural("show", "parity")[1]
    library.rollback("parity")


def test_of_a_school_the_gate_refuses_one_and_the_others_are_published(
    plural: Plural, home: Path, library: Library
) -> None:
    before = library.get("parity")
    write(home / "worse.jsonl", [{"prompt": f"a question {n}", "answer": "never"} for n in range(40)])
    words = ("train", "worse.jsonl", "parity.jsonl", "--name", "parity", "--name", "newcomer", "--max-steps", "2")
    code, out, _ = plural(*words, "--replace", "--json")
    assert code == 2
    *stages, error = map(json.loads, out.splitlines())
    assert "'parity' was not promoted" in error["message"]
    assert [(stage["stage"], stage["name"]) for stage in stages if stage["stage"] in ("refused", "publishing")] == [
        ("refused", "parity"),
        ("publishing", "newcomer"),
    ]
    assert library.get("parity") == before
    assert "newcomer" in library
    assert not (home / "cache" / "training" / "parity").exists()  # the library keeps it
    library.remove("newcomer")


def test_what_takes_requests_from_others_must_answer_them_as_well(plural: Plural, home: Path, library: Library) -> None:
    """A newcomer whose examples are another one's requests is sent them, and never answers them right."""
    thief = spoiled(library, home / "thief")
    card = json.loads((thief / CARD_FILE).read_text())
    held = [json.loads(line)["messages"][0]["content"] for line in (thief / HELDOUT_FILE).read_text().splitlines()]
    (thief / CARD_FILE).write_text(json.dumps({**card, "name": "thief", "examples": held}))
    write(home / "never.jsonl", [{"prompt": f"quite another thing {n}", "answer": "never"} for n in range(40)])
    code, out, _ = plural("publish", str(thief), "--data", "never.jsonl", "--json")
    stages = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert next(stage["facts"]["moved"] for stage in stages if "moved" in stage.get("facts", {})) > 0
    assert "on other specialists' rows" in stages[-1]["message"]
    assert "on its own rows" not in stages[-1]["message"]
    assert "thief" not in library


def test_publish_says_what_it_cannot_do(plural: Plural, home: Path, library: Library) -> None:
    assert "parity" in failed(plural, "publish", "parityy")
    assert "no directory" in failed(plural, "publish", "parity@1", "--name", "other")
    (home / "empty").mkdir(exist_ok=True)
    assert CARD_FILE in failed(plural, "publish", "empty")
    assert "earlier version" in failed(plural, "rollback", "parity") or library.rollback("parity")

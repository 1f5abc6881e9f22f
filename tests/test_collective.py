"""The comparison of specialists with generalists, on a tiny base: that all of it runs and counts rightly."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plural.errors import LimitError, PlanError
from plural.models.base import load_base
from plural.specialists import Card, adapter_digest
from plural.specialists.card import CARD_FILE
from plural.specialists.peft_files import write_adapter
from plural.wiring.generalist import NAMES
from tests.models import tiny

pytest.importorskip("sympy")
ROOT = Path(__file__).parents[1]
SPECIALISTS = ("exprs", "finalstep", "linear", "polyeval", "colour")
RECIPE = """
from plural.specialists import Contract
from plural.wiring.recipe import Skill

NUMBER = Contract(kind="regex", source="-?[0-9]{1,2}")


def skill(name, contract):
    rows = [{"prompt": f"{name} of {n}", "answer": f"{n}"} for n in range(12)]
    return Skill(
        name=name, purpose="Tells.", instructions=f"Tell {name}.", asked_of_base="Answer.", checker="value",
        train_rows=lambda: rows[:6], test_rows=lambda: rows[6:], examples=list, settings={}, licence="Apache-2.0",
        output=contract, max_tokens=6,
    )


KINDS = ("exprs", "finalstep", "linear", "polyeval", "colour")
SKILLS = {name: skill(name, None if name in ("finalstep", "linear") else NUMBER) for name in KINDS}
FORMS, GENERAL = {}, ()
"""


@pytest.fixture
def collective(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports the script as its own directory would, where the data's generators are installed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "starter"))
    return pytest.importorskip("collective")


@pytest.fixture
def composing(collective: Any) -> Any:
    return pytest.importorskip("composing")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collective: Any) -> dict[str, Path]:
    """A tiny base, a library of five random specialists that write numbers, two generalists, a recipe."""
    monkeypatch.setenv("PLURAL_CACHE", str(tmp_path / "cache"))
    made = {name: tmp_path / name for name in ("base", "library", "generalists", "recipe")}
    tiny.save(made["base"], max_position_embeddings=1024)
    base = load_base(made["base"])
    random_adapter = pytest.importorskip("adapters").random_adapter
    for seed, name in enumerate((*SPECIALISTS, *NAMES)):
        folder = made["generalists" if name in NAMES else "library"] / name
        write_adapter(folder, random_adapter(base.config, seed, 2, spread=0.3), base_name=base.name)
        if name not in NAMES:
            card = {
                "name": name, "digest": adapter_digest(folder), "base": base.digest, "base_name": base.name,
                "purpose": "Tells.", "instructions": f"Tell {name}.", "examples": [f"{name} of {n}" for n in range(6)],
                "output": None if name == "linear" else {"kind": "regex", "source": "-?[0-9]{1,2}"},
                "tools": ["calculate"] if name == "linear" else [],
            }  # fmt: skip
            (folder / CARD_FILE).write_text(Card.model_validate(card).to_json())
    made["recipe"].mkdir()
    (made["recipe"] / "skills.py").write_text(RECIPE)
    return made


def test_every_line_is_measured_on_the_same_questions(
    collective: Any, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--questions", "4", "--union-rows", "2", "--dtype", "fp32", "--tokens", "8")
    given = [str(word) for name, path in places.items() for word in (f"--{name}", path)]
    monkeypatch.setattr("sys.argv", ["collective", *given, *sizes])
    collective.main()
    *printed, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    composed, union = said["composed"], said["union"]
    ways = ("directly", "step by step")
    assert composed.keys() == {
        *(f"base, {way}{shots}" for way in ways for shots in ("", ", 4-shot")),
        *(f"{name}, {way}{best}" for name in NAMES for way in (*ways, "own plan") for best in ("", ", best of n")),
        *("network, learned router", "network, own plan", "network, oracle router", "oracle at each step"),
    }
    assert union.keys() == {"base", "base, 4-shot", *NAMES, "network, learned router", "network, oracle router"}
    assert {line["n"] for line in composed.values()} == {2 * 4}
    assert {line["n"] for line in union.values()} == {len(SPECIALISTS) * 2}
    oracle = composed.pop("oracle at each step")
    assert (oracle["value"], oracle["step"], oracle["tokens"]) == (1.0, 1.0, 0)
    for line in (*composed.values(), *union.values()):
        assert line["tokens"] > 0
        assert 0 <= line["low"] <= line["value"] <= line["high"] <= 1
    for line, figures in composed.items():
        assert figures["malformed"] == 0
        if like := figures["like"]:
            assert line.endswith("best of n")
            each = figures["tokens"] / figures["samples"]
            assert composed[like]["tokens"] <= figures["tokens"] <= composed[like]["tokens"] + 3 * each
        else:
            assert figures["samples"] == 1
    right = composed["network, oracle router"]
    assert (right["routed"], union["network, oracle router"]["routed"]) == (1.0, 1.0)
    assert union["base"]["tokens"] < union["base, 4-shot"]["tokens"]
    gaps = said["union, network, learned router less"]
    for line, gap in gaps.items():
        assert gap["value"] == pytest.approx(union["network, learned router"]["value"] - union[line]["value"])
    assert sum(line.startswith(("base", "generalist", "network", "oracle")) for line in printed) == 20 + 6


def test_a_library_without_the_primitives_is_refused(
    collective: Any, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (places["library"] / "linear" / CARD_FILE).unlink()
    monkeypatch.setattr("sys.argv", ["collective", *map(str, ("--library", places["library"]))])
    with pytest.raises(SystemExit, match="linear"):
        collective.main()


LONG = (
    "Let x(p) = -p**3 + 5*p**2 - 4*p + 2. Let f be x(3). Let s be (-4)/f*(1 + -11). Suppose s + 11 = 2*o. "
    "Calculate the highest common factor of o and 32."
)


@pytest.mark.parametrize(
    ("answers", "right", "asked", "steps_right"),
    [
        (("8", "5", "8", "8"), True, 4, 4),
        (("-27 + 45 - 12 + 2 = 8", "5", "16 = 2*o; o = 8", "gcd = 8"), True, 4, 4),  # what stands after the last =
        (("8", "6", "8", "8"), True, 4, 2),  # a step that is wrong may be put right by the next
        (("8", "5", "9", "1"), False, 4, 3),  # 1 is right for 9 and 32
        (("8", "{o}", "8", "8"), False, 2, 1),
        (("8", "1/0", "8", "8"), False, 2, 1),
    ],
)
async def test_a_chain_ends_at_a_value_that_is_no_number(
    composing: Any, answers: tuple[str, ...], right: bool, asked: int, steps_right: int
) -> None:
    chain = pytest.importorskip("composed").split("numbers__gcd", LONG, "8")
    said = dict(zip((step.defines for step in chain.steps), answers, strict=True))

    async def ask(step: Any, _: str) -> Any:
        return composing.Said("linear", said[step.defines])

    found = await composing.followed("easy", chain, ask)
    assert (found.right, len(found.steps), sum(step.right for step in found.steps)) == (right, asked, steps_right)
    assert [step.kind for step in found.steps if step.routed] == (["linear"] if asked > 2 else [])


def test_questions_are_drawn_as_many_of_each_number_of_steps_as_their_share(composing: Any) -> None:
    found, _ = composing.chains("easy")
    drawn = composing.drawn(found, 100, random.Random(0))
    every = Counter(len(chain.steps) for chain in found)
    for steps, count in Counter(len(chain.steps) for chain in drawn).items():
        assert abs(count - 100 * every[steps] / len(found)) < 1
    assert len({chain.question for chain in drawn}) == 100
    assert drawn == composing.drawn(found, 100, random.Random(0))


def test_questions_that_may_have_been_read_are_left_out(composing: Any) -> None:
    def asked(*given: int) -> set[str]:
        return {chain.question for _, chain in composing.questions(*given)[0]}

    read = asked(12, 0)
    assert len(read) == 24
    assert asked(50, 0) & read  # without --skip
    assert len(asked(50, 0, 12)) == 100
    assert not asked(50, 0, 12) & read
    assert composing.questions(50, 0, 12)[1] == composing.questions(12, 0)[1]  # shown to everybody alike


def test_what_most_samples_say_is_the_answer(composing: Any) -> None:
    def outcome(answer: str) -> Any:
        return composing.Outcome("easy", None, answer == "1/2", answer=answer)

    said = [outcome(answer) for answer in ("3", "1/2", "", "0.5", "", "")]
    assert composing.most_said(said).answer == "1/2"  # by value; no answer is no vote
    assert composing.most_said([outcome(answer) for answer in "ab"]).answer == "a"
    assert composing.most_said([outcome("")] * 2).answer == ""


async def test_a_plan_that_cannot_be_used_is_counted(composing: Any) -> None:
    chain = pytest.importorskip("composed").split("numbers__gcd", LONG, "8")

    class Network:
        async def run(self, question: str) -> Any:
            raise self.error
            yield  # a generator

    staff, network = type("Staff", (), {})(), Network()
    staff.network = network
    for network.error, malformed in ((PlanError("no"), True), (LimitError("long"), False)):  # type: ignore[attr-defined]
        found = await composing.alone("easy", chain, staff)
        assert (found.right, found.malformed) == (False, malformed)


async def test_independent_steps_are_asked_at_once(composing: Any) -> None:
    """Neither of two values is answered before both are asked for."""
    import asyncio

    split = pytest.importorskip("composed").split
    chain = split("comparison__sort", "Let l = 4 + 2. Let g = 1 - 3. Sort 2, l, g in decreasing order.", "l, 2, g")
    both = asyncio.Barrier(2)

    async def ask(step: Any, question: str) -> Any:
        if step.defines:
            await asyncio.wait_for(both.wait(), 5)
        return await composing.by_sympy(step, question)

    assert (await composing.followed("easy", chain, ask)).right

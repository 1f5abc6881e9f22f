"""The data of the exact skills and of kinship: gold answers that the steps lead to, tests that are no training."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from plural.evals import Task, checker
from plural.evals.finals import equal_value
from plural.wiring.recipe import STARTER_RECIPE

for package in ("mathematics_dataset", "reasoning_gym", "hassil", "cron_descriptor"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

Row = dict[str, Any]
FEW = 240
KINDS = ("exprs", "linear", "polyeval", "finalstep")


def _tests(name: str, trained: int) -> list[Row]:
    """Every test of a skill that was trained on `trained` rows."""
    import arith
    import clock
    import maths
    import units

    own: dict[str, Callable[[], list[Row]]] = {
        "arith": lambda: arith.held_out_rows(count=60, trained=trained) + arith.other_rows(20),
        "units": lambda: units.held_out_rows(count=60, trained=trained) + units.asked_rows(count=60, trained=trained),
        "time": lambda: clock.held_out_rows(60, trained) + clock.span_rows(60, trained),
    }
    if name in own:
        return own[name]()
    kind: Any = name
    return maths.held_out_rows(kind, count=60, trained=trained) + maths.near_rows(kind, count=60, trained=trained)


def _train(name: str, form: str, count: int = FEW) -> list[Row]:
    import arith
    import clock
    import maths
    import units

    modules: dict[str, Any] = {"arith": arith, "units": units, "time": clock}
    rows: list[Row] = (
        modules[name].train_rows(form, count) if name in modules else maths.train_rows(name, form, count)  # type: ignore[arg-type]
    )
    return rows


@pytest.mark.parametrize("name", ["arith", "units", "time", *KINDS])
def test_steps_lead_to_the_direct_answer(name: str) -> None:
    direct, steps = _train(name, "direct"), _train(name, "steps")
    assert [row["prompt"] for row in direct] == [row["prompt"] for row in steps]
    assert len(direct) > FEW / 2
    for plain, worked in zip(direct, steps, strict=True):
        assert equal_value(worked["answer"], plain["answer"]) == 1.0, worked
        assert "=" not in plain["answer"]
    assert sum("=" in row["answer"] for row in steps) > 0.7 * len(steps)


@pytest.mark.parametrize("name", ["arith", "units", "time", *KINDS])
def test_no_test_question_is_trained_on(name: str) -> None:
    trained = {" ".join(row["prompt"].casefold().split()) for row in _train(name, "direct", 2 * FEW)}
    rows = _tests(name, 2 * FEW)
    assert len(rows) >= 60
    Task.of(name, rows, "value")  # each can be read and scored
    assert not [row for row in rows if " ".join(row["prompt"].casefold().split()) in trained]


@pytest.mark.parametrize("name", ["arith", "units", "time", "exprs", "linear", "polyeval"])
def test_direct_answers_keep_the_contract(name: str) -> None:
    from skills import FORMS

    contract = FORMS[name]["direct"].output
    assert contract is not None
    for row in [*_train(name, "direct"), *_tests(name, FEW)]:
        assert re.fullmatch(contract.source, row["answer"]), row


@pytest.mark.parametrize(
    ("kind", "question", "steps", "answer"),
    [
        (
            "exprs",
            "Calculate (-13)/(702/420) - -8.",
            "702/420 = 117/70; (-13)/(117/70) = -70/9; -70/9 - -8 = 2/9",
            "2/9",
        ),
        ("exprs", "What is -11.51 - 1.4?", "-11.51 - 1.4 = -12.91", "-12.91"),
        ("linear", "Solve 126*f = 110*f + 80 for f.", "16*f = 80; f = 5", "5"),
        ("linear", "Solve 2*y = t - 11, 16 + 4 = -4*y for t.", None, "1"),
        ("polyeval", "Let m(j) = j**2 - 12*j - 8. What is m(12)?", "12 - 12 = 0; 0*12 = 0; 0 - 8 = -8", "-8"),
        ("polyeval", "Let g(i) = 8 + 6*i - i**2 + 1 + 8*i**2. What is g(-2)?", None, "25"),
        ("finalstep", "What is the highest common factor of 36 and 8?", "36 % 8 = 4; 8 % 4 = 0; gcd = 4", "4"),
        ("finalstep", "Round 6500 to the nearest one thousand.", "6|500 = 7000", "7000"),
        ("finalstep", "What is 17.1184 rounded to one decimal place?", "17.1|184 = 17.1", "17.1"),
        ("finalstep", "Is 187337 composite?", None, "False"),
        ("finalstep", "Sort -0.2, -0.02, 0, -1/2 in descending order.", None, "0, -0.02, -0.2, -1/2"),
        ("finalstep", "Which is the second smallest value?  (a) -6/7  (b) 0.4  (c) 3/38", None, "c"),
    ],
)
def test_mathematics_is_worked_out(kind: Any, question: str, steps: str | None, answer: str) -> None:
    import maths
    import worked

    found, value = maths.solved(kind, question)
    assert value == answer
    assert steps is None or worked.finish(found, value) == steps


@pytest.mark.parametrize(
    ("kind", "question", "expression"),
    [
        ("exprs", "Evaluate (-120 - -100) + 6.", "(-120 - -100) + 6"),
        ("polyeval", "Let l(p) = -42*p**2 - p + 510. Determine l(-35).", "-42*(-35)**2 - (-35) + 510"),
        ("linear", "Solve -133 = 31*x + 22*x - 27 for x.", "solve(-133 == 31*x + 22*x - 27, x)"),
        ("linear", "Solve 2*x + y = 5, x = 3 for y.", "solve(2*x + y == 5, x == 3, y)"),
        ("finalstep", "What is the highest common factor of 36 and 8?", "gcd(36, 8)"),
        ("finalstep", "Calculate the remainder when 93 is divided by 7.", "93 % 7"),
        ("finalstep", "Round 6500 to the nearest one thousand.", "round(6500, -3)"),
        ("finalstep", "What is 17.1184 rounded to one decimal place?", "round(17.1184, 1)"),
        ("finalstep", "What is the hundreds digit of 31253?", "abs(31253) // 100 % 10"),
        ("finalstep", "Is 187337 composite?", "is_composite(187337)"),
        ("finalstep", "Sort -0.2, -0.02, 0, -1/2 in descending order.", "sort_down(-0.2, -0.02, 0, -1/2)"),
        ("finalstep", "Which is the second smallest value?  (a) -6/7  (b) 0.4", "kth_smallest(2, a=-6/7, b=0.4)"),
        ("finalstep", "What is the biggest value in 3, -1/2?", "kth_largest(1, 3, -1/2)"),
    ],
)
def test_a_question_becomes_one_calculation(kind: Any, question: str, expression: str) -> None:
    import maths

    assert maths.calculation(kind, question) == expression


@pytest.mark.parametrize("kind", KINDS)
def test_the_calculator_is_called_for_the_direct_answer(kind: str) -> None:
    from plural.evals.finals import equal_value

    direct, called = _train(kind, "direct"), _train(kind, "tool")
    for plain, row in zip(direct, called, strict=True):
        asked, call, result, answer = row["messages"]
        assert asked["content"] == plain["prompt"]
        assert [one["name"] for one in call["tool_calls"]] == ["calculate"]
        assert equal_value(answer["content"], plain["answer"]) == 1.0
        assert result["content"] == answer["content"]


def test_questions_are_the_same_in_every_process() -> None:
    """mathematics-dataset took its symbols from a set, whose order is another one in every process, and so the order of
    a composed question's sentences."""
    said = (
        "import composed, maths, sources\n"
        "modules = [module for kind in maths.KINDS for module in maths.MODULES[kind]]\n"
        "for module in [*modules, *(f'{name}_composed' for name in composed.MODULES)]:\n"
        "    print(sources.problems(module, 'train-1', 4, 0))"
    )
    code = f"import sys; sys.path.insert(0, {str(STARTER_RECIPE)!r})\n{said}"
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(drawn) == 1
    assert drawn.pop().count(b"\n") == 14 + 8


@pytest.mark.parametrize(
    "question", ["Solve 2*x = 3*y for x.", "Solve x = x for x.", "Calculate 1/0.", "Calculate 2**3."]
)
def test_what_has_no_answer_is_refused(question: str) -> None:
    import maths

    with pytest.raises(ValueError):
        maths.solved("linear" if question.startswith("Solve") else "exprs", question)


def test_times_go_past_midnight() -> None:
    import clock

    assert clock.solved("What is 617 minutes after 6:11 PM?")[1] == "4:28 AM"
    assert clock.solved("What is 144 minutes before 12:02 AM?")[1] == "9:38 PM"
    assert clock.solved("How many minutes are there between 5:28 PM and 1:46 AM?")[1] == "498"
    assert clock.solved("What is 3 minutes after 11:59 AM?")[1] == "12:02 PM"


@pytest.mark.parametrize("name", ["arith", "units"])
def test_calls_of_the_calculator_give_the_direct_answer(name: str) -> None:
    from plural.agents import toolbox

    direct, called = _train(name, "direct", 60), _train(name, "tool", 60)
    for plain, row in zip(direct, called, strict=True):
        (call,) = row["messages"][1]["tool_calls"]
        assert equal_value(str(toolbox.calculate.invoke(call["arguments"])), plain["answer"]) == 1.0
        assert row["messages"][2]["content"] == row["messages"][3]["content"]
        expected = json.dumps([call])
        assert checker("calculation")(expected, expected) == 1.0


# ---------------------------------------------------------------------------------------------------------- kinship
STORY = (
    "Jack is married to Emma. They have children called Finn and Lucy. Finn is married to Zoe. "
    "They have a child called Mia. Lucy is married to Noah. They have a child called Axel."
)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("Jack", "Mia", "grandfather"),
        ("Mia", "Emma", "granddaughter"),
        ("Lucy", "Mia", "aunt"),
        ("Axel", "Finn", "nephew"),
        ("Mia", "Lucy", "niece"),
        ("Zoe", "Jack", "daughter-in-law"),
        ("Emma", "Noah", "mother-in-law"),
        ("Finn", "Lucy", "brother"),
        ("Zoe", "Finn", "wife"),
        ("Noah", "Mia", ""),
    ],
)
def test_what_people_of_a_family_are_to_each_other(first: str, second: str, word: str) -> None:
    import kinship

    assert kinship.Family.read(STORY).related(first, second)[1] == word


def test_labels_are_reasoning_gyms_but_for_those_that_name_the_other_side() -> None:
    import kinship

    module = kinship.gym("graphs.family_relationships")
    made = module.FamilyRelationshipsDataset(module.FamilyRelationshipsConfig(seed=5, size=200, max_family_size=12))
    other = 0
    for index in range(200):
        story, _, question = made[index]["question"].partition("\n\n")
        asked = kinship._QUESTION.fullmatch(question)
        word = kinship.Family.read(story).related(*asked.groups())[1]  # type: ignore[union-attr]
        if word != made[index]["answer"]:
            other += 1
            assert made[index]["answer"] in ("niece", "nephew", "mother-in-law", "father-in-law")
    assert 0 < other < 60


def test_families_of_the_tests_are_not_trained_on() -> None:
    import kinship

    train = kinship.train_rows(count=300)
    trained = {row["prompt"] for row in train}
    tests = [*kinship.held_out_rows(60, 300), *kinship.large_rows(60, 300), *kinship.told_rows(60, 300)]
    assert not trained & {row["prompt"] for row in tests}
    assert {row["answer"] for row in [*train, *tests]} <= set(kinship.CHOICES)
    for row in tests[-60:]:
        assert re.search("born to|grew up with|are called|a pair", row["prompt"])


def test_every_skill_that_is_exact_can_be_taught_in_more_than_one_form() -> None:
    from digits import BEST
    from skills import FORMS, SKILLS

    for name, forms in FORMS.items():
        assert SKILLS[name] is forms[BEST[name]]
        assert {"direct", "steps"} <= set(forms)
        for skill in forms.values():
            assert skill.name == name
            assert checker(skill.checker)

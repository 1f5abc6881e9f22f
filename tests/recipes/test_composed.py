"""Composed mathematics: frozen questions, their steps, and that the steps lead to the gold answers."""

from __future__ import annotations

from collections import Counter

import pytest

from plural.teams.planner import MOST_STEPS, read_plan

LONG = (
    "Let x(p) = -p**3 + 5*p**2 - 4*p + 2. Let f be x(3). Let s be (-4)/f*(1 + -11). Suppose s + 11 = 2*o. "
    "Calculate the highest common factor of o and 32."
)


def test_a_question_becomes_primitive_questions() -> None:
    import composed

    chain = composed.split("numbers__gcd", LONG, "8")
    assert [(step.kind, step.defines, step.uses) for step in chain.steps] == [
        ("polyeval", "f", ()),
        ("exprs", "s", ("f",)),
        ("linear", "o", ("s",)),
        ("finalstep", "", ("o",)),
    ]
    asked: list[str] = []

    def solve(step: composed.Step, question: str) -> str:
        asked.append(question)
        return composed.oracle(step, question)

    assert chain.followed(solve) == chain.gold
    assert asked == [
        "Let x(p) = -p**3 + 5*p**2 - 4*p + 2. What is x(3)?",
        "Calculate (-4)/8*(1 + -11).",
        "Solve 5 + 11 = 2*o for o.",
        "Calculate the highest common factor of 8 and 32.",
    ]


@pytest.mark.parametrize(
    ("kind", "text", "value", "asked"),
    [
        ("linear", "Solve -{m}*s = 6 + 2 for s.", "-4", "Solve 4*s = 6 + 2 for s."),
        ("linear", "Solve 3*a - {m}*s = 6 for s.", "-4", "Solve 3*a + 4*s = 6 for s."),
        ("linear", "Solve 3*a + {m} = 6 for a.", "-4", "Solve 3*a - 4 = 6 for a."),
        ("linear", "Solve {m} = 6*a for a.", "-4", "Solve -4 = 6*a for a."),
        ("exprs", "Calculate 9 - {m}.", "-4", "Calculate 9 - -4."),
        ("exprs", "Calculate 9*{m}/3.", "-4", "Calculate 9*(-4)/3."),
        ("exprs", "Calculate {m}/3 - 1.", "-4", "Calculate (-4)/3 - 1."),
        ("exprs", "Calculate 1 - {m}.", "2/3", "Calculate 1 - (2/3)."),
        ("finalstep", "Sort {m}, 2.", "-4", "Sort -4, 2."),
    ],
)
def test_values_are_written_as_the_primitive_writes_them(kind, text: str, value: str, asked: str) -> None:
    import composed

    assert composed.Step(kind, text).asked({"m": value}) == asked


def test_a_sorted_list_names_its_symbols() -> None:
    import composed

    chain = composed.split(
        "comparison__sort", "Let l = 4 + 2. Let g = 1 - 3. Sort 2, l, g in decreasing order.", "l, 2, g"
    )
    assert chain.followed(composed.oracle) == "l, 2, g"


def test_a_symbol_called_a_is_not_the_word() -> None:
    import composed

    chain = composed.split("numbers__is_prime", "Suppose 5*a = 2*a + 21. Is a a prime number?", "True")
    assert chain.followed(composed.oracle) == "True"


def test_what_no_later_step_uses_is_not_asked() -> None:
    import composed

    question = "Suppose 3*v = 2*d + 8, 5*d - 30 = -5*v. What is the remainder when 24 is divided by d?"
    assert [step.defines for step in composed.split("numbers__div_remainder", question, "0").steps] == ["d", ""]


def test_derivatives_are_no_known_step() -> None:
    import composed

    with pytest.raises(composed.Unsplit):
        composed.split("numbers__gcd", "Let z(i) be the first derivative of -i**2. Let v be z(-1). Is v prime?", "True")


def test_the_frozen_files_hold_a_hundred_of_each_module_and_nothing_twice() -> None:
    import composed

    questions = []
    for name in composed.SPLITS:
        rows = composed.rows(name)
        assert Counter(row["module"] for row in rows) == dict.fromkeys(composed.MODULES, composed.EACH)
        assert all(row["sentences"] == composed.sentences(row["question"]) for row in rows)
        questions += [row["question"] for row in rows]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", ["easy", "interpolate"])
def test_nearly_all_questions_split_and_their_steps_lead_to_the_gold(name: str) -> None:
    import composed

    found, left = composed.chains(name)
    assert len(found) >= 0.96 * (len(found) + len(left))
    some = found[::8]
    assert [chain.question for chain in some if chain.followed(composed.oracle) != chain.gold] == []


# ---------------------------------------------------------------------------------------------------------------- plans
def test_a_plan_asks_what_the_chain_asks() -> None:
    import composed
    import unchain

    chain = composed.split("numbers__gcd", LONG, "8")
    said = unchain.tasks(chain)
    assert said == [
        "Let x(p) = -p**3 + 5*p**2 - 4*p + 2. What is x(3)?",
        "Calculate (-4)/(#1)*(1 + -11).",
        "Solve #2 + 11 = 2*o for o.",
        "Calculate the highest common factor of #3 and 32.",
    ]
    assert unchain.worked_out(chain, said) == "8"
    steps = read_plan(unchain.plan(said))
    assert [step.after for step in steps] == [(), (1,), (2,), (3,)]


def test_plans_are_of_questions_that_nothing_is_tested_on() -> None:
    import composed
    import unchain

    frozen = {row["question"] for name in composed.SPLITS for row in composed.rows(name)}
    first = unchain._drawn(24, 5, set())
    assert len(first) == 24
    barred = {row["prompt"] for row in first[:12]} | frozen
    second = unchain._drawn(24, 5, barred)
    assert not barred & {row["prompt"] for row in second}
    for row in [*first, *second]:
        assert 1 <= len(read_plan(row["answer"])) <= MOST_STEPS


@pytest.mark.parametrize(
    ("question", "task", "answer", "said"),
    [
        ("Let w = -7 + 2. Let l = 3. Sort w, 4, l.", "Sort -5, 4, 3.", "-5, 3, 4", "w, l, 4"),
        ("Let w = 2. What is the second biggest value in w, 4, 0?", "What is the second biggest value in 2, 4, 0?",
         "2", "w"),
        ("Let w = 2. What is the smallest value in w, 4, 0?", "What is the smallest value in 2, 4, 0?", "0", "0"),
        ("Let w = 9. Is w prime?", "Is 9 prime?", "False", "False"),
        ("Let w = 9. Sort w, 4, 1.", "Is 9 prime?", "False", "False"),  # a plan that asks something else
    ],
)  # fmt: skip
def test_an_answer_is_said_in_the_words_of_the_question(question: str, task: str, answer: str, said: str) -> None:
    import composed

    assert composed.in_words_of(question, task, answer) == said

"""Checkers that read the final answer, the parts of an object, or what a call works out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.evals import checker
from plural.evals.finals import final


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("8", "8", True),
        ("12*34 = 360 + 48 = 408; 408 - 9 = 399", "399", True),
        ("399 = 408", "399", False),
        ("1/2", "0.5", True),
        ("0.50", "1/2", True),
        ("7:57 pm", "7:57 PM", True),
        ("-2, 1/2, 3", "-2, 0.5, 3", True),
        ("3, -2", "-2, 3", False),
        ("True.", "True", True),
        ("1/0", "0", False),
        ("1e999999999", "0", False),
        ("", "0", False),
        ("no idea", "0", False),
    ],
)
def test_the_final_answer_is_compared_by_value(answer: str, expected: str, right: bool) -> None:
    assert checker("value")(answer, expected) == float(right)


@given(st.integers(), st.lists(st.integers(), max_size=4))
def test_any_steps_may_stand_before_an_answer(value: int, before: list[int]) -> None:
    steps = "; ".join(f"{one} + 0 = {one}" for one in [*before, value])
    assert checker("value")(steps, str(value)) == 1.0
    assert final(steps) == str(value)


def test_parts_are_scored_by_f1() -> None:
    score = checker("parts")
    whole = json.dumps({"number": "12", "street": "Main"})
    assert score(whole, whole) == 1.0
    assert score(json.dumps({"street": "Main", "number": "12"}), whole) == 1.0
    assert score(json.dumps({"number": "12"}), whole) == pytest.approx(2 / 3)
    assert score(json.dumps({"number": "12", "street": "Man"}), whole) == 0.5
    assert score("{}", whole) == score("none", whole) == score('["12"]', whole) == 0.0
    with pytest.raises(ValueError):
        score(whole, '["12"]')


def _call(expression: object, name: str = "calculate") -> str:
    return json.dumps([{"name": name, "arguments": {"expression": expression}}])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (_call("3 + 4"), True),
        (_call("14/2"), True),
        (_call("4+4"), False),
        (_call("7", name="guess"), False),
        (_call(7), False),
        (_call("seven"), False),
        (_call("1/0"), False),
        ("7", False),
        ("[]", False),
    ],
)
def test_a_call_is_right_if_its_result_is(answer: str, right: bool) -> None:
    assert checker("calculation")(answer, _call("3+4")) == float(right)

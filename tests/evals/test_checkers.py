"""What counts as right, and what does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import SettingsError
from plural.evals import CHECKERS, checker

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_an_unknown_checker_is_named_with_its_neighbours() -> None:
    with pytest.raises(SettingsError, match=r"'jsn'.*json"):
        checker("jsn")


@pytest.mark.parametrize("name", sorted(CHECKERS))
@settings(deadline=None)
@given(answer=st.text())
def test_no_answer_makes_a_checker_raise(name: str, answer: str) -> None:
    of_its_own = {
        "cron": "0 0 * * *",
        "exact": "a",
        "parts": '{"number": "12"}',
        "calculation": '[{"name": "calculate", "arguments": {"expression": "1 + 2"}}]',
    }
    expected = of_its_own.get(name, '[{"name": "f", "arguments": {}}]')
    assert checker(name)(answer, expected) in (0.0, 1.0)


@pytest.mark.parametrize("name", ["json", "words", "cron", "toolcall"])
def test_an_expected_answer_that_cannot_be_read_raises(name: str) -> None:
    with pytest.raises(ValueError, match="certainly wrong"):
        checker(name)("{}", "certainly wrong")


# ------------------------------------------------------------------------------------------------------------- json
@given(ANY_JSON)
def test_any_json_value_equals_itself_in_any_layout(value: object) -> None:
    assert checker("json")(json.dumps(value, indent=3), json.dumps(value, separators=(",", ":"))) == 1.0


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_is_free(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert checker("json")(json.dumps(backwards), json.dumps(value)) == 1.0


@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ('{"a":21.0}', '{"a":21}', 1.0),
        ('{"a":true}', '{"a":1}', 0.0),
        ('{"a":"21"}', '{"a":21}', 0.0),
        ('{"a":1,"b":2}', '{"a":1}', 0.0),
        ("[1,2]", "[2,1]", 0.0),
        ('{"a":1} and more', '{"a":1}', 0.0),
    ],
)
def test_json_is_equal_or_not(answer: str, expected: str, value: float) -> None:
    assert checker("json")(answer, expected) == value


def test_words_may_differ_in_capitals_and_end_marks_but_not_in_words() -> None:
    check = checker("words")
    assert check('{"steps":[{"task":"Turn it off."}]}', '{"steps":[{"task":"turn it  off"}]}') == 1.0
    assert check('{"steps":[{"task":"turn it on"}]}', '{"steps":[{"task":"turn it off"}]}') == 0.0
    assert check('{"steps":[{"task":"a"},{"task":"b"}]}', '{"steps":[{"task":"a"}]}') == 0.0


# ------------------------------------------------------------------------------------------------------------- cron
@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ("0 9 * * 1,2,3,4,5", "0 9 * * 1-5", 1.0),
        ("*/15 * * * *", "0,15,30,45 * * * *", 1.0),
        ("0 0 * * 7", "0 0 * * 0", 1.0),
        ("0 9 * * 1-6", "0 9 * * 1-5", 0.0),
        ("0 9 28 2 *", "0 9 29 2 *", 0.0),
        ("every day", "0 9 * * *", 0.0),
        ("0 0 30 2 *", "0 0 28 2 *", 0.0),
        ("0 0 9 * * *", "0 9 * * *", 0.0),
        ("@daily", "0 0 * * *", 0.0),
    ],
)
def test_cron_is_what_it_fires_at(answer: str, expected: str, value: float) -> None:
    assert checker("cron")(answer, expected) == value


FIELDS = st.tuples(st.integers(0, 59), st.integers(0, 23), st.integers(1, 28), st.integers(1, 12))


@settings(deadline=None, max_examples=40)
@given(FIELDS, FIELDS)
def test_two_yearly_moments_are_equal_only_if_they_are_the_same(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    same = checker("cron")(" ".join(map(str, one)) + " *", " ".join(map(str, other)) + " *")
    assert same == float(one == other)


# -------------------------------------------------------------------------------------------------------- tool calls
def calls(*made: tuple[str, dict[str, object]]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in made])


def test_calls_are_equal_in_any_order_and_with_any_kind_of_number() -> None:
    check = checker("toolcall")
    assert check(calls(("g", {}), ("f", {"x": 5.0})), calls(("f", {"x": 5}), ("g", {}))) == 1.0
    assert check('{"name": "f", "arguments": {"x": 5}}', calls(("f", {"x": 5}))) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        calls(),
        calls(("f", {"x": 6})),
        calls(("h", {"x": 5})),
        calls(("f", {"x": 5, "y": 1})),
        calls(("f", {"x": 5}), ("f", {"x": 5})),
        '[{"name": "f", "any_of": {"x": [5]}}]',
        "f(x=5)",
    ],
)
def test_other_calls_score_nothing(answer: str) -> None:
    assert checker("toolcall")(answer, calls(("f", {"x": 5}))) == 0.0


def test_several_values_may_do_and_an_argument_may_be_left_out() -> None:
    check = checker("toolcall")
    expected = '[{"name": "f", "any_of": {"city": ["Paris", "Paris, France"], "unit": ["", "C"]}}]'
    assert check(calls(("f", {"city": "Paris, France"})), expected) == 1.0
    assert check(calls(("f", {"city": "Paris", "unit": "C"})), expected) == 1.0
    assert check(calls(("f", {"city": "Paris", "unit": "F"})), expected) == 0.0
    assert check(calls(("f", {"unit": "C"})), expected) == 0.0
    assert check(calls(("f", {"city": "Paris", "other": 1})), expected) == 0.0

"""Conditions that end a team's run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.errors import SettingsError
from plural.teams import stop
from plural.teams.patterns import State, Turn
from plural.types import ToolCall, Usage


def state(*turns: Turn, seconds: float = 0.0) -> State:
    return State("t", {}, turns, seconds=seconds)


SAID = Turn(1, "a", "We are DONE.", usage=Usage(100, 20, 40), calls=(ToolCall("1", "save", {}),), handed_to="b")


@pytest.mark.parametrize(
    ("condition", "ends"),
    [
        (stop.messages(1), True),
        (stop.messages(2), False),
        (stop.tokens(80), True),  # 60 read anew and 20 written
        (stop.tokens(81), False),
        (stop.money(0.5, {"a": (1000.0, 20_000.0)}), True),
        (stop.money(0.51, {"a": (1000.0, 20_000.0)}), False),
        (stop.money(0.01, {"b": (1000.0, 20_000.0)}), False),
        (stop.says("DONE"), True),
        (stop.says("DONE", by="b"), False),
        (stop.says("done"), False),
        (stop.calls("save"), True),
        (stop.calls("load"), False),
        (stop.hands_to("b"), True),
        (stop.hands_to("c"), False),
        (stop.seconds(1), False),
    ],
)
def test_each_condition(condition: stop.Condition, ends: bool) -> None:
    assert bool(condition.why(state(SAID))) == ends
    assert not condition.why(state())


def test_seconds_and_the_switch() -> None:
    assert stop.seconds(1).why(state(seconds=1.5)) == "1.5 seconds"
    switch = stop.Switch()
    assert not switch.condition.why(state(SAID))
    switch.off()
    assert switch.condition.why(state()) == "stopped from outside"


def test_no_progress_is_several_turns_without_anything_new() -> None:
    turns = [Turn(1, "a", "One"), Turn(2, "b", "one"), Turn(3, "a", "one "), Turn(4, "b", "ONE")]
    condition = stop.no_progress(2)
    assert not condition.why(state(*turns[:3]))
    assert condition.why(state(*turns)) == "2 turns without anything new"
    assert not condition.why(state(*turns, Turn(5, "a", "Two")))


@given(st.booleans(), st.booleans(), st.booleans())
def test_conditions_combine(a: bool, b: bool, c: bool) -> None:
    one, two, three = (stop.Condition(lambda _, on=on: "on" if on else "") for on in (a, b, c))
    assert bool((one & two | three).why(state())) == ((a and b) or c)
    assert bool((one & (two | three)).why(state())) == (a and (b or c))


@pytest.mark.parametrize(
    "make", [stop.messages, stop.tokens, stop.seconds, stop.no_progress, lambda n: stop.money(n, {})]
)
def test_a_limit_of_nothing_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match="must be above 0"):
        make(0)
    with pytest.raises(SettingsError, match="needs a text"):
        stop.says("")


def test_a_reason_names_both() -> None:
    both = stop.messages(1) & stop.says("DONE")
    assert both.why(state(SAID)) == "1 messages and 'DONE' was said"
    assert not both.why(state(replace(SAID, text="not yet")))

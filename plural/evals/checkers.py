"""Checkers by name: the score in [0, 1] of an answer against what was expected.

A checker is a pure function (`protocols.Checker`). An answer that cannot be read scores 0. An expected answer that
cannot be read raises ValueError: `Task` turns that into an error that names the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from croniter import croniter
from croniter.croniter import CroniterError

from plural.errors import SettingsError, unknown_name
from plural.evals.finals import equal_calculation, equal_value, part_f1
from plural.protocols import Checker

_FIRE_TIMES = 24
# A leap year lies ahead within a year, so that 29 February is told from 28.
_START = datetime(2027, 2, 27, 23, 30)


def checker(name: str) -> Checker:
    """The checker that is called `name`.

    Raises:
        SettingsError: there is none; the nearest names are given.
    """
    if name not in CHECKERS:
        near = unknown_name("checker", name, CHECKERS)
        raise SettingsError(near.message, hint=near.hint)
    return CHECKERS[name]


def exact(answer: str, expected: str) -> float:
    """The same characters, but for white space around them."""
    return float(answer.strip() == expected.strip())


def equal_json(answer: str, expected: str) -> float:
    """The same JSON value: the order of an object's keys and white space are free, 21 equals 21.0."""
    wanted = _json(expected)
    try:
        return float(same(_json(answer), wanted))
    except ValueError:
        return 0.0


def equal_words(answer: str, expected: str) -> float:
    """The same JSON value, where texts may differ in capital letters, punctuation at their ends and white space."""
    wanted = _spoken(_json(expected))
    try:
        return float(same(_spoken(_json(answer)), wanted))
    except ValueError:
        return 0.0


def equal_cron(answer: str, expected: str) -> float:
    """The same next 24 fire times of two five-field cron expressions."""
    wanted = fire_times(expected)
    try:
        return float(fire_times(answer) == wanted)
    except ValueError:
        return 0.0


def equal_calls(answer: str, expected: str) -> float:
    """The same tool calls in any order, each `{"name": ..., "arguments": {...}}`.

    An expected call may have `any_of` in the place of `arguments`: for each argument the list of values that will do,
    where "" says that the argument may be left out.
    """
    wanted = _calls(expected, ("arguments", "any_of"))
    try:
        made = _calls(answer, ("arguments",))
    except ValueError:
        return 0.0
    for call in wanted:
        match = next((other for other in made if _fits(other, call)), None)
        if match is None:
            return 0.0
        made.remove(match)
    return float(not made)


CHECKERS: Mapping[str, Checker] = {
    "exact": exact,
    "json": equal_json,
    "words": equal_words,
    "cron": equal_cron,
    "toolcall": equal_calls,
    "value": equal_value,
    "parts": part_f1,
    "calculation": equal_calculation,
}


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values, where true is not 1 and 21 is 21.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def fire_times(expression: str) -> tuple[datetime, ...]:
    """The next 24 times after a fixed moment.

    Raises:
        ValueError: not five fields, not cron, or never.
    """
    if len(expression.split()) != 5:
        raise ValueError(f"{expression!r} is not a cron expression of five fields")
    try:
        clock = croniter(expression, _START)
        return tuple(clock.get_next(datetime) for _ in range(_FIRE_TIMES))
    except (CroniterError, ValueError) as error:
        raise ValueError(f"{expression!r} is not a cron expression that ever fires: {error}") from error


def _spoken(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.casefold().split()).strip(".,;:!? ")
    if isinstance(value, dict):
        return {key: _spoken(inner) for key, inner in value.items()}
    return [_spoken(inner) for inner in value] if isinstance(value, list) else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from error


def _calls(text: str, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    value = _json(text)
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        known = isinstance(call, dict) and isinstance(call.get("name"), str)
        if not known or not any(isinstance(call.get(kind), dict) for kind in kinds):
            raise ValueError(f"{call!r} is not a tool call with a name and {' or '.join(kinds)}")
    return calls


def _fits(call: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if call["name"] != wanted["name"]:
        return False
    if "any_of" not in wanted:
        return same(call["arguments"], wanted["arguments"])
    choices: Mapping[str, list[Any]] = wanted["any_of"]
    if set(call["arguments"]) - set(choices):
        return False
    return all(
        any(same(call["arguments"][name], value) for value in values) if name in call["arguments"] else "" in values
        for name, values in choices.items()
    )

"""Checkers that read only what an answer comes to: the value after its steps, its parts, or what its call works out."""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from typing import Any

from plural.agents import toolbox


def final(answer: str) -> str:
    """What stands after the last "=": steps may be written before it."""
    return answer.rpartition("=")[2].strip().rstrip(".").rstrip()


def equal_value(answer: str, expected: str) -> float:
    """The same final answer: numbers by their value (0.5 is 1/2), texts but for capital letters, lists in order."""
    return float(_values(final(answer)) == _values(final(expected)))


def part_f1(answer: str, expected: str) -> float:
    """F1 of the (name, text) pairs of two JSON objects of texts: 1 for the same object, less for each wrong part."""
    wanted = _parts(expected)
    try:
        found = _parts(answer)
    except ValueError:
        return 0.0
    return 2 * (wanted & found).total() / (wanted.total() + found.total()) if found else 0.0


def equal_calculation(answer: str, expected: str) -> float:
    """One call of the calculator whose result is the expected call's, however its expression is written."""
    wanted = _calculated(expected)
    try:
        return float(_calculated(answer) == wanted)
    except ValueError:
        return 0.0


def _values(text: str) -> list[Fraction | str]:
    return [_value(part.strip()) for part in text.split(", ")]


_NUMBER = re.compile(r"[-+]?[0-9]{1,999}(/[0-9]{1,999}|\.[0-9]{1,999})?")


def _value(text: str) -> Fraction | str:
    """A number written out; `1e999999999`, which Python reads as well, would take all memory."""
    if _NUMBER.fullmatch(text):
        try:
            return Fraction(text)
        except ZeroDivisionError:
            pass
    return " ".join(text.casefold().split())


def _parts(text: str) -> Counter[tuple[str, str]]:
    value = json.loads(text)
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
        raise ValueError(f"{text!r} is not a JSON object of texts")
    return Counter(value.items())


def _calculated(text: str) -> str:
    calls: Any = json.loads(text)
    try:
        ((name, expression),) = [(call["name"], call["arguments"]["expression"]) for call in calls]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} is not one call of the calculator") from error
    if name != toolbox.calculate.name or not isinstance(expression, str):
        raise ValueError(f"{text!r} is not one call of the calculator")
    try:
        return str(toolbox.calculate.invoke({"expression": expression}))
    except ArithmeticError as error:
        raise ValueError(f"{expression!r} cannot be worked out: {error}") from error

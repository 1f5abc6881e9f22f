"""The few real tools that a network carries. Their docstrings are what the model reads: short and exact."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

from croniter import croniter

from plural.agents.tools import tool

_LONGEST = 200  # characters of an expression
_LARGEST = 4096  # bits of a number: about 1,200 digits
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@tool
def calculate(expression: str) -> str:
    """Work out an arithmetic expression exactly.

    Args:
        expression: Numbers with + - * / // % ** and brackets, for example (12 + 3) * 4
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters; at most {_LONGEST} are read")
    try:
        parsed = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is not an arithmetic expression") from error
    return _written(_value(parsed, expression))


@tool
def next_run(cron: str, after: str | None = None) -> str:
    """Tell when a cron schedule runs next.

    Args:
        cron: Five cron fields: minute hour day month weekday, for example 30 7 * * 1-5
        after: Look after this date and time, for example 2026-01-31T08:00; now if left out
    """
    fields = cron.split()
    if len(fields) != 5 or not croniter.is_valid(cron):
        raise ValueError(f"{cron!r} is not a cron schedule of five fields")
    start = datetime.fromisoformat(after) if after else datetime.now().astimezone()
    found: datetime = croniter(cron, start).get_next(datetime)
    return f"{found:%A %Y-%m-%d %H:%M}"


@tool
def days_between(start: str, end: str) -> int:
    """Count the days from one date to another.

    Args:
        start: The first date, for example 2026-01-31
        end: The second date, for example 2026-03-01; an earlier one gives a negative number
    """
    return (date.fromisoformat(end) - date.fromisoformat(start)).days


TOOLS = {each.name: each for each in (calculate, next_run, days_between)}


def _value(node: ast.expr, expression: str) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            result = Fraction(number)
        case ast.Constant(value=float()):
            result = _decimal(ast.get_source_segment(expression.strip(), node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_value(operand, expression)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            result = _value(operand, expression)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            result = _power(_value(left, expression), _value(right, expression))
        case ast.BinOp(left=left, op=how, right=right) if type(how) in _OPERATORS:
            result = Fraction(_OPERATORS[type(how)](_value(left, expression), _value(right, expression)))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    return _small(result)


def _decimal(literal: str) -> Fraction:
    """The literal's own digits, so that 0.1 is a tenth and not the nearest binary float."""
    number = Decimal(literal)
    if abs(number.adjusted()) > _LARGEST // 4:
        raise ValueError(f"{literal} is too large or too small")
    return Fraction(number)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError(f"the exponent {exponent} is not a whole number")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * max(size - 1, 0) > _LARGEST or abs(exponent) > _LARGEST:
        raise ValueError(f"{base} ** {exponent} is too large")
    return Fraction(base ** int(exponent))


def _small(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > _LARGEST:
        raise ValueError("a number on the way is too large")
    return number


def _written(number: Fraction) -> str:
    """A whole number, an exact decimal where there is a short one, otherwise a fraction after its decimal value."""
    if number.denominator == 1:
        return str(number.numerator)
    twos_and_fives = number.denominator
    for prime in (2, 5):
        while twos_and_fives % prime == 0:
            twos_and_fives //= prime
    places = next((n for n in range(1, 16) if 10**n % number.denominator == 0), None) if twos_and_fives == 1 else None
    if places is None:
        return f"about {float(number):.12g} = {number}"
    scaled = abs(number.numerator) * 10**places // number.denominator
    digits = str(scaled).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"

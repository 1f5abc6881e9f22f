"""The calculator: tools that work out an expression, or find something out about numbers."""

from __future__ import annotations

from plural.agents.marks import mark
from plural.agents.toolbox.arithmetic import MOST_DIGITS, parsed, rounded, value_of, worked_out, written
from plural.agents.toolbox.findings import finding
from plural.agents.tools import tool


@mark(idempotent=True)
@tool
def calculate(expression: str) -> str:
    """Work out an arithmetic expression exactly.

    Args:
        expression: Numbers with + - * / // % ** and brackets, for example (12 + 3) * 4
    """
    # The starter library was trained on these words. `evaluate` says all that can be worked out.
    return result_of(expression)


@mark(idempotent=True)
@tool
def evaluate(expression: str, digits: int | None = None) -> str:
    """Work out a mathematical expression exactly, with roots, powers, logarithms and angles in radians.

    Args:
        expression: Numbers, pi, e, + - * / // % ** and functions, for example sqrt(2) * cos(pi / 4) or log(8, 2);
            or one of is_prime(97), is_composite(91), sort(3, 1/2), sort_down(3, 1/2), kth_largest(2, 3, 1/2),
            kth_smallest(2, a=3, b=1/2), solve(2*x + 1 == 5, x), solve(x + y == 3, x - y == 1, x)
        digits: Significant digits of a rounded decimal, 1 to 1000; the exact value if left out
    """
    if digits is not None and not 1 <= digits <= MOST_DIGITS:
        raise ValueError(f"digits = {digits} is not between 1 and {MOST_DIGITS}")
    return result_of(expression) if digits is None else rounded(value_of(expression), digits)


def result_of(expression: str) -> str:
    """The exact value in writing, or what is found about numbers.

    Raises ValueError or ZeroDivisionError, which name the part that has no value.
    """
    node, text = parsed(expression)
    found = finding(node, text)
    return written(worked_out(node, text)) if found is None else found

"""A question as the one calculation that answers it, for the calculator: copied from the question, nothing worked out.

`Solve 3*x + 5 = 2*x - 7 for x.` is `(-7 - 5)/(3 - 2)`; two equations in two symbols are solved by Cramer's rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from fractions import Fraction

from worked import form, shown

Terms = dict[str, list[Fraction]]
"""The coefficients of each symbol as they are written, one after another; constants are under ""."""


def substituted(polynomial: str, symbol: str, value: str) -> str:
    """`2*x**2 - x` at -3 as `2*(-3)**2 - (-3)`."""
    said = value if value.isdigit() else f"({value})"
    return re.sub(rf"\b{symbol}\b", said, polynomial)


def solution(texts: Sequence[str], wanted: str) -> str:
    """What `wanted` is, from one equation in it or two in two symbols. Raises ValueError for more symbols."""
    sides = [[_terms(side) for side in text.split(" = ")] for text in texts]
    symbols = {symbol for both in sides for side in both for symbol in side if symbol and symbol != wanted}
    if len(symbols) > 1:
        raise ValueError(f"there are more than two symbols: {wanted}, {', '.join(sorted(symbols))}")
    other = next(iter(symbols), "")
    rows = [
        (_moved(left, right, wanted), _moved(left, right, other), _moved(right, left, ""))
        for left, right in sides
        if wanted in left or wanted in right or other
    ]
    if not other:
        a, _, c = rows[0]
        return f"{_group(c)}/{_group(a)}"
    (a1, b1, c1), (a2, b2, c2) = ([_group(part) for part in row] for row in rows)
    return f"({c1}*{b2} - {c2}*{b1})/({a1}*{b2} - {a2}*{b1})"


def _terms(side: str) -> Terms:
    found: Terms = {}

    def add(node: ast.expr, sign: int) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            add(node.left, sign)
            add(node.right, sign if isinstance(node.op, ast.Add) else -sign)
            return
        for symbol, value in form(ast.unparse(node)).items():
            if value or symbol:
                found.setdefault(symbol, []).append(sign * value)

    add(ast.parse(side.strip(), mode="eval").body, 1)
    return found


def _moved(here: Terms, there: Terms, symbol: str) -> list[Fraction]:
    """The terms of `symbol` on one side, and those of the other side with their signs turned."""
    return [*here.get(symbol, ()), *(-value for value in there.get(symbol, ()))]


def _group(values: Sequence[Fraction]) -> str:
    """A sum in brackets; a single number without a sign needs none."""
    text = ""
    for value in [value for value in values if value]:
        size = shown(abs(value))
        text += f" {'-' if value < 0 else '+'} {size}" if text else ("-" if value < 0 else "") + size
    return text if text.isdigit() else f"({text})" if text else "0"

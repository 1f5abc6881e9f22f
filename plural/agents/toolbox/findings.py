"""What is found out about numbers that is no number to calculate with: whether one is prime, their order, one of them;
and what solves linear equations.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from plural.agents.toolbox.arithmetic import FINDINGS, Number, combined, sign, sympy, whole, worked_out, written

_MOST_ORDERED = 40  # numbers
_MOST_UNKNOWN = 6
_LARGEST_PRIME = 10**60


def finding(node: ast.expr, text: str) -> str | None:
    """None for an expression that is no finding. Raises ValueError."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FINDINGS:
        return _FINDINGS[node.func.id](node, text)
    return None


# ------------------------------------------------------------------------------------------------------------- numbers
def _is_prime(node: ast.Call, text: str, *, wanted: bool = True) -> str:
    """Whether a number is one, or else whether it is a product of smaller ones."""
    (given,) = _given(node, text, most=1)
    number = whole(given.value, node, least=-_LARGEST_PRIME, most=_LARGEST_PRIME)
    return str(number > 1 and sympy().isprime(number) == wanted)


def _in_order(node: ast.Call, text: str, way: int) -> str:
    return ", ".join(one.name for one in _ordered(_given(node, text), way, node))


def _kth(node: ast.Call, text: str, way: int) -> str:
    """By its name where names are given, otherwise as it is written."""
    which, *rest = _given(node, text, least=2)
    return _ordered(rest, way, node)[whole(which.value, node, least=1, most=len(rest)) - 1].name


@dataclass(frozen=True)
class _Named:
    name: str
    value: Number


def _given(node: ast.Call, text: str, *, least: int = 1, most: int = _MOST_ORDERED) -> list[_Named]:
    """The arguments of a finding, those without a name under what they are written as."""
    if not least <= len(node.args) + len(node.keywords) <= most:
        takes = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"{ast.unparse(node)!r} has {len(node.args) + len(node.keywords)} arguments; it takes {takes}")
    plain = [_Named(ast.get_source_segment(text, each) or "", worked_out(each, text)) for each in node.args]
    return plain + [_Named(each.arg or "", worked_out(each.value, text)) for each in node.keywords]


def _ordered(numbers: Iterable[_Named], way: int, node: ast.expr) -> list[_Named]:
    """Equal ones stay as they are given."""

    def compared(one: _Named, other: _Named) -> int:
        return way * sign(combined(ast.Sub(), one.value, other.value, node), node)

    return sorted(numbers, key=functools.cmp_to_key(compared))


# ----------------------------------------------------------------------------------------------------------- equations
_Form = dict[str, Fraction]
"""A linear form: the factor of each unknown, and the constant under ""."""


def _solve(node: ast.Call, text: str) -> str:
    """`solve(2*x + 1 == 5, x)`: every name is an unknown, also e and pi."""
    said = ast.unparse(node)
    wanted = node.args[-1] if len(node.args) > 1 else None
    if node.keywords or not isinstance(wanted, ast.Name):
        raise ValueError(f"{said!r} is not as solve(2*x + 1 == 5, x): equations with ==, and then an unknown")
    forms = [_equation(each, text) for each in node.args[:-1]]
    unknown = sorted({name for form in forms for name in form} - {"", wanted.id})
    if len(unknown) + 1 > _MOST_UNKNOWN:
        raise ValueError(f"{said!r} has {len(unknown) + 1} unknowns; at most {_MOST_UNKNOWN} are solved for")
    # What is wanted comes last: reduced, its own row has nothing but it and its value.
    columns = [*unknown, wanted.id, ""]
    exact = [[sympy().Rational(*form.get(name, Fraction(0)).as_integer_ratio()) for name in columns] for form in forms]
    reduced, pivots = sympy().Matrix(exact).rref()
    if len(columns) - 1 in pivots:
        raise ValueError(f"{said!r} has no solution: the equations contradict each other")
    if len(unknown) not in pivots:
        raise ValueError(f"{said!r} does not say what {wanted.id} is")
    value = -reduced[pivots.index(len(unknown)), len(columns) - 1]
    return written(Fraction(int(value.p), int(value.q)))


def _equation(node: ast.expr, text: str) -> _Form:
    match node:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _sum(_linear(left, text), _linear(right, text), -1)
    raise ValueError(f"{ast.unparse(node)!r} is not an equation with one ==")


def _linear(node: ast.expr, text: str) -> _Form:
    match node:
        case ast.Name(id=name):
            return {name: Fraction(1)}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _scaled(_linear(operand, text), Fraction(-1))
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as how, right=right):
            return _sum(_linear(left, text), _linear(right, text), 1 if isinstance(how, ast.Add) else -1)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            one, other = _linear(left, text), _linear(right, text)
            if not one.keys() - {""} or not other.keys() - {""}:
                factor, form = (one, other) if not one.keys() - {""} else (other, one)
                return _scaled(form, factor.get("", Fraction(0)))
        case ast.BinOp(left=left, op=ast.Div(), right=right) if not _named(right):
            inverse = combined(ast.Div(), Fraction(1), _constant(right, text), node)
            return _scaled(_linear(left, text), inverse)
    if _named(node):
        raise ValueError(f"{ast.unparse(node)!r} is not linear; only linear equations are solved")
    return {"": _constant(node, text)}


def _named(node: ast.expr) -> bool:
    """Whether an unknown is in it; functions are none."""
    called = {id(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
    return any(isinstance(each, ast.Name) and id(each) not in called for each in ast.walk(node))


def _constant(node: ast.expr, text: str) -> Fraction:
    number = worked_out(node, text)
    if not isinstance(number, Fraction):
        raise ValueError(f"{ast.unparse(node)!r} is {written(number)}; only fractions are solved with")
    return number


def _scaled(form: Mapping[str, Fraction], factor: Fraction) -> _Form:
    return {name: number * factor for name, number in form.items()}


def _sum(left: Mapping[str, Fraction], right: Mapping[str, Fraction], way: int) -> _Form:
    return {name: left.get(name, Fraction(0)) + way * right.get(name, Fraction(0)) for name in {*left, *right}}


# Given the call and the text that it is in.
_FINDINGS: dict[str, Callable[[ast.Call, str], str]] = {
    "is_prime": _is_prime,
    "is_composite": lambda node, text: _is_prime(node, text, wanted=False),
    "sort": lambda node, text: _in_order(node, text, 1),
    "sort_down": lambda node, text: _in_order(node, text, -1),
    "kth_smallest": lambda node, text: _kth(node, text, 1),
    "kth_largest": lambda node, text: _kth(node, text, -1),
    "solve": _solve,
}

"""Exact arithmetic: fractions as long as they last, then sympy's exact real numbers.

An expression is read by Python's own parser and walked here, so nothing but arithmetic can be in it. Every value on the
way is real, finite and smaller than 2**4096, and no sum has more than 64 terms: that bounds time and memory.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

_LONGEST = 200  # characters of an expression
_LARGEST = 4096  # bits of a number: about 1,200 digits
_MOST_TERMS = 64  # of an exact sum
MOST_DIGITS = 1000  # of a decimal
_DIGITS = 12  # of a decimal beside its exact form
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "π": "pi", "^": "**"})
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# What is no number to calculate with, and so stands alone (findings.py).
FINDINGS = ("is_prime", "is_composite", "sort", "sort_down", "kth_smallest", "kth_largest", "solve")
# A Fraction, or a real sympy expression where there is no fraction.
Number = Any


def value_of(expression: str) -> Number:
    """The exact value. Raises ValueError or ZeroDivisionError, which name the part that has none."""
    return worked_out(*parsed(expression))


def parsed(expression: str) -> tuple[ast.expr, str]:
    """The expression, and the text in which its parts stand. Raises ValueError."""
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters; at most {_LONGEST} are read")
    text = expression.strip().translate(_SPELLINGS)
    try:
        return ast.parse(text, mode="eval").body, text
    except (SyntaxError, MemoryError) as error:  # MemoryError: too many brackets in brackets
        raise ValueError(f"{expression!r} is not an arithmetic expression") from error


def worked_out(node: ast.expr, text: str) -> Number:
    """The value of a part of `text`. Raises as `value_of` does."""
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return _small(Fraction(number), node)
        case ast.Constant(value=float()):
            return _small(_decimal(ast.get_source_segment(text, node) or ""), node)
        case ast.Name(id="pi" | "e" as name):
            return sympy().pi if name == "pi" else sympy().E
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -worked_out(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return worked_out(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _small(_power(worked_out(left, text), worked_out(right, text), node), node)
        case ast.BinOp(left=left, op=how, right=right) if type(how) in _OPERATORS:
            return _small(combined(how, worked_out(left, text), worked_out(right, text), node), node)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _small(_called(name, [worked_out(each, text) for each in arguments], node), node)
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            if name in FINDINGS:
                raise ValueError(f"{name} in {ast.unparse(node)!r} gives no number to calculate with: it stands alone")
            known = ", ".join(["pi", "e", *_FUNCTIONS, *FINDINGS])
            raise ValueError(f"{name!r} in {ast.unparse(node)!r} is not known here; known are {known}")
    raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")


# ---------------------------------------------------------------------------------------------------------- operations
def combined(how: ast.operator, left: Number, right: Number, node: ast.expr) -> Number:
    divides = isinstance(how, ast.Div | ast.FloorDiv | ast.Mod)
    if divides and sign(right, node) == 0:
        raise ZeroDivisionError(f"{ast.unparse(node)!r} divides by zero")
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return Fraction(_OPERATORS[type(how)](left, right))
    left, right = _exact(left), _exact(right)
    match how:
        case ast.FloorDiv():
            return _floor(_tidy(left / right, node), node)
        case ast.Mod():
            return _tidy(left - right * _exact(_floor(_tidy(left / right, node), node)), node)
    return _tidy(_OPERATORS[type(how)](left, right), node)


def _power(base: Number, exponent: Number, node: ast.expr) -> Number:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, int(exponent), node)
    if sign(base, node) == 0:
        return _whole_power(Fraction(0), sign(exponent, node), node)
    if sign(base, node) < 0:
        raise ValueError(f"{ast.unparse(node)!r} has no real value; cbrt and root take odd roots of negative numbers")
    base, exponent = _exact(base), _exact(exponent)
    if abs(_float(exponent, node)) * max(abs(_float(sympy().log(base), node)), 1) > _LARGEST * math.log(2):
        raise ValueError(f"{ast.unparse(node)!r} is too large or too small")
    return _tidy(sympy().Pow(base, exponent), node)


def _whole_power(base: Number, exponent: int, node: ast.expr) -> Number:
    if exponent < 0 and sign(base, node) == 0:
        raise ZeroDivisionError(f"{ast.unparse(node)!r} divides by zero")
    if abs(exponent) > _LARGEST:
        raise ValueError(f"{ast.unparse(node)!r} is too large: the exponent is {exponent}")
    if isinstance(base, Fraction):
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * max(size - 1, 0) > _LARGEST:
            raise ValueError(f"{ast.unparse(node)!r} is too large")
        return Fraction(base**exponent)
    result, factor = _exact(Fraction(1)), _exact(base)
    for bit in bin(abs(exponent))[:1:-1]:
        if bit == "1":
            result = _exact(_small(_tidy(result * factor, node), node))
        factor = _exact(_tidy(factor * factor, node))
    return _tidy(1 / result if exponent < 0 else result, node)


def _floor(value: Number, node: ast.expr) -> Fraction:
    """Raises ValueError when the value is so near to a whole number that it cannot be told from it."""
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    near = sympy().Integer(sympy().N(value, _LARGEST // 3).round())
    return Fraction(int(near) - (sign(_tidy(value - near, node), node) < 0))


def _round(value: Number, places: Number, node: ast.expr) -> Number:
    """Halves away from zero; to -3 places is to thousands."""
    scale = Fraction(10) ** whole(places, node, least=-_LARGEST // 4, most=_LARGEST // 4)
    scaled = _small(combined(ast.Mult(), _absolute(value, node), scale, node), node)
    halves_up = _floor(combined(ast.Add(), scaled, Fraction(1, 2), node), node) / scale
    return -halves_up if sign(value, node) < 0 else halves_up


def _absolute(value: Number, node: ast.expr) -> Number:
    return -value if sign(value, node) < 0 else value


def _root(value: Number, degree: Number, node: ast.expr) -> Number:
    which = whole(degree, node, most=_LARGEST, least=1)
    if sign(value, node) < 0 and which % 2:
        return -_power(-value, Fraction(1, which), node)
    return _power(value, Fraction(1, which), node)


def _exp(value: Number, node: ast.expr) -> Number:
    return _power(sympy().E, value, node)


def _log(value: Number, base: Number | None, node: ast.expr) -> Number:
    if sign(value, node) <= 0 or (base is not None and sign(base, node) <= 0):
        raise ValueError(f"{ast.unparse(node)!r} has no real value: logarithms are of positive numbers")
    if base == 1:
        raise ValueError(f"{ast.unparse(node)!r} has no value: the base is 1")
    return _tidy(sympy().log(_exact(value), *([] if base is None else [_exact(base)])), node)


def _factorial(value: Number, node: ast.expr) -> Fraction:
    return Fraction(math.factorial(whole(value, node, most=500)))


def _binomial(value: Number, chosen: Number, node: ast.expr) -> Fraction:
    return Fraction(math.comb(whole(value, node, most=_LARGEST), whole(chosen, node, most=_LARGEST)))


def _extreme(values: list[Number], wanted: int, node: ast.expr) -> Number:
    best = values[0]
    for each in values[1:]:
        if sign(combined(ast.Sub(), each, best, node), node) == wanted:
            best = each
    return best


def _angle(name: str) -> Callable[..., Number]:
    return lambda value, node: _tidy(getattr(sympy(), name)(_exact(value)), node)


# name -> (fewest arguments, most arguments, what works it out, given them and the node)
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Number]]] = {
    "sqrt": (1, 1, lambda value, node: _root(value, Fraction(2), node)),
    "cbrt": (1, 1, lambda value, node: _root(value, Fraction(3), node)),
    "root": (2, 2, _root),
    "abs": (1, 1, _absolute),
    "floor": (1, 1, _floor),
    "ceil": (1, 1, lambda value, node: -_floor(-value, node)),
    "round": (1, 2, lambda value, *more: _round(value, *(more if len(more) == 2 else (Fraction(0), *more)))),
    "min": (1, 20, lambda *values: _extreme(list(values[:-1]), -1, values[-1])),
    "max": (1, 20, lambda *values: _extreme(list(values[:-1]), 1, values[-1])),
    "gcd": (2, 2, lambda a, b, node: Fraction(math.gcd(whole(a, node), whole(b, node)))),
    "lcm": (2, 2, lambda a, b, node: Fraction(math.lcm(whole(a, node), whole(b, node)))),
    "factorial": (1, 1, _factorial),
    "binomial": (2, 2, _binomial),
    "exp": (1, 1, _exp),
    "log": (1, 2, lambda value, *more: _log(value, *(more if len(more) == 2 else (None, *more)))),
    "ln": (1, 1, lambda value, node: _log(value, None, node)),
    "log2": (1, 1, lambda value, node: _log(value, Fraction(2), node)),
    "log10": (1, 1, lambda value, node: _log(value, Fraction(10), node)),
    **{name: (1, 1, _angle(name)) for name in ("sin", "cos", "tan", "asin", "acos", "atan")},
    "degrees": (1, 1, lambda value, node: _tidy(_exact(value) * 180 / sympy().pi, node)),
    "radians": (1, 1, lambda value, node: _tidy(_exact(value) * sympy().pi / 180, node)),
}


def _called(name: str, arguments: list[Number], node: ast.expr) -> Number:
    fewest, most, work_out = _FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        takes = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"{name} in {ast.unparse(node)!r} has {len(arguments)} arguments; it takes {takes}")
    return work_out(*arguments, node)


# --------------------------------------------------------------------------------------------------------------- values
def sympy() -> Any:
    """Loaded when fractions do not suffice; torch brings it along."""
    import sympy

    return sympy


def _exact(value: Number) -> Any:
    return sympy().Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else value


def _tidy(value: Any, node: ast.expr) -> Number:
    """One form for equal values where sympy knows one, and a Fraction wherever there is one."""
    if _terms(value) > _MOST_TERMS:
        raise ValueError(f"{ast.unparse(node)!r} has an exact value of too many terms")
    value = sympy().radsimp(sympy().expand(value))
    return Fraction(int(value.p), int(value.q)) if value.is_Rational else value


def _terms(value: Any) -> int:
    """How many terms the value has at most when it is multiplied out."""
    if value.is_Add:
        return sum(map(_terms, value.args))
    if value.is_Mul:
        return math.prod(map(_terms, value.args))
    if value.is_Pow and value.exp.is_Integer:
        return int(_terms(value.base) ** min(abs(int(value.exp)), _MOST_TERMS))
    return 1


def _small(value: Number, node: ast.expr) -> Number:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LARGEST:
            raise ValueError(f"{ast.unparse(node)!r} is too large or too finely divided")
    elif abs(_near(value, node)) > 2**_LARGEST:
        raise ValueError(f"{ast.unparse(node)!r} is too large")
    return value


def _near(value: Any, node: ast.expr, digits: int = 15) -> Any:
    """A decimal near a sympy value. Raises ValueError when the value is not a real number."""
    near = sympy().N(value, digits)
    if not near.is_Float and not near.is_Rational:
        raise ValueError(f"{ast.unparse(node)!r} has no real value")
    return near


def _float(value: Number, node: ast.expr) -> float:
    return float(value if isinstance(value, Fraction) else _near(value, node))


def sign(value: Number, node: ast.expr) -> int:
    """-1, 0 or 1. Raises ValueError for an irrational value that cannot be told from zero."""
    if isinstance(value, Fraction):
        return (value > 0) - (value < 0)
    near = _near(value, node, digits=_LARGEST // 3)
    largest = max([abs(_near(term, node)) for term in value.as_ordered_terms()], default=1)
    if abs(near) < largest * sympy().Float(10) ** -(_LARGEST // 4):
        raise ValueError(f"a part of {ast.unparse(node)!r} is zero, or too near to it to tell")
    return 1 if near > 0 else -1


def whole(value: Number, node: ast.expr, *, most: int | None = None, least: int = 0) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < least or (most and value > most):
        limit = f" from {least} to {most}" if most else f", {least} or more"
        raise ValueError(f"an argument of {ast.unparse(node)!r} is {written(value)}; it must be a whole number{limit}")
    return int(value)


def _decimal(literal: str) -> Fraction:
    """The literal's own digits, so that 0.1 is a tenth and not the nearest binary float."""
    number = Decimal(literal)
    if abs(number.adjusted()) > _LARGEST // 4:
        raise ValueError(f"{literal} is too large or too small")
    return Fraction(number)


# -------------------------------------------------------------------------------------------------------------- writing
def rounded(value: Number, digits: int) -> str:
    """The nearest decimal of so many significant digits, halves to even."""
    if not isinstance(value, Fraction):
        return str(sympy().N(value, digits))
    near = Context(prec=digits).divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{near:f}" if abs(near.adjusted()) <= digits + 3 else str(near)


def written(number: Number) -> str:
    """A whole number, an exact decimal where there is a short one, otherwise a decimal and the exact form."""
    if isinstance(number, Fraction) and number.denominator == 1:
        return str(number.numerator)
    is_fraction = isinstance(number, Fraction)
    places = next((n for n in range(1, 16) if 10**n % number.denominator == 0), None) if is_fraction else None
    if places is None:
        fits = is_fraction and 1e-300 < abs(number) < 1e300
        near = f"{float(number):.{_DIGITS}g}" if fits else rounded(number, _DIGITS)
        exact = str(number)
        return f"about {near} = {exact}" if len(exact) <= _LONGEST else near
    scaled = abs(number.numerator) * 10**places // number.denominator
    digits = str(scaled).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"

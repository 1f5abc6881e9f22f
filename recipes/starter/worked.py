"""Mathematics written out: short steps, each an equation, whose last right-hand side is the answer.

`12*34 = 360 + 48 = 408; 408 - 9 = 399` is read by a checker as 399: what stands after the last "=". Numbers are exact.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

Form = dict[str, Fraction]
"""A linear form: the coefficient of each symbol, and the constant under ""."""
Polynomial = dict[int, Fraction]
"""The coefficient of each power."""
Steps = list[str]


def finish(steps: Sequence[str], answer: str) -> str:
    """The steps and the answer, which is not said twice where the last step ends with it."""
    text = "; ".join(steps)
    if not text:
        return answer
    return text if text.endswith(f"= {answer}") else f"{text} = {answer}"


# ------------------------------------------------------------------------------------------------------------- numbers
def shown(value: Fraction, *, decimal: bool = False) -> str:
    """A whole number, a decimal where it is asked for and there is a finite one, otherwise a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    places = _places(value) if decimal else None
    if places is None:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _places(value: Fraction) -> int | None:
    """How many digits after the point a decimal needs; None if no number of digits is enough."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else None


def number(text: str) -> Fraction:
    """ "-7", "2/3" or "0.25". Raises ValueError."""
    return Fraction(text.strip())


def joined(first: str, sign: str, second: str) -> str:
    """An operation as the questions write it: bracketed where a sign or a fraction would be misread."""
    tight = sign in "*/"
    left = f"({first})" if tight and (first.startswith("-") or "/" in first) else first
    right = f"({second})" if (tight and second.startswith("-")) or "/" in second else second
    return f"{left}{sign}{right}" if tight else f"{left} {sign} {right}"


def _digits(value: Fraction) -> list[int]:
    """72040 as 70000, 2000, 40."""
    text = str(int(value))
    return [int(digit) * 10 ** (len(text) - place - 1) for place, digit in enumerate(text) if digit != "0"]


def multiplied(first: Fraction, second: Fraction, *, decimal: bool = False) -> str:
    """The step of a product; one of longer whole numbers with its partial products."""
    product = shown(first * second, decimal=decimal)
    said = joined(shown(first, decimal=decimal), "*", shown(second, decimal=decimal))
    if decimal and (first.denominator > 1 or second.denominator > 1):
        a, b = (abs(one * 10 ** (_places(one) or 0)) for one in (first, second))
        shifts = any(str(int(one)).rstrip("0") in ("", "1") for one in (a, b))
        return f"{said} = {product}" if shifts else f"{multiplied(a, b)}; {said} = {product}"
    if first.denominator > 1 or second.denominator > 1:
        return f"{said} = {product}"
    rest, cut = sorted((abs(first), abs(second)), key=lambda one: (len(_digits(one)), one), reverse=True)
    if rest < 10 or len(_digits(cut)) < 2:
        return f"{said} = {product}"
    parts = _digits(cut)
    partial = " + ".join(str(int(rest) * part) for part in parts)
    return f"{said} = {f'-({partial})' if product[0] == '-' else partial} = {product}"


# --------------------------------------------------------------------------------------------------------- expressions
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def expression(text: str) -> tuple[Steps, str]:
    """Every operation in turn, from the inside out. Raises ValueError for what is no arithmetic."""
    steps: Steps = []
    decimal = "." in text
    value = _value(_parsed(text), text, steps, decimal)
    return steps, shown(value, decimal=decimal)


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression") from error


def _literal(node: ast.expr, text: str) -> Fraction | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(Decimal(ast.get_source_segment(text.strip(), node) or ""))
    return None


def _value(node: ast.expr, text: str, steps: Steps, decimal: bool) -> Fraction:
    if (literal := _literal(node, text)) is not None:
        return literal
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, text, steps, decimal)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
        raise ValueError(f"{ast.unparse(node)!r} in {text!r} is no arithmetic")
    first = _value(node.left, text, steps, decimal)
    second = _value(node.right, text, steps, decimal)
    return operated(first, _SIGNS[type(node.op)], second, steps, decimal=decimal)


def operated(first: Fraction, sign: str, second: Fraction, steps: Steps, *, decimal: bool = False) -> Fraction:
    """The result of one operation, with its step added; a fraction in lowest terms needs none."""
    if sign == "*" and first == 1:
        return second
    if sign == "*":
        steps.append(multiplied(first, second, decimal=decimal))
        return first * second
    if sign == "/" and second == 0:
        raise ValueError(f"{first}/0 has no value")
    value = first / second if sign == "/" else first + second if sign == "+" else first - second
    said = joined(shown(first, decimal=decimal), sign, shown(second, decimal=decimal))
    if said.replace("(", "").replace(")", "") != shown(value, decimal=decimal):
        steps.append(f"{said} = {shown(value, decimal=decimal)}")
    return value


# -------------------------------------------------------------------------------------------------------- linear forms
def form(text: str) -> Form:
    """Reads `2*x - 3*x + 5`. Raises ValueError for what is not linear."""
    found = _form(_parsed(text), text)
    return {symbol: found[symbol] for symbol in sorted(found) if found[symbol] or symbol == ""}


def _form(node: ast.expr, text: str) -> Form:
    if isinstance(node, ast.Name):
        return {node.id: Fraction(1), "": Fraction(0)}
    if (literal := _literal(node, text)) is not None:
        return {"": literal}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _scaled(_form(node.operand, text), Fraction(-1))
    if isinstance(node, ast.BinOp):
        left, right = _form(node.left, text), _form(node.right, text)
        match node.op:
            case ast.Add():
                return combined(left, right)
            case ast.Sub():
                return combined(left, _scaled(right, Fraction(-1)))
            case ast.Mult() if right.keys() == {""}:
                return _scaled(left, right[""])
            case ast.Mult() if left.keys() == {""}:
                return _scaled(right, left[""])
    raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not linear")


def _scaled(given: Mapping[str, Fraction], factor: Fraction) -> Form:
    return {symbol: value * factor for symbol, value in given.items()}


def combined(left: Mapping[str, Fraction], right: Mapping[str, Fraction]) -> Form:
    return {symbol: left.get(symbol, Fraction(0)) + right.get(symbol, Fraction(0)) for symbol in {*left, *right, ""}}


def said_form(given: Mapping[str, Fraction]) -> str:
    """`2*x - y + 5`: symbols in order of the alphabet, then the constant."""
    terms = [(value, f"*{symbol}") for symbol, value in sorted(given.items()) if symbol and value]
    if given.get("") or not terms:
        terms.append((given.get("", Fraction(0)), ""))
    return _sum(terms)


def _sum(terms: Sequence[tuple[Fraction, str]]) -> str:
    text = ""
    for value, rest in terms:
        size = rest[1:] if abs(value) == 1 and rest else f"{abs(value)}{rest}"
        sign = "-" if value < 0 else "+"
        text += f" {sign} {size}" if text else ("-" if value < 0 else "") + size
    return text


# ----------------------------------------------------------------------------------------------------------- equations
def equations(texts: Sequence[str], wanted: str) -> tuple[Steps, str]:
    """One equation in one symbol, or two in two. Raises ValueError if they do not say what `wanted` is."""
    sides = [(form(left), form(right)) for left, right in (text.split(" = ") for text in texts)]
    if len(sides) == 1:
        return _one(texts[0], *sides[0], wanted)
    return _two(sides, wanted)


def _one(text: str, left: Form, right: Form, wanted: str) -> tuple[Steps, str]:
    steps = [f"{said_form(left)} = {said_form(right)}"]
    if steps[0] == text:
        steps.clear()
    moved = combined(left, _scaled(right, Fraction(-1)))
    others = [symbol for symbol, value in moved.items() if value and symbol not in (wanted, "")]
    factor, value = moved.get(wanted, Fraction(0)), -moved[""]
    if others or not factor:
        raise ValueError(f"{text!r} does not say what {wanted} is")
    return _divided(factor, value, wanted, steps)


def _divided(factor: Fraction, value: Fraction, wanted: str, steps: Steps) -> tuple[Steps, str]:
    if factor < 0:
        factor, value = -factor, -value
    for step in (f"{said_form({wanted: factor})} = {value}", f"{wanted} = {value / factor}"):
        if step not in steps:
            steps.append(step)
    return steps, str(value / factor)


def _two(sides: Sequence[tuple[Form, Form]], wanted: str) -> tuple[Steps, str]:
    forms = []
    for left, right in sides:
        moved = combined(left, _scaled(right, Fraction(-1)))
        forms.append(({symbol: value for symbol, value in moved.items() if symbol and value}, -moved[""]))
    symbols = sorted({symbol for known, _ in forms for symbol in known} - {wanted})
    if len(symbols) > 1:
        raise ValueError(f"there are more than two symbols: {wanted}, {', '.join(symbols)}")
    other = symbols[0] if symbols else ""
    for known, value in forms:
        if known.keys() == {wanted}:
            return _divided(known[wanted], value, wanted, [])
    steps = [f"{said_form(known)} = {value}" for known, value in forms]
    (first, one), (second, two) = forms
    a, b = first.get(other, Fraction(0)), second.get(other, Fraction(0))
    if not a or not b or a.denominator > 1 or b.denominator > 1:
        raise ValueError(f"{wanted} cannot be told from {steps}")
    shared = math.gcd(int(a), int(b))
    k, m = abs(b) / shared, abs(a) / shared
    for known, value, times in ((first, one, k), (second, two, m)):
        if (scaled := f"{said_form(_scaled(known, times))} = {value * times}") not in steps:
            steps.append(scaled)
    m = m if a * b > 0 else -m
    factor = first.get(wanted, Fraction(0)) * k - second.get(wanted, Fraction(0)) * m
    if not factor:
        raise ValueError(f"{wanted} cannot be told from {steps}")
    return _divided(factor, one * k - two * m, wanted, steps)


# --------------------------------------------------------------------------------------------------------- polynomials
def polynomial(text: str, symbol: str) -> Polynomial:
    """Reads `j**2 - 12*j - 8`, collected or not. Raises ValueError."""
    found = _polynomial(_parsed(text), text, symbol)
    return {power: found[power] for power in sorted(found, reverse=True) if found[power]}


def _polynomial(node: ast.expr, text: str, symbol: str) -> Polynomial:
    if isinstance(node, ast.Name) and node.id == symbol:
        return {1: Fraction(1)}
    if (literal := _literal(node, text)) is not None:
        return {0: literal}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return {power: -value for power, value in _polynomial(node.operand, text, symbol).items()}
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"{ast.unparse(node)!r} in {text!r} is no polynomial of {symbol}")
    left, right = _polynomial(node.left, text, symbol), _polynomial(node.right, text, symbol)
    match node.op:
        case ast.Add() | ast.Sub():
            sign = 1 if isinstance(node.op, ast.Add) else -1
            powers = {*left, *right}
            return {n: left.get(n, Fraction(0)) + sign * right.get(n, Fraction(0)) for n in powers}
        case ast.Mult():
            product: Polynomial = {}
            for (n, a), (m, b) in ((one, two) for one in left.items() for two in right.items()):
                product[n + m] = product.get(n + m, Fraction(0)) + a * b
            return product
        case ast.Div() if right.keys() == {0} and right[0]:
            return {power: value / right[0] for power, value in left.items()}
        case ast.Pow() if right.keys() == {0} and left == {1: Fraction(1)} and right[0].denominator == 1:
            return {int(right[0]): Fraction(1)}
    raise ValueError(f"{ast.unparse(node)!r} in {text!r} is no polynomial of {symbol}")


def said_polynomial(terms: Iterable[tuple[int, Fraction]], symbol: str) -> str:
    """Terms of a power and its coefficient, in the order given; a power may come more than once."""
    said = [(value, ("", f"*{symbol}", f"*{symbol}**{power}")[min(power, 2)]) for power, value in terms]
    return _sum(said) if said else "0"


def evaluated(name: str, symbol: str, text: str, at: Fraction) -> tuple[Steps, str]:
    """Horner's way: multiply by the argument, add the next coefficient."""
    found = polynomial(text, symbol)
    powers = max(found, default=0)
    collected = len(re.split(r" [+-] ", text)) == max(len(found), 1)
    steps: Steps = [] if collected else [f"{name}({symbol}) = {said_polynomial(found.items(), symbol)}"]
    value = found.get(powers, Fraction(0))
    for power in range(powers - 1, -1, -1):
        value = operated(value, "*", at, steps)
        if coefficient := found.get(power, Fraction(0)):
            value = operated(value, "+" if coefficient > 0 else "-", abs(coefficient), steps)
    return steps, shown(value)

"""Exact numbers, and no expression that takes long or is anything but arithmetic."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.agents import toolbox


def worked_out(expression: str, digits: int | None = None) -> str:
    return str(toolbox.evaluate.invoke({"expression": expression, "digits": digits}))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("sqrt(2)", "about 1.41421356237 = sqrt(2)"),
        ("sqrt(8) * sqrt(2)", "4"),
        ("(sqrt(2) + 1) * (sqrt(2) - 1)", "1"),
        ("1 / (1 + sqrt(2)) - (sqrt(2) - 1)", "0"),
        ("cos(pi / 4) * sqrt(2)", "1"),
        ("sin(radians(30))", "0.5"),
        ("degrees(pi)", "180"),
        ("log(8, 2)", "3"),
        ("log10(1/1000)", "-3"),
        ("ln(e ** 5)", "5"),
        ("2 ** 0.5 * 2 ** 0.5", "2"),
        ("cbrt(-27)", "-3"),
        ("root(2, 12) ** 12", "2"),
        ("-7 % pi", "about 2.42477796077 = -7 + 3*pi"),
        ("floor(-pi)", "-4"),
        ("ceil(sqrt(16))", "4"),
        ("floor((sqrt(2) + 1) * (sqrt(2) - 1))", "1"),
        ("round(2.5)", "3"),
        ("round(-2.345, 2)", "-2.35"),
        ("round(-31500, -3)", "-32000"),
        ("round(pi, 4)", "3.1416"),
        ("max(3, pi, 22/7) - min(pi, 22/7)", "about 0.00126448926735 = 22/7 - pi"),
        ("abs(1 - sqrt(2))", "about 0.414213562373 = -1 + sqrt(2)"),
        ("factorial(20) / binomial(20, 10)", "13168189440000"),
        ("gcd(12, 18) * lcm(4, 6)", "72"),
        ("2^10 × 3 ÷ 6 − 2·6", "500"),
        ("(1 + sqrt(2)) ** 3", "about 14.0710678119 = 7 + 5*sqrt(2)"),
    ],
)
def test_values_are_exact(expression: str, value: str) -> None:
    assert worked_out(expression) == value


@pytest.mark.parametrize(
    ("expression", "finding"),
    [
        ("is_prime(2 ** 61 - 1)", "True"),
        ("is_prime(91)", "False"),
        ("is_prime(-7)", "False"),
        ("is_composite(91)", "True"),
        ("is_composite(1)", "False"),
        ("sort(3, 1/2, -2, 0.25)", "-2, 0.25, 1/2, 3"),
        ("sort_down(sqrt(2), 1.5, 7/5)", "1.5, sqrt(2), 7/5"),
        ("kth_largest(2, 3, 1/2, 0.75)", "0.75"),
        ("kth_smallest(1, a=3, b=-1/2)", "b"),
        ("solve(-2140 + 8320 == -721*r - 15450, r)", "-30"),
        ("solve(2*e - 3*(pi + 1)/2 == 1, 4*pi == 2 + e, e)", "2"),
        ("solve(x + y + z == 6, x - y == 1, z == 3, x)", "2"),
        ("solve(0*y + sqrt(4)*x == 3, x)", "1.5"),
    ],
)
def test_what_is_no_number_is_found_too(expression: str, finding: str) -> None:
    assert worked_out(expression) == finding


@given(st.lists(st.fractions(-(10**6), 10**6, max_denominator=10**4), min_size=1, max_size=9))
def test_the_kth_is_where_sorting_puts_it(numbers: list[Fraction]) -> None:
    said = ", ".join(f"{number.numerator}/{number.denominator}" for number in numbers)
    ordered = worked_out(f"sort({said})").split(", ")
    assert [Fraction(one) for one in ordered] == sorted(numbers)
    assert [worked_out(f"kth_smallest({k + 1}, {said})") for k in range(len(numbers))] == ordered
    assert [worked_out(f"kth_largest({k + 1}, {said})") for k in range(len(numbers))][::-1] == ordered


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sort(3, 2) + 1", "stands alone"),
        ("is_prime(1.5)", "1.5; it must be a whole number"),
        ("is_prime(5, 7)", "has 2 arguments; it takes 1"),
        ("is_prime(10 ** 61)", "it must be a whole number"),
        ("kth_largest(3, 1, 2)", "it must be a whole number from 1 to 2"),
        ("kth_largest(2)", "has 1 arguments; it takes 2 to 40"),
        ("sort(*3)", "is not arithmetic"),
        ("solve(x*y == 1, x)", "'x * y' is not linear"),
        ("solve(x + y == 1, x)", "does not say what x is"),
        ("solve(x == 1, x == 2, x)", "contradict each other"),
        ("solve(x == 1)", "is not as solve("),
        ("solve()", "is not as solve("),
        ("solve(x < 1, x)", "'x < 1' is not an equation"),
        ("solve(sqrt(2)*x == 1, x)", "only fractions are solved with"),
        ("solve(x / 0 == 1, x)", "divides by zero"),
        ("solve(a + b + c + d + f + g + h == 1, a)", "has 7 unknowns; at most 6"),
    ],
)
def test_a_finding_that_is_none_is_named(expression: str, said: str) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        worked_out(expression)


@pytest.mark.parametrize(
    ("expression", "digits", "value"),
    [
        ("pi", 50, "3.1415926535897932384626433832795028841971693993751"),
        ("1 / 7", 30, "0.142857142857142857142857142857"),
        ("2 / 3", 3, "0.667"),
        ("1 / 8", 1, "0.1"),
        ("10 ** 1000 / 3", 5, "3.3333E+999"),
    ],
)
def test_decimals_on_demand(expression: str, digits: int, value: str) -> None:
    assert worked_out(expression, digits) == value


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("sqrt(-1)", r"'sqrt\(-1\)' has no real value"),
        ("2 + log(0)", r"'log\(0\)' has no real value"),
        ("tan(pi / 2)", "no real value"),
        ("asin(2)", "no real value"),
        ("0 ** -1", "divides by zero"),
        ("1 / (sqrt(2) ** 2 - 2)", "divides by zero"),
        ("exp(exp(exp(10)))", "too large"),
        ("2 ** sqrt(10 ** 9)", "too large"),
        ("(1 + sqrt(2)) ** 99999", "the exponent is 99999"),
        ("factorial(1000)", "an argument of 'factorial.1000.' is 1000; it must be a whole number from 0 to 500"),
        ("gcd(1/2, 3)", "is 0.5; it must be a whole number"),
        ("sqrt(2, 3)", "sqrt .* has 2 arguments; it takes 1"),
        ("cosh(1)", "'cosh' in 'cosh.1.' is not known here; known are pi, e, sqrt"),
        ("__import__('os').system('id')", "not arithmetic"),
        ("(lambda: 1)()", "not arithmetic"),
        ("sqrt.__class__", "not arithmetic"),
        ("'9' * 9", "not arithmetic"),
        ("1j", "not arithmetic"),
        ("(" * 199, "not an arithmetic expression"),
        ("sqrt(2)+" * 30 + "1", "has 241 characters; at most 200"),
    ],
)
def test_what_has_no_value_is_named(expression: str, says: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError), match=says):
        worked_out(expression)


def test_a_sum_of_too_many_terms_is_refused_before_it_is_multiplied_out() -> None:
    with pytest.raises(ValueError, match="too many terms"):
        worked_out("(sqrt(2)+sqrt(3)+sqrt(5)+sqrt(7)+sqrt(11)+sqrt(13)) ** 60")


@pytest.mark.parametrize("digits", [0, 1001])
def test_digits_have_a_limit(digits: int) -> None:
    with pytest.raises(ValueError, match=f"digits = {digits} is not between 1 and 1000"):
        worked_out("pi", digits)


SMALL = st.integers(1, 40).map(str)
EXPRESSIONS = st.recursive(
    SMALL | st.sampled_from(["pi", "e"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(st.sampled_from(["sqrt", "sin", "cos", "exp", "log", "abs", "floor"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
    ),
    max_leaves=5,
)


@given(expression=EXPRESSIONS)
def test_decimals_agree_with_floats(expression: str) -> None:
    """Python's own floats, where they are far from their limits, say the same; what has no value has none there."""
    names = {name: getattr(math, name) for name in ("pi", "e", "sqrt", "sin", "cos", "exp", "log", "floor")}
    try:
        value = worked_out(expression, 25)
    except (ValueError, ZeroDivisionError):
        return
    try:
        expected = float(eval(expression, {"abs": abs, **names}))
    except (ValueError, ZeroDivisionError, OverflowError):
        return
    # Of sin(exp(25)) and cos(exp(25)) floats know four digits.
    ill = "floor" in expression or ("exp" in expression and ("sin" in expression or "cos" in expression))
    if 1e-6 < abs(expected) < 1e12 and not ill:
        assert math.isclose(float(value), expected, rel_tol=1e-6, abs_tol=1e-6)


@given(numerator=st.integers(-(10**30), 10**30), denominator=st.integers(1, 10**30), digits=st.integers(1, 60))
def test_a_rounded_fraction_is_the_nearest(numerator: int, denominator: int, digits: int) -> None:
    exact = Fraction(numerator, denominator)
    rounded = Fraction(worked_out(f"{numerator} / {denominator}", digits))
    if exact == 0:
        assert rounded == 0
    else:
        place = math.floor(math.log10(abs(exact))) + 1 - digits
        assert abs(rounded - exact) <= Fraction(10) ** (place + 1) / 2

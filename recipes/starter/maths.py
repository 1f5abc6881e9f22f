"""The primitives of composed mathematics: expressions, linear equations, polynomials, and what is asked at the end.

Questions and gold answers are those of DeepMind's `mathematics-dataset` (Apache-2.0), drawn when they are needed: its
primitive modules give the same rows for the same seed. The test is its official split `interpolate`, of harder
questions; `near` rows are as hard as the training's, from a far seed. One polynomial in eight is written in more terms
than it needs: composed questions have such ones.

An answer comes directly, after the steps that lead there (worked.py), or as a call of the calculator: copied from the
question, nothing worked out. Steps and calls are made here and checked against the gold answer.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, Literal

from sources import FAR, Problem, in_all_levels, problems
from toolcall import call_row, own_tools
from worked import Steps, equations, evaluated, expression, finish, number, operated, polynomial, said_polynomial, shown

from plural.agents import toolbox
from plural.evals.finals import equal_value

Row = dict[str, Any]
Kind = Literal["exprs", "linear", "polyeval", "finalstep"]
Form = Literal["direct", "steps", "tool"]
KINDS: tuple[Kind, ...] = ("exprs", "linear", "polyeval", "finalstep")

MODULES: dict[Kind, tuple[str, ...]] = {
    "exprs": (
        "arithmetic__mixed",
        "arithmetic__add_sub_multiple",
        "arithmetic__mul_div_multiple",
        "arithmetic__add_or_sub",
    ),
    "linear": ("algebra__linear_1d", "algebra__linear_2d"),
    "polyeval": ("polynomials__evaluate",),
    "finalstep": (
        "numbers__gcd",
        "numbers__div_remainder",
        "numbers__round_number",
        "numbers__place_value",
        "numbers__is_prime",
        "comparison__sort",
        "comparison__kth_biggest",
    ),
}
PURPOSES: dict[Kind, str] = {
    "exprs": "Works out an expression of + - * / and brackets exactly.",
    "linear": "Solves one linear equation, or two in two unknowns, for one of them.",
    "polyeval": "Evaluates a polynomial at a number.",
    "finalstep": (
        "Greatest common factor, remainder, rounding, digit of a place, prime or not, sorting, k-th biggest of numbers."
    ),
}
INSTRUCTIONS: dict[Kind, str] = {
    "exprs": "Work it out.",
    "linear": "Solve it.",
    "polyeval": "Evaluate it.",
    "finalstep": "Answer with the value.",
}
TRAINED = 4000
TESTED = 300


# ----------------------------------------------------------------------------------------------------------- questions
_EXPRESSION = re.compile(r"(?:(?:What is(?: the value of)?|Calculate|Evaluate|Work out) )?([-(\d][-+*/(). \d]*?)[.?]?")
_LINEAR = re.compile(r"Solve (.+) for ([a-z])\.")
_POLYNOMIAL = re.compile(r"Let ([a-z])\(([a-z])\) = (.+)\. (?:What is|Calculate|Determine|Give) \1\((.+)\)[.?]")

Solution = tuple[Steps, str]


def solved(kind: Kind, question: str) -> Solution:
    """The steps and the answer of one question. Raises ValueError for a question of another kind."""
    match kind:
        case "exprs":
            return expression(_found(_EXPRESSION, question)[1])
        case "linear":
            found = _found(_LINEAR, question)
            return equations(found[1].split(", "), found[2])
        case "polyeval":
            found = _found(_POLYNOMIAL, question)
            return evaluated(found[1], found[2], found[3], number(found[4]))
    for pattern, (solve, _) in _FINALS.items():
        if asked := re.fullmatch(pattern, question):
            return solve(asked)
    raise ValueError(f"{question!r} is no last step")


def calculation(kind: Kind, question: str) -> str:
    """The one calculation that answers a question. Raises ValueError for a question of another kind."""
    match kind:
        case "exprs":
            return _found(_EXPRESSION, question)[1].strip()
        case "linear":
            found = _found(_LINEAR, question)
            return f"solve({found[1].replace(' = ', ' == ')}, {found[2]})"
        case "polyeval":
            found = _found(_POLYNOMIAL, question)
            value = found[4] if found[4].isdigit() else f"({found[4]})"
            return re.sub(rf"\b{found[2]}\b", value, found[3])
    for pattern, (_, call) in _FINALS.items():
        if asked := re.fullmatch(pattern, question):
            return call(asked)
    raise ValueError(f"{question!r} is no last step")


def _found(pattern: re.Pattern[str], question: str) -> re.Match[str]:
    if found := pattern.fullmatch(question):
        return found
    raise ValueError(f"{question!r} does not look like {pattern.pattern}")


# ---------------------------------------------------------------------------------------------------------- last steps
_PLACES = (
    "units", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands", "millions", "ten millions",
    "hundred millions", "billions", "ten billions", "hundred billions",
)  # fmt: skip
_COUNTS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
           "ten": 10, "hundred": 100, "thousand": 1000, "million": 1_000_000, "integer": 1, "whole": 1}  # fmt: skip
_ORDINALS = ("", "second ", "third ", "fourth ", "fifth ", "sixth ", "seventh ", "eighth ")


def _gcd(asked: re.Match[str]) -> Solution:
    """Euclid's way."""
    big, small = sorted((abs(int(asked[1])), abs(int(asked[2]))), reverse=True)
    steps: Steps = []
    while small:
        steps.append(f"{big} % {small} = {big % small}")
        big, small = small, big % small
    return [*steps, f"gcd = {big}"], str(big)


def _call_gcd(asked: re.Match[str]) -> str:
    return f"gcd({asked[1]}, {asked[2]})"


def _remainder(asked: re.Match[str]) -> Solution:
    number_, divisor = Fraction(asked[1]), Fraction(asked[2])
    steps: Steps = []
    quotient = Fraction(number_ // divisor)
    operated(number_, "-", operated(divisor, "*", quotient, steps), steps)
    return steps, shown(number_ % divisor)


def _call_remainder(asked: re.Match[str]) -> str:
    return f"{asked[1]} % {asked[2]}"


def _rounded(asked: re.Match[str]) -> Solution:
    """A bar stands before the digits that go."""
    given, unit = Decimal(asked[1]), _unit(asked[2])
    value = Fraction((given / unit).quantize(Decimal(1), ROUND_HALF_UP) * unit)
    text = asked[1] if "." in asked[1] else asked[1] + "."
    kept = text.index(".") - (unit.adjusted() if unit >= 1 else unit.adjusted() - 1)
    marked = f"{text[:kept]}|{text[kept:]}".removesuffix(".") if 0 < kept < len(text) else asked[1]
    answer = shown(value, decimal=True)
    return [f"{marked.replace('|.', '|')} = {answer}"], answer


def _call_round(asked: re.Match[str]) -> str:
    unit = _unit(asked[2])
    return f"round({asked[1]}, {-unit.adjusted()})"


def _unit(words: str) -> Decimal:
    """ "one dp", "4 decimal places", "the nearest 10000", "the nearest ten thousand" as 0.1, 0.0001, 10000, 10000."""
    if places := re.fullmatch(r"(\w+) (?:dps?|decimal places?)", words):
        return Decimal(1).scaleb(-_count([places[1]]))
    return Decimal(_count(words.removeprefix("the nearest ").split()))


def _count(words: Sequence[str]) -> int:
    return math.prod(int(word) if word.isdigit() else _COUNTS[word] for word in words if word != "number")


def _digit(asked: re.Match[str]) -> Solution:
    place = _PLACES.index(asked[1])
    digits = str(abs(int(asked[2])))[::-1]
    said = ", ".join(f"{digit} {name}" for digit, name in zip(digits[: place + 1], _PLACES, strict=False))
    return [f"{said} = {digits[place]}"], digits[place]


def _call_digit(asked: re.Match[str]) -> str:
    return f"abs({asked[2]}) // {10 ** _PLACES.index(asked[1])} % 10"


def _prime(asked: re.Match[str]) -> Solution:
    """The smallest factor, where there is one."""
    given = int(asked[1])
    factor = next((n for n in range(2, math.isqrt(max(given, 0)) + 1) if given % n == 0), None)
    prime = given > 1 and factor is None
    answer = str(prime == (asked[2] == "prime"))
    return [f"{factor}*{given // factor} = {answer}" if factor else f"no factor = {answer}"], answer


def _call_prime(asked: re.Match[str]) -> str:
    return f"is_{asked[2]}({asked[1]})"


def _sorted(asked: re.Match[str]) -> Solution:
    texts = asked[1].split(", ")
    falling = (asked[2] or "").startswith(("de",))
    answer = ", ".join(sorted(texts, key=number, reverse=falling))
    return _as_decimals(texts), answer


def _call_sort(asked: re.Match[str]) -> str:
    return f"sort{'_down' if (asked[2] or '').startswith('de') else ''}({asked[1]})"


def _as_decimals(texts: Sequence[str]) -> Steps:
    """Fractions are compared as decimals; numbers without any need no step."""
    return [f"{text} ~ {float(number(text)):.3f}" for text in texts if "/" in text]


def _kth(asked: re.Match[str]) -> Solution:
    named = _named(asked[3])
    biggest = asked[2] in _BIGGEST
    order = sorted(named, key=lambda name: number(named[name]), reverse=biggest)
    rank = _ORDINALS.index(asked[1] or "")
    steps = _as_decimals([*named.values()])
    return [*steps, f"{', '.join(named[name] for name in order[: rank + 1])} = {order[rank]}"], order[rank]


def _call_kth(asked: re.Match[str]) -> str:
    rank = _ORDINALS.index(asked[1] or "") + 1
    said = ", ".join(value if name == value else f"{name}={value}" for name, value in _named(asked[3]).items())
    return f"kth_{'largest' if asked[2] in _BIGGEST else 'smallest'}({rank}, {said})"


def _named(values: str) -> dict[str, str]:
    """Choices by their letters, or values by themselves."""
    if "(a)" in values:
        return dict(re.findall(r"\(([a-z])\) (\S+)", values))
    return {text: text for text in values.removeprefix(" in ").split(", ")}


_BIGGEST = ("biggest", "largest")
_ASKED = r"(?:Calculate|What is) the (?:greatest|highest) common (?:divisor|factor) of (.+) and (.+)[.?]"
_FINALS: dict[str, tuple[Callable[[re.Match[str]], Solution], Callable[[re.Match[str]], str]]] = {
    _ASKED: (_gcd, _call_gcd),
    r"(?:Calculate|What is) the remainder when (.+) is divided by (.+)[.?]": (_remainder, _call_remainder),
    r"Round (.+?) to (.+)\.": (_rounded, _call_round),
    r"What is (.+?) rounded to (.+)\?": (_rounded, _call_round),
    r"What is the (.+) digit of (.+)\?": (_digit, _call_digit),
    r"Is (.+?) (?:a )?(prime|composite)(?: number)?\?": (_prime, _call_prime),
    r"(?:Sort|Put) (.+?)(?: in (\w+) order)?\.": (_sorted, _call_sort),
    r"(?:What|Which) is the (\w+ )?(biggest|smallest|largest) value((?: in |\?  \(a\)).+?)\??": (_kth, _call_kth),
}


# ---------------------------------------------------------------------------------------------------------------- rows
def row(kind: Kind, problem: Problem, form: Form) -> Row:
    """A question and its gold answer, after the steps if they are wanted. Raises ValueError if steps lead elsewhere."""
    question, gold = problem
    if form == "tool":
        return _called(question, calculation(kind, question), gold)
    steps, answer = solved(kind, question)
    if equal_value(answer, gold) != 1.0:
        raise ValueError(f"{question!r} is {gold}, but {steps} lead to {answer}")
    return {"prompt": question, "answer": finish(steps, gold) if form == "steps" else gold}


def _called(question: str, expression_: str, gold: str) -> Row:
    result = str(toolbox.calculate.invoke({"expression": expression_}))
    if equal_value(result, gold) != 1.0:
        raise ValueError(f"{question!r} is {gold}, but {expression_} is {result}")
    call = {"name": toolbox.calculate.name, "arguments": {"expression": expression_}}
    return call_row(question, own_tools()[:1], [call], result, result)


def _asked(kind: Kind, problem: Problem) -> bool:
    """Sums said in words are another skill's; the largest of the official numbers are left out."""
    question = problem[0]
    return (kind != "exprs" or bool(_EXPRESSION.fullmatch(question))) and not re.search(r"\d{10}", question)


def spread(question: str, chance: random.Random) -> str:
    """The same polynomial with its terms split up and in another order, as composed questions have some."""
    found = _found(_POLYNOMIAL, question)
    terms: list[tuple[int, Fraction]] = []
    for power, coefficient in polynomial(found[3], found[2]).items():
        parts = [Fraction(chance.randint(-9, 9)) for _ in range(chance.choice((0, 0, 1, 2)))]
        terms += [(power, part) for part in [*parts, coefficient - sum(parts)]]
    chance.shuffle(terms)
    return question.replace(found[3], said_polynomial(terms, found[2]), 1)


@functools.cache
def _training(kind: Kind, count: int) -> tuple[Problem, ...]:
    more = 4 * count // 3 if kind == "exprs" else count
    rows = [problem for problem in in_all_levels(MODULES[kind], more) if _asked(kind, problem)]
    chance = random.Random(0)
    chance.shuffle(rows)
    if kind == "polyeval":
        rows[::8] = [(spread(question, chance), gold) for question, gold in rows[::8]]
    return tuple(rows)


def train_rows(kind: Kind, form: Form = "direct", count: int = TRAINED) -> list[Row]:
    return [row(kind, problem, form) for problem in _training(kind, count)]


def held_out_rows(kind: Kind, form: Form = "direct", count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    """Of the official split `interpolate`, as many of each module; none is a training question."""
    return _fresh(kind, form, ("interpolate",), count, trained)


def near_rows(kind: Kind, form: Form = "direct", count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    """Of the training's levels, from a far seed; none is a training question."""
    return _fresh(kind, form, ("train-small", "train-0", "train-1", "train-2"), count, trained)


def _fresh(kind: Kind, form: Form, splits: Sequence[str], count: int, trained: int) -> list[Row]:
    known = {question for question, _ in _training(kind, trained)}
    each = -(-count // (len(MODULES[kind]) * len(splits)))
    rows: list[Row] = []
    for module in MODULES[kind]:
        for split in splits:
            drawn = dict.fromkeys(problems(module, split, 4 * each, FAR))
            fresh = [problem for problem in drawn if problem[0] not in known and _asked(kind, problem)]
            rows += [_asked_only(row(kind, problem, form)) for problem in fresh[:each]]
    random.Random(7).shuffle(rows)
    return rows


def _asked_only(made: Row) -> Row:
    """Of a dialogue with a tool only the call is scored."""
    return made | {"messages": made["messages"][:2]} if "messages" in made else made

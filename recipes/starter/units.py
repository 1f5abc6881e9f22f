"""Conversion of units: lengths, times, masses, volumes.

Half of the questions are those of DeepMind's `mathematics-dataset` (Apache-2.0), the others are worded here. The test
is its official split `interpolate`, whose numbers are never trained on; `units_asked` rows are asked in words that are
never trained.

An answer comes directly, after its steps, or as a call of the calculator.
"""

from __future__ import annotations

import functools
import random
import re
from fractions import Fraction
from typing import Any, Literal

from sources import FAR, Problem, in_all_levels, problems
from toolcall import call_row, own_tools
from worked import finish, multiplied, number, shown

from plural.agents import toolbox
from plural.evals.finals import equal_value

Row = dict[str, Any]
Parts = tuple[str, str, str]
"""An amount as "4.75", "3" or "19/4", its unit, and the wanted one."""
Form = Literal["direct", "steps", "tool"]

NAME = "units"
PURPOSE = "Converts lengths, times, masses and volumes from one unit to another."
INSTRUCTIONS = "Convert."
MODULE = "measurement__conversion"
TRAINED = 4000
TESTED = 300
_SHORT = 5  # characters of an amount whose product is worth its partial products

# Of each unit its short form, if people use it, and its size in the first one of its dimension.
_DIMENSIONS: tuple[dict[str, tuple[str, Fraction]], ...] = (
    {"meter": ("m", Fraction(1)), "kilometer": ("km", Fraction(1000)), "centimeter": ("cm", Fraction(1, 100)),
     "millimeter": ("mm", Fraction(1, 1000)), "micrometer": ("um", Fraction(1, 10**6)),
     "nanometer": ("nm", Fraction(1, 10**9))},
    {"second": ("s", Fraction(1)), "minute": ("", Fraction(60)), "hour": ("", Fraction(3600)),
     "day": ("", Fraction(86400)), "week": ("", Fraction(604800)), "millisecond": ("ms", Fraction(1, 1000)),
     "microsecond": ("us", Fraction(1, 10**6)), "nanosecond": ("ns", Fraction(1, 10**9))},
    {"year": ("", Fraction(1)), "decade": ("", Fraction(10)), "century": ("", Fraction(100)),
     "millennium": ("", Fraction(1000)), "month": ("", Fraction(1, 12))},
    {"kilogram": ("kg", Fraction(1)), "tonne": ("t", Fraction(1000)), "gram": ("g", Fraction(1, 1000)),
     "milligram": ("mg", Fraction(1, 10**6)), "microgram": ("ug", Fraction(1, 10**9)),
     "nanogram": ("ng", Fraction(1, 10**12))},
    {"litre": ("l", Fraction(1)), "millilitre": ("ml", Fraction(1, 1000))},
)  # fmt: skip
_PLURALS = {"century": "centuries", "millennium": "millennia"}
_FRAMES = ("{0} {1} in {2}", "How many {2} are {0} {1}?", "{0} {1} to {2}", "convert {0} {1} into {2}",
           "How much is {0} {1} in {2}?", "What are {0} {1} in {2}?")  # fmt: skip
_FRAMES_IN_TESTS = ("Express {0} {1} in {2}.", "I have {0} {1}. How many {2} is that?", "{0} {1} = ? {2}")


def _plural(name: str) -> str:
    return _PLURALS.get(name, f"{name}s")


_NAMES: dict[str, tuple[int, str]] = {
    said: (place, name)
    for place, units in enumerate(_DIMENSIONS)
    for name, (short, _) in units.items()
    for said in (name, _plural(name), short)
    if said
}


# ----------------------------------------------------------------------------------------------------------- questions
_OFFICIAL = re.compile(
    r"How many (?P<to>\w+) are there in (?P<a>.+?)(?: of an?)? ?(?P<from>[a-z]+)\?"
    r"|What is (?P<b>.+?)(?: of an?)? ?(?P<from2>[a-z]+) in (?P<to2>\w+)\?"
    r"|Convert (?P<c>.+?) ?(?P<from3>[a-z]+) to (?P<to3>\w+)\."
)
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: E501, SIM905
_TENS = "twenty thirty fourty fifty sixty seventy eighty ninety".split()  # noqa: SIM905 - "fourty" is the data set's
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth eleventh twelth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth".split()  # noqa: E501, SIM905


def asked(question: str) -> Parts:
    """What a question asks for. Raises ValueError for what is not worded as the data set does."""
    found = _OFFICIAL.fullmatch(question)
    if found is None:
        raise ValueError(f"{question!r} asks for no conversion")
    amount, given, wanted = (text for text in _in_order(found) if text is not None)
    return _amount(amount), _NAMES[given][1], _NAMES[wanted][1]


def _in_order(found: re.Match[str]) -> tuple[str | None, ...]:
    for amount, given, wanted in (("a", "from", "to"), ("b", "from2", "to2"), ("c", "from3", "to3")):
        if found[amount] is not None:
            return found[amount], found[given], found[wanted]
    return ()


def _amount(text: str) -> str:
    """ "three fifths" as "3/5"."""
    if not text[0].isalpha():
        return text
    count, part = text.rsplit(" ", 1)
    singular = "half" if part == "halves" else part.removesuffix("s")
    return f"{_counted(count)}/{_PARTS.index(singular) + 2}"


def _counted(words: str) -> int:
    """ "twenty-one" as 21; the data set writes "fourteeen"."""
    tens, _, ones = words.replace("eee", "ee").partition("-")
    if tens in _TENS:
        return 10 * (_TENS.index(tens) + 2) + (_ONES.index(ones) if ones else 0)
    return _ONES.index(tens)


def solved(said: str, given: str, wanted: str) -> tuple[list[str], str, str]:
    """The steps, the answer and the calculation: how many of the smaller unit the larger one is, then * or /."""
    sizes = _DIMENSIONS[_NAMES[given][0]]
    ratio = sizes[given][1] / sizes[wanted][1]
    large, small, sign, factor = (given, wanted, "*", ratio) if ratio >= 1 else (wanted, given, "/", 1 / ratio)
    answer = shown(number(said) * ratio, decimal=True)
    calculation = f"({said}){sign}{factor}" if "/" in said else f"{said}{sign}{factor}"
    done = f"{calculation} = {answer}"
    if sign == "*" and "/" not in said and len(said) <= _SHORT:
        done = multiplied(number(said), factor, decimal=True)
    return [f"1 {large} = {factor} {_plural(small)}", done], answer, calculation


# ---------------------------------------------------------------------------------------------------------------- rows
def row(question: str, parts: Parts, gold: str, form: Form) -> Row:
    """Raises ValueError if the steps do not lead to the gold answer."""
    steps, answer, calculation = solved(*parts)
    if equal_value(answer, gold) != 1.0:
        raise ValueError(f"{question!r} is {gold}, but {steps} lead to {answer}")
    if form == "tool":
        call = {"name": toolbox.calculate.name, "arguments": {"expression": calculation}}
        result = str(toolbox.calculate.invoke({"expression": calculation}))
        return call_row(question, own_tools()[:1], [call], result, result)
    return {"prompt": question, "answer": finish(steps, gold) if form == "steps" else gold}


@functools.cache
def _official(count: int) -> tuple[Problem, ...]:
    return tuple(in_all_levels([MODULE], count))


def _own(seed: int, count: int, frames: tuple[str, ...]) -> list[tuple[str, Parts]]:
    """Everyday amounts in words of this file; an answer has at most seven digits after the point."""
    chance = random.Random(seed)
    found: dict[str, Parts] = {}
    while len(found) < count:
        units = chance.choice(_DIMENSIONS)
        given, wanted = chance.sample(list(units), 2)
        amount = Fraction(chance.randrange(1, 10 ** chance.randrange(1, 5)), chance.choice((1, 1, 10, 10, 100)))
        answer = amount * units[given][1] / units[wanted][1]
        if (answer * 10**7).denominator > 1 or answer >= 10**12:
            continue
        short = units[given][0] if chance.random() < 0.4 else ""
        named = short or (given if amount == 1 else _plural(given))
        aim = units[wanted][0] if chance.random() < 0.2 else ""
        said = shown(amount, decimal=True)
        question = chance.choice(frames).format(said, named, aim or _plural(wanted))
        found.setdefault(question, (said, given, wanted))
    return list(found.items())


def train_rows(form: Form = "direct", count: int = TRAINED) -> list[Row]:
    rows = [row(question, asked(question), gold, form) for question, gold in _official(count // 2)]
    for question, parts in _own(0, count // 2, _FRAMES):
        rows.append(row(question, parts, solved(*parts)[1], form))
    random.Random(0).shuffle(rows)
    return rows


def held_out_rows(form: Form = "direct", count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    known = {question for question, _ in _official(trained // 2)}
    drawn = dict.fromkeys(problems(MODULE, "interpolate", 2 * count, FAR))
    fresh = [(question, gold) for question, gold in drawn if question not in known]
    return [_tested(row(question, asked(question), gold, form)) for question, gold in fresh[:count]]


def asked_rows(form: Form = "direct", count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    """Other amounts than those of the training, in words that are never trained."""
    known = {parts for _, parts in _own(0, trained // 2, _FRAMES)}
    drawn = [(question, parts) for question, parts in _own(FAR, 2 * count, _FRAMES_IN_TESTS) if parts not in known]
    return [_tested(row(question, parts, solved(*parts)[1], form)) for question, parts in drawn[:count]]


def _tested(made: Row) -> Row:
    return made | {"messages": made["messages"][:2]} if "messages" in made else made

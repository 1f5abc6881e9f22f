"""Skills whose answer is right to the digit, each in the forms of answer that it can be taught.

direct   the answer alone, under a contract
steps    short steps before it, `2 + 3 = 5; 5 - 1 = 4`: the checker reads what stands after the last "="
tool     a call of the calculator, for an agent that runs it
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import arith
import clock
import kinship
import maths
import units
from maths import KINDS, Kind
from skill import APACHE, SETTINGS, Row, Rows, Skill, some
from texts import SKILLS as TEXTS

from plural.specialists import Contract

_NUMBER = r"-?[0-9]{1,18}"
_CONTRACTS = {
    "arith": _NUMBER,
    "units": r"[0-9]{1,24}(\.[0-9]{1,24})?",
    "time": r"[0-9]{1,2}:[0-9]{2} [AP]M|[0-9]{1,4}|[0-9]{2}:[0-9]{2}(:[0-9]{2})?",
    "exprs": rf"{_NUMBER}(\.[0-9]{{1,12}}|/[0-9]{{1,9}})?",
    "linear": _NUMBER,
    "polyeval": _NUMBER,
}
_ASKED: dict[str, str] = {
    "arith": "Work out the calculation. Answer only with the number.",
    "units": "Convert the amount. Answer only with the number, exact, without its unit.",
    "time": "Answer only with the time, such as 7:05 PM, or with the number of minutes or the duration that is asked.",
    "exprs": "Work out the expression exactly. Answer only with the number, a fraction as 2/3.",
    "linear": "Solve for the variable. Answer only with its value.",
    "polyeval": "Evaluate the polynomial. Answer only with the number.",
    "finalstep": "Answer only with the value that is asked for, with True or False, or with the letter of the choice.",
}
_STEPS = " Write your steps first, and the answer after the last = sign."
_CALCULATOR = "Call the calculator with the expression that gives the answer."
_ALL: tuple[arith.Form, ...] = ("direct", "steps", "tool")
_MAX_TOKENS = {"direct": 32, "steps": 200, "tool": 112}


# Steps of a training, by form: a call is copied from the question and learned at once.
_STEPS_OF = {"direct": 500, "steps": 400, "tool": 60}
_LONGER = {"units": 100, "finalstep": 120}


def _skill(name: str, form: str, purpose: str, instructions: str, train: Rows, test: Rows, **more: Any) -> Skill:
    """What the skills of this file share."""
    tool = form == "tool"
    steps = _LONGER.get(name, _STEPS_OF[form]) if tool else _STEPS_OF[form]
    source = _CONTRACTS.get(name)
    contract = Contract(kind="regex", source=source) if source and form == "direct" else None
    return Skill(
        name=name,
        purpose=purpose,
        instructions="Use a tool if one fits." if tool else instructions,
        asked_of_base=_CALCULATOR if tool else _ASKED[name] + (_STEPS if form == "steps" else ""),
        checker="calculation" if tool else "value",
        train_rows=train,
        test_rows=test,
        examples=lambda: _prompts(train()),
        # To copy is learned by an activated adapter as well, and its prompts, tools and all, are read once.
        settings={**SETTINGS, "activated": tool, "batch_rows": 8 if tool else 16, "max_steps": steps},
        licence=APACHE,
        output=contract,
        tools=("calculate",) if tool else (),
        max_tokens=_MAX_TOKENS[form],
        **more,
    )


def _prompts(rows: list[Row]) -> list[str]:
    if "prompt" in rows[0]:
        return some(rows)
    return some([{"prompt": row["messages"][0]["content"]} for row in rows])


def _arith(form: arith.Form) -> Skill:
    other: dict[str, Rows] = {} if form == "tool" else {"arith_other": arith.other_rows}
    train, test = functools.partial(arith.train_rows, form), functools.partial(arith.held_out_rows, _tested(form))
    return _skill(arith.NAME, form, arith.PURPOSE, arith.INSTRUCTIONS, train, test, more_tests=other)


def _units(form: units.Form) -> Skill:
    train, test = functools.partial(units.train_rows, form), functools.partial(units.held_out_rows, _tested(form))
    other = {"units_asked": functools.partial(units.asked_rows, _tested(form))}
    return _skill(units.NAME, form, units.PURPOSE, units.INSTRUCTIONS, train, test, more_tests=other)


def _tested(form: arith.Form) -> arith.Form:
    """A test row expects the answer alone, whatever steps come before it."""
    return "tool" if form == "tool" else "direct"


def _time(form: clock.Form) -> Skill:
    train = functools.partial(clock.train_rows, form)
    other: dict[str, Rows] = {"time_spans": clock.span_rows}
    return _skill(clock.NAME, form, clock.PURPOSE, clock.INSTRUCTIONS, train, clock.held_out_rows, more_tests=other)


def _maths(kind: Kind, form: maths.Form) -> Skill:
    tested = _tested(form)
    train, test = functools.partial(maths.train_rows, kind, form), functools.partial(maths.held_out_rows, kind, tested)
    other: dict[str, Rows] = {f"{kind}_near": functools.partial(maths.near_rows, kind, tested)}
    return _skill(kind, form, maths.PURPOSES[kind], maths.INSTRUCTIONS[kind], train, test, more_tests=other)


def _kinship_in_steps() -> Skill:
    """Two hops, each said; where one hop is enough there are no steps."""
    asked = TEXTS["kinship"].asked_of_base + _STEPS
    train = functools.partial(kinship.train_rows, "steps")
    return replace(TEXTS["kinship"], train_rows=train, output=None, max_tokens=48, asked_of_base=asked)


FORMS: dict[str, dict[str, Skill]] = {
    "kinship": {"direct": TEXTS["kinship"], "steps": _kinship_in_steps()},
    "arith": {"direct": _arith("direct"), "steps": _arith("steps"), "tool": _arith("tool")},
    "units": {"direct": _units("direct"), "steps": _units("steps"), "tool": _units("tool")},
    "time": {"direct": _time("direct"), "steps": _time("steps")},
    **{kind: {form: _maths(kind, form) for form in _ALL} for kind in KINDS},
}
# What the starter library teaches.
BEST = {
    "kinship": "direct",
    "arith": "tool",
    "units": "tool",
    "time": "steps",
    "exprs": "tool",
    "linear": "tool",
    "polyeval": "tool",
    "finalstep": "tool",
}

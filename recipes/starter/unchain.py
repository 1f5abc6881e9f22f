"""Composed mathematics questions and the steps that they are made of, for the specialists that calculate.

A question's sentences are primitive questions, chained by the symbols that they define; its plan asks them one after
another and says `#1` where an earlier answer stands. Rows are drawn from the training difficulties of the eight
`*_composed` modules of DeepMind's `mathematics-dataset` (Apache-2.0). None is a question of the frozen tests
(composed.py), and a plan is taken only if its steps, answered by the calculator, lead to the gold answer.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

from composed import MODULES, SPLITS, Chain, Unsplit, split
from composed import rows as frozen
from maths import calculation
from sources import problems

from plural.agents import toolbox
from plural.errors import PluralError
from plural.evals.finals import equal_value
from plural.teams.planner import MOST_STEPS, fill_in

Row = dict[str, Any]

NAME = "unchain"
PURPOSE = "Splits a composed mathematics question into steps for the specialists that calculate."
INSTRUCTIONS = "Split into steps."
LEVELS = ("train-0", "train-1", "train-2")
TRAINED, TESTED = 2400, 300
_SYMBOL = re.compile(r"\{(\w+)\}")
_SEED, _TEST_SEED = 1, 20_000_000


def tasks(chain: Chain) -> list[str]:
    """What each step is asked, with `#1` for the answer of the first, in brackets where a sign or a fraction would be
    misread: nobody looks at that later."""
    numbers: dict[str, int] = {}
    found: list[str] = []
    for number, step in enumerate(chain.steps, start=1):
        found.append(_referring(step.text, numbers))
        numbers[step.defines] = number
    return found


def _referring(text: str, numbers: dict[str, int]) -> str:
    def put(found: re.Match[str]) -> str:
        said = f"#{numbers[found[1]]}"
        misread = text[: found.start()].endswith("/") or text[found.end() :].startswith("**")
        return f"({said})" if misread else said

    return _SYMBOL.sub(put, text)


def plan(said: Sequence[str]) -> str:
    return json.dumps({"steps": [{"task": task} for task in said]}, separators=(",", ":"))


def worked_out(chain: Chain, said: Sequence[str]) -> str:
    """The answer that the calculator gives when it is asked step by step. Raises ValueError where a step is no
    calculation."""
    answers: dict[int, str] = {}
    for number, (step, task) in enumerate(zip(chain.steps, said, strict=True), start=1):
        calculated = calculation(step.kind, fill_in(task, answers))
        answers[number] = str(toolbox.calculate.invoke({"expression": calculated}))
    values = {step.defines: answers[number] for number, step in enumerate(chain.steps, start=1)}
    return chain.answer(values, values[""])


def _row(module: str, question: str, gold: str) -> Row | None:
    """None for a question that is not split, takes more steps than a plan may have, or is led elsewhere by them."""
    try:
        chain = split(module, question, gold)
        said = tasks(chain)
        led = len(said) <= MOST_STEPS and equal_value(worked_out(chain, said), gold) == 1.0
    except (Unsplit, ValueError, ArithmeticError, LookupError, PluralError):
        return None
    return {"prompt": question, "answer": plan(said)} if led else None


def _drawn(count: int, seed: int, barred: set[str]) -> list[Row]:
    """As many of each module and of each level; none that is barred."""
    each = -(-count // (len(MODULES) * len(LEVELS)))
    found: dict[str, Row] = {}
    for module in MODULES:
        for level, name in enumerate(LEVELS):
            fresh: dict[str, Row] = {}
            for question, gold in problems(f"{module}_composed", name, 2 * each, seed + level):
                if question not in barred and question not in found and (made := _row(module, question, gold)):
                    fresh[question] = made
            found.update(list(fresh.items())[:each])
    rows = list(found.values())
    random.Random(seed).shuffle(rows)
    return rows


@functools.cache
def _tests_of_others() -> frozenset[str]:
    return frozenset(row["question"] for name in SPLITS for row in frozen(name))


@functools.cache
def train_rows() -> list[Row]:
    return _drawn(TRAINED, _SEED, set(_tests_of_others()))


@functools.cache
def test_rows() -> list[Row]:
    """Of the same difficulties; none is a question of the training or of the frozen tests."""
    trained = {row["prompt"] for row in train_rows()}
    return _drawn(TESTED, _TEST_SEED, trained | _tests_of_others())

"""Sums and products of whole numbers, as people and exercise books word them.

Numbers are drawn by `reasoning-gym` (Apache-2.0): chains of two to four terms with + and -, and products of two. Half
of them keep its wording. A test row's calculation is never trained on, in whatever words. `arith_other` rows are those
of another author: `mathematics-dataset`, official split `interpolate`.

An answer comes directly, after its steps, or as a call of the calculator.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Any, Literal

from sources import FAR, gym, problems
from toolcall import call_row, own_tools
from worked import expression, finish

from plural.agents import toolbox

Row = dict[str, Any]
Form = Literal["direct", "steps", "tool"]

NAME = "arith"
PURPOSE = "Works out sums, differences and products of whole numbers."
INSTRUCTIONS = "Calculate."
TRAINED = 3750
TESTED = 300
_ASKED = (
    "What is {}?", "{}", "{} =", "Calculate {}.", "Compute {}", "what's {}", "How much is {}?", "Work out {}.",
    "{} = ?", "Please calculate {}.",
)  # fmt: skip
_ASKED_IN_TESTS = ("Tell me what {} makes.", "Can you work {} out for me?", "I need the result of {}.")
_WORDS = {"+": "plus", "-": "minus", "*": "times"}


@functools.cache
def _drawn(seed: int, count: int) -> tuple[tuple[str, str], ...]:
    """Calculations with reasoning-gym's wording: three chains for every product."""
    sums, products = gym("arithmetic.chain_sum"), gym("arithmetic.products")
    chain = sums.ChainSumDataset(sums.ChainSumConfig(max_terms=4, seed=seed, size=count))
    product = products.ProductsDataset(products.ProductsConfig(max_digits=3, seed=seed, size=count))
    rows = (product[index] if index % 4 == 0 else chain[index] for index in range(count))
    return tuple((row["metadata"]["expression"], row["question"]) for row in rows)


def _worded(calculation: str, chance: random.Random, frames: tuple[str, ...]) -> str:
    kind = chance.random()
    if kind < 0.2:
        calculation = calculation.replace(" ", "")
    elif kind < 0.45:
        calculation = " ".join(_WORDS.get(part, part) for part in calculation.split())
    return chance.choice(frames).format(calculation)


def row(calculation: str, question: str, form: Form) -> Row:
    """One question in the form of answer that is wanted."""
    if form == "tool":
        plain = calculation.replace(" ", "")
        result = str(toolbox.calculate.invoke({"expression": plain}))
        call = {"name": toolbox.calculate.name, "arguments": {"expression": plain}}
        return call_row(question, own_tools()[:1], [call], result, result)
    steps, answer = expression(calculation)
    return {"prompt": question, "answer": finish(steps, answer) if form == "steps" else answer}


def train_rows(form: Form = "direct", count: int = TRAINED) -> list[Row]:
    chance = random.Random(0)
    rows = {}
    for calculation, question in _drawn(0, count):
        if chance.random() < 0.5:
            question = _worded(calculation, chance, _ASKED)
        rows[question] = row(calculation, question, form)
    return list(rows.values())


def held_out_rows(form: Form = "direct", count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    """A third in reasoning-gym's words, a third as in training, a third in words that are never trained."""
    known = {calculation for calculation, _ in _drawn(0, trained)}
    chance = random.Random(FAR)
    fresh = [one for one in dict.fromkeys(_drawn(FAR, 2 * count)) if one[0] not in known]
    rows = []
    for index, (calculation, question) in enumerate(fresh[:count]):
        if index % 3:
            question = _worded(calculation, chance, _ASKED if index % 3 == 1 else _ASKED_IN_TESTS)
        rows.append(_tested(row(calculation, question, form)))
    return rows


def _tested(made: Row) -> Row:
    """Of a dialogue with a tool only the call is scored."""
    return made | {"messages": made["messages"][:2]} if "messages" in made else made


def other_rows(count: int = TESTED) -> list[Row]:
    """Sums and products of mathematics-dataset whose numbers are whole and have at most six digits."""
    rows = []
    for module in ("arithmetic__add_or_sub", "arithmetic__mul"):
        for question, answer in problems(module, "interpolate", 8 * count, FAR):
            if not re.search(r"\d\.\d|\d{7}", f"{question} {answer}"):
                rows.append({"prompt": question, "answer": answer})
    random.Random(7).shuffle(rows)
    return rows[:count]

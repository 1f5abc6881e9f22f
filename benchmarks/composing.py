"""How a composed question of mathematics is answered, step by step or at once, and what came of it.

Its steps (benchmarks/composed) are put to whoever is chosen for each, as soon as the values are there that it needs.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from staff import SHOTS, Choose, Staff, worked_out

from plural.errors import PlanError, PluralError
from plural.evals.finals import equal_value, final
from plural.teams.planner import fill_in
from plural.types import Message, RunFinished, StepStarted
from plural.wiring.recipe import STARTER_RECIPE

sys.path.append(str(STARTER_RECIPE))
from composed import SPLITS, Chain, Step, chains, in_words_of, oracle

_NUMBER = re.compile(r"-?[0-9]{1,30}(/[0-9]{1,30}|\.[0-9]{1,30})?")


@dataclass(frozen=True)
class Said:
    who: str
    answer: str


@dataclass(frozen=True)
class StepOutcome:
    """`right`: the answer is the oracle's to the question as it was put, whatever came before. `routed`: who answered
    is the specialist for it."""

    kind: str
    right: bool
    routed: bool


@dataclass(frozen=True)
class Outcome:
    """`malformed`: the plan could not be used."""

    split: str
    chain: Chain
    right: bool
    steps: tuple[StepOutcome, ...] = ()
    answer: str = ""
    malformed: bool = False


Ask = Callable[[Step, str], Awaitable[Said]]


class _BrokenError(ValueError):
    """A value that cannot be put into the next question."""


async def followed(split: str, chain: Chain, ask: Ask) -> Outcome:
    """Every step as soon as the values are there that it needs."""
    done: list[StepOutcome] = []
    tasks: list[asyncio.Task[str]] = []
    newest: dict[str, asyncio.Task[str]] = {}

    async def value(step: Step, needed: Mapping[str, asyncio.Task[str]]) -> str:
        question = step.asked({name: await task for name, task in needed.items()})
        said = await ask(step, question)
        done.append(StepOutcome(step.kind, _is_right(step, question, said.answer), said.who == step.kind))
        found = final(said.answer)
        if step.defines and not _is_number(found):
            raise _BrokenError(found)
        return found

    for step in chain.steps:
        needed = {name: newest[name] for name in step.uses}
        tasks.append(asyncio.ensure_future(value(step, needed)))
        newest[step.defines] = tasks[-1]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, _BrokenError):
            raise one
    values = {step.defines: one for step, one in zip(chain.steps, found, strict=True) if isinstance(one, str)}
    whole = not any(isinstance(one, _BrokenError) for one in found)
    answer = chain.answer(values, values[""]) if whole else ""
    return Outcome(split, chain, whole and equal_value(answer, chain.gold) == 1.0, tuple(done), answer)


def _is_number(text: str) -> bool:
    try:
        return bool(_NUMBER.fullmatch(text)) and Fraction(text) is not None
    except ZeroDivisionError:
        return False


def _is_right(step: Step, question: str, answer: str) -> bool:
    try:
        return equal_value(answer, oracle(step, question)) == 1.0
    except (ValueError, ArithmeticError, LookupError):
        return False  # a wrong value made a question that has no answer


async def by_sympy(step: Step, question: str) -> Said:
    return Said("oracle", oracle(step, question))


def stepwise(choose: Choose) -> Ask:
    async def ask(step: Step, question: str) -> Said:
        chosen = await choose(step.kind, question)
        return Said(chosen.who, await worked_out(chosen, question))

    return ask


async def directly(split: str, chain: Chain, choose: Choose) -> Outcome:
    """The whole question at once, told what the skill of its last step is told."""
    chosen = await choose(chain.steps[-1].kind, chain.question)
    answer = await worked_out(chosen, chain.question)
    return Outcome(split, chain, equal_value(answer, chain.gold) == 1.0, answer=answer)


async def alone(split: str, chain: Chain, staff: Staff) -> Outcome:
    """The whole question, put to the network as a user would: it plans, routes and calculates."""
    answer, asked = "", {0: ""}
    try:
        async for event in staff.network.run(chain.question):
            if isinstance(event, StepStarted):
                asked[event.step] = event.task
            if isinstance(event, RunFinished):
                answer = event.answer
    except PluralError as error:
        return Outcome(split, chain, right=False, malformed=isinstance(error, PlanError))
    return _ended(split, chain, asked[max(asked)], answer)


async def planned(split: str, chain: Chain, staff: Staff, choose: Choose) -> Outcome:
    """The plan is the network's, and `choose` says who answers its steps."""
    task = answer = ""
    answers: dict[int, str] = {}
    try:
        for number, step in enumerate(await staff.plan(chain.question), start=1):
            task = fill_in(step.task, answers)
            answer = answers[number] = final(await worked_out(await choose("", task), task))
    except PluralError as error:
        return Outcome(split, chain, right=False, malformed=isinstance(error, PlanError))
    return _ended(split, chain, task, answer)


def _ended(split: str, chain: Chain, task: str, answer: str) -> Outcome:
    said = in_words_of(chain.question, task, final(answer))
    return Outcome(split, chain, equal_value(said, chain.gold) == 1.0, answer=said)


def most_said(samples: Sequence[Outcome]) -> Outcome:
    """The one whose answer has the most others of its value; an empty answer has no vote unless all are empty."""
    voting = [one for one in samples if one.answer.strip()] or list(samples)
    return max(voting, key=lambda one: sum(equal_value(one.answer, other.answer) == 1.0 for other in voting))


def drawn(found: Sequence[Chain], count: int, chance: random.Random) -> list[Chain]:
    """`count` of them, as many of each number of steps as its share."""
    groups: dict[int, list[Chain]] = defaultdict(list)
    for chain in found:
        groups[len(chain.steps)].append(chain)
    count = min(count, len(found))
    shares = {steps: count * len(group) / len(found) for steps, group in groups.items()}
    quotas = {steps: int(share) for steps, share in shares.items()}
    rest = sorted(shares, key=lambda steps: quotas[steps] - shares[steps])[: count - sum(quotas.values())]
    return [
        chain for steps in sorted(groups) for chain in chance.sample(groups[steps], quotas[steps] + (steps in rest))
    ]


def questions(count: int, seed: int, skip: int = 0) -> tuple[list[tuple[str, Chain]], list[Message]]:
    """(file, chain) of `count` questions of each file, and a dialogue of others that shows how they are answered. None
    is one of those that `skip` in the place of `count` would draw."""
    barred = {chain.question for _, chain in questions(skip, seed)[0]} if skip else set()
    chance = random.Random(seed)
    asked: list[tuple[str, Chain]] = []
    shown: list[Message] = []
    for split in SPLITS:
        found, _ = chains(split)
        if not shown:
            shots = chance.sample(found, SHOTS)
            shown = [m for one in shots for m in (Message("user", one.question), Message("assistant", one.gold))]
            found = [one for one in found if one not in shots]
        found = [one for one in found if one.question not in barred]
        asked += [(split, chain) for chain in drawn(found, count, chance)]
    return asked, shown

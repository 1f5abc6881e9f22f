"""Compound requests and the steps that they are made of, for the specialists of the starter library.

A request is put together from the specialists' own training prompts and from everyday questions. A later step may use
an earlier answer as `#1`: the next run of a schedule needs its cron expression first, and a calculation may go on with
a result. The test is made of the specialists' held-out prompts; some of its requests are joined in ways never trained.
"""

# ruff: noqa: E501 - tables of words read best as they are written

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cron
import home
from general import HELD_OUT, PROMPTS
from toolcall_words import arithmetic, between_dates, next_runs

Row = dict[str, Any]
Steps = list[str]

NAME = "planner"
PURPOSE = "Splits a compound request into steps, each a task for one specialist."
INSTRUCTIONS = "Split into steps."
AS_CRON = "{} as cron"
RUNS_NEXT = "When does the cron expression #{} run next?"


@dataclass(frozen=True)
class Bit:
    """Words of a request and the steps they stand for. `#1` in a step counts from the bit's own first step."""

    words: str
    steps: Steps


class Source:
    """Single prompts of every kind, from the training side or from the held-out side."""

    def __init__(self, *, held_out: bool) -> None:
        self.chance = random.Random(10_000_000 if held_out else 0)
        self.homes = [row["prompt"] for row in (home.test_rows() if held_out else home.train_rows())]
        self.general = HELD_OUT if held_out else PROMPTS
        self._held_out = held_out

    def single(self) -> Bit:
        words = bare(self._single())
        return Bit(words, [words])

    def _single(self) -> str:
        kind = self.chance.random()
        if kind < 0.45:
            return str(self.chance.choice(self.homes))
        if kind < 0.58:
            return self.chance.choice(_CRON_ASKS).format(self.schedule())
        if kind < 0.72:
            return next(arithmetic(self.chance, 1))[0]
        if kind < 0.78:
            return next(next_runs(self.chance, 5))[0]
        if kind < 0.86:
            return next(between_dates(self.chance, 1))[0]
        return self.chance.choice(self.general)

    def schedule(self) -> str:
        """A schedule in natural words without a frame around it."""
        while True:
            row = cron.schedule(self.chance)
            if cron.held_out(row.fields) == self._held_out:
                return row.words

    def dependent(self) -> Bit:
        return self.next_of_schedule() if self.chance.random() < 0.55 else self.longer_sum()

    def next_of_schedule(self) -> Bit:
        said = self.schedule()
        return Bit(self.chance.choice(_NEXT_OF).format(said), [AS_CRON.format(said), RUNS_NEXT.format(1)])

    def longer_sum(self) -> Bit:
        first = bare(next((arithmetic if self.chance.random() < 0.85 else between_dates)(self.chance, 1))[0])
        words, steps = first, [first]
        for _ in range(self.chance.choice([1, 1, 1, 2])):
            said, meant = self.chance.choice(_GO_ON)
            number = str(self.chance.choice([self.chance.randrange(2, 13), self.chance.randrange(2, 200)]))
            words += self.chance.choice(_THEN) + said.format(n=number)
            steps.append(meant.format(n=number, last=f"#{len(steps)}"))
        return Bit(words, steps)


_CRON_ASKS = [
    "cron expression for {}",
    "cron for {}",
    "what is the cron expression for {}",
    "give me the cron expression for {}",
    "write a cron expression that runs {}",
    "{} as cron",
]
_NEXT_OF = [
    "when will a job that runs {} run next", "when does a job that runs {} run next", "when will a job that runs {} start next", "when does a task running {} fire next",
    "what is the next run of a job scheduled {}", "if a task runs {}, when does it run next", "when is the next run of a job that runs {}", "a job runs {}. When is its next run",
    "my backup runs {}. When does it run next", "when is the next time for a job that runs {}", "give me the cron for {} and tell me when it runs next", "tell me when a job that starts {} runs next",
    "what is the cron expression for {}, and when does it run next", "when would something scheduled {} run next", "next run of a job that runs {}", "I have a report that is sent {}. When is it sent next",
]  # fmt: skip
_GO_ON = [
    ("divide that by {n}", "divide {last} by {n}"), ("divide the result by {n}", "divide {last} by {n}"), ("divide it by {n}", "divide {last} by {n}"),
    ("multiply that by {n}", "multiply {last} by {n}"), ("multiply the result by {n}", "multiply {last} by {n}"), ("multiply it by {n}", "multiply {last} by {n}"),
    ("add {n} to that", "add {n} to {last}"), ("add {n} to the result", "add {n} to {last}"), ("add {n}", "add {n} to {last}"),
    ("subtract {n} from that", "subtract {n} from {last}"), ("take {n} away from the result", "take {n} away from {last}"), ("subtract {n}", "subtract {n} from {last}"),
    ("double it", "double {last}"), ("double the result", "double {last}"), ("halve that", "halve {last}"), ("square the result", "square {last}"), ("triple it", "triple {last}"),
    ("what is that times {n}", "what is {last} times {n}"), ("what is that plus {n}", "what is {last} plus {n}"), ("what is {n} percent of that", "what is {n} percent of {last}"),
    ("what is that divided by {n}", "what is {last} divided by {n}"), ("what is half of it", "what is half of {last}"), ("what is that minus {n}", "what is {last} minus {n}"),
]  # fmt: skip
_THEN = [
    ", and then ",
    " and then ",
    ", then ",
    " and ",
    ", and ",
    ". Then ",
    "? Then ",
    ". After that, ",
    " and after that ",
]
_JOINS: list[Sequence[str]] = [
    (", and ",), (" and ",), (" and then ",), (", then ",), (", and then ",), (" then ",), (". ",), ("; ",), (". Then ",), (" and also ",), (". Also, ",), (", also ",), (". Also ",),
    (". After that, ",), (" and after that ",), (". Next, ",), (", plus ",), (". And ",), ("? And ",), ("? ",), (", ", " and "), (", ", ", and "), (", ", " and then "), (", then ", " and finally "),
    (". ", ". Finally, "), ("\n",), (" & ",),
]  # fmt: skip
_UNSEEN_JOINS: list[Sequence[str]] = [
    (" as well as ",),
    (". Once that is done, ",),
    (", and while you are at it, ",),
    (". Besides, ",),
    (" / ",),
    (", afterwards ",),
]
_OPENINGS = [
    "",
    "",
    "",
    "",
    "",
    "",
    "please ",
    "can you ",
    "could you ",
    "first ",
    "I need a few things: ",
    "hey, ",
    "two things: ",
    "could you please ",
    "I'd like you to ",
]
_LISTS = [("{number}. ", "\n"), ("{number}) ", " "), ("- ", "\n"), ("({number}) ", " "), ("{number}. ", " ")]
_ASKS = re.compile(
    r"(what|what's|whats|when|where|how|how's|hows|who|why|which|is|are|do|does|did|can|could|if|a|my|I)\b",
    re.IGNORECASE,
)


def joined(bits: Sequence[Bit], chance: random.Random, *, unseen: bool = False) -> Row:
    """The bits as one request, and its plan."""
    steps: Steps = []
    for bit in bits:
        steps += _renumbered(bit.steps, len(steps))
    parts = [bit.words for bit in bits]
    if chance.random() < 0.12 and len(parts) > 1 and not unseen:
        mark, between = chance.choice(_LISTS)
        said = between.join(mark.format(number=number) + part for number, part in enumerate(parts, start=1))
    else:
        said = _said(parts, chance, unseen=unseen)
    if chance.random() < 0.15:
        said = said.lower()
        steps = [step.lower().replace("when does the cron expression #", RUNS_NEXT[:31]) for step in steps]
    return {"prompt": said, "answer": plan(steps)}


def _renumbered(steps: Sequence[str], start: int) -> list[str]:
    """`#1` is the first step of its bit; in a plan of several bits it is counted from the first of all."""
    return [re.sub(r"#(\d)", lambda found: f"#{int(found[1]) + start}", step) for step in steps]


def _said(parts: Sequence[str], chance: random.Random, *, unseen: bool) -> str:
    joins = chance.choice(_UNSEEN_JOINS if unseen else _JOINS)
    opening = chance.choice(_OPENINGS)
    said = ("" if opening.endswith(("you ", "to ", "please ")) and _ASKS.match(parts[0].lower()) else opening) + parts[
        0
    ]
    for number, part in enumerate(parts[1:], start=1):
        join = joins[-1] if number == len(parts) - 1 else joins[0]
        sentence = join.rstrip().endswith((".", "?")) or join == "\n"
        said += join + (part[0].upper() + part[1:] if sentence else part)
    if chance.random() < 0.7:
        said = said[0].upper() + said[1:]
    asks = _ASKS.match(parts[-1].lower())
    if chance.random() < 0.6:
        said += "?" if asks or said.lower().startswith(("can", "could")) else "."
    return said


def plan(steps: Sequence[str]) -> str:
    return json.dumps({"steps": [{"task": step} for step in steps]}, separators=(",", ":"), ensure_ascii=False)


_POLITE = re.compile(
    r"^(please|could you please|can you please|could you|can you|would you|hey,|I'd like you to)\s+", re.IGNORECASE
)
_POLITE_END = re.compile(r"(,? please|,? thanks| for me)?[.?!]*$", re.IGNORECASE)


def bare(prompt: str) -> str:
    """A single prompt without politeness and closing marks, its first letter small unless it is a name or an I."""
    words = _POLITE_END.sub("", _POLITE.sub("", prompt))
    first = words.split()[0]
    keep = first == "I" or first.startswith("I'") or first in _NAMES or (len(first) > 1 and not first[1:].islower())
    return words if keep else words[0].lower() + words[1:]


_NAMES = {*cron.DAYS, *cron.MONTHS, *(f"{day}s" for day in cron.DAYS), "Romeo", "English"}


def rows(source: Source, count: int, *, unseen_share: float = 0.0) -> list[Row]:
    chance = source.chance
    found: dict[str, Row] = {}
    while len(found) < count:
        unseen = chance.random() < unseen_share
        kind = chance.random()
        if kind < 0.12 and not unseen:
            bits = [source.single()]
        elif kind < 0.34 and not unseen:
            bits = [source.dependent()]
        else:
            makers: list[Callable[[], Bit]] = [source.single] * chance.choice([2, 2, 2, 3, 3, 4])
            if chance.random() < 0.4:
                makers[-1 if chance.random() < 0.7 else 0] = source.next_of_schedule
            elif chance.random() < 0.2:
                makers[0] = source.longer_sum
            bits = [make() for make in makers]
        if sum(len(bit.steps) for bit in bits) <= 6:
            row = joined(bits, chance, unseen=unseen)
            found.setdefault(row["prompt"].lower(), row)
    return list(found.values())


@functools.cache
def train_rows() -> list[Row]:
    return rows(Source(held_out=False), 3600)


@functools.cache
def test_rows() -> list[Row]:
    """300 requests of held-out prompts, a quarter of them joined in ways that are never trained."""
    return rows(Source(held_out=True), 300, unseen_share=0.25)


def compound(count: int) -> list[str]:
    """The router's examples: requests of two tasks, which are the hardest to tell from those of one."""
    made = rows(Source(held_out=False), 4 * count)
    return [row["prompt"] for row in made if row["answer"].count('"task"') == 2][:count]

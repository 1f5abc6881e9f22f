"""Arithmetic with times of the day: what time it is some minutes later or earlier, and how long something took.

Questions come from DeepMind's `mathematics-dataset` (Apache-2.0) with twelve hours, from `reasoning-gym` (Apache-2.0)
with twenty-four, and some are worded here. The test is the official split `interpolate`, whose durations are never
trained on; `time_spans` rows are reasoning-gym's, from a far seed.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Any, Literal

from sources import FAR, Problem, gym, in_all_levels, problems
from worked import finish

Row = dict[str, Any]
Form = Literal["direct", "steps"]

NAME = "time"
PURPOSE = "Works out times of the day and durations."
INSTRUCTIONS = "Work out the time."
MODULE = "measurement__time"
TRAINED = 4000
TESTED = 300
_DAY = 24 * 60

_LATER = re.compile(r"What is (?P<minutes>\d+) minutes (?P<side>before|after) (?P<time>\d+:\d\d [AP]M)\?")
_BETWEEN = re.compile(r"How many minutes are there between (\d+:\d\d [AP]M) and (\d+:\d\d [AP]M)\?")
_SPAN = re.compile(r"(\d\d:\d\d(?::\d\d)?)\D+?(\d\d:\d\d(?::\d\d)?)\D")
_FRAMES = {
    "after": ("It is {1}. What time is it in {0} minutes?", "{0} minutes after {1}", "{1} plus {0} minutes"),
    "before": ("It is {1}. What time was it {0} minutes ago?", "{0} minutes before {1}", "{1} minus {0} minutes"),
    "between": ("How many minutes is it from {0} to {1}?", "minutes between {0} and {1}", "{0} to {1} in minutes"),
}


# --------------------------------------------------------------------------------------------------------------- clocks
def minute_of(clock: str) -> int:
    """ "7:57 PM" as minutes since midnight."""
    hours, minutes, half = re.split(r"[: ]", clock)
    return int(hours) % 12 * 60 + int(minutes) + (half == "PM") * 720


def spoken(minute: int) -> str:
    hour = minute // 60 % 24
    return f"{(hour - 1) % 12 + 1}:{minute % 60:02} {'AM' if hour < 12 else 'PM'}"


def _long(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02}"


def solved(question: str) -> tuple[list[str], str]:
    """The steps and the answer, counted in hours and minutes of one long day. Raises ValueError."""
    if found := _LATER.fullmatch(question):
        return _moved(int(found["minutes"]), found["side"], minute_of(found["time"]))
    if found := _BETWEEN.fullmatch(question):
        return _between(minute_of(found[1]), minute_of(found[2]))
    if found := _SPAN.search(question):
        return _span(found[1], found[2])
    raise ValueError(f"{question!r} asks for no time")


def _moved(minutes: int, side: str, start: int) -> tuple[list[str], str]:
    sign = 1 if side == "after" else -1
    first = start + (_DAY if sign < 0 and start < minutes else 0)
    end = first + sign * minutes
    answer = spoken(end)
    shown = [f"{minutes} = {_long(minutes)}"] if minutes >= 60 else []
    sum_ = f"{_long(first)} {'+' if sign > 0 else '-'} {_long(minutes)} = {_long(end)}"
    if end >= _DAY:
        sum_ += f" = {_long(end % _DAY)}"
    return [*shown, f"{sum_} = {answer}"], answer


def _between(start: int, end: int) -> tuple[list[str], str]:
    end += _DAY if end < start else 0
    minutes = end - start
    return [f"{_long(end)} - {_long(start)} = {_long(minutes)} = {minutes}"], str(minutes)


def _span(start: str, end: str) -> tuple[list[str], str]:
    first, last = ([int(part) for part in (*text.split(":"), "0")[:3]] for text in (start, end))
    seconds = sum((b - a) * size for a, b, size in zip(first, last, (3600, 60, 1), strict=True)) % 86400
    answer = f"{seconds // 3600:02}:{seconds // 60 % 60:02}" + (f":{seconds % 60:02}" if start.count(":") == 2 else "")
    return [f"{end} - {start} = {answer}"], answer


# ---------------------------------------------------------------------------------------------------------------- rows
def row(question: str, gold: str, form: Form, *, worded: str = "") -> Row:
    """Raises ValueError if the steps do not lead to the gold answer. `worded` is another wording of the question."""
    steps, answer = solved(question)
    if answer != gold:
        raise ValueError(f"{question!r} is {gold}, but {steps} lead to {answer}")
    return {"prompt": worded or question, "answer": finish(steps, gold) if form == "steps" else gold}


@functools.cache
def _official(count: int) -> tuple[Problem, ...]:
    return tuple(in_all_levels([MODULE], count))


@functools.cache
def _spans(seed: int, count: int) -> tuple[Problem, ...]:
    """How long something took, within one day. Only these of reasoning-gym's are without dates."""
    module = gym("arithmetic.time_intervals")
    config = module.TimeIntervalsConfig(task_types=["time", "time_seconds"], seed=seed, size=count)
    made = module.TimeIntervalsDataset(config)
    return tuple((made[index]["question"], made[index]["answer"]) for index in range(count))


def _reworded(question: str, chance: random.Random) -> str:
    if found := _LATER.fullmatch(question):
        return chance.choice(_FRAMES[found["side"]]).format(found["minutes"], found["time"])
    found = _BETWEEN.fullmatch(question)
    assert found is not None  # the data set asks in these two ways
    return chance.choice(_FRAMES["between"]).format(found[1], found[2])


def train_rows(form: Form = "direct", count: int = TRAINED) -> list[Row]:
    """Five in eight are the data set's own questions, one in eight is worded otherwise, two are spans."""
    chance = random.Random(0)
    rows = []
    for index, (question, gold) in enumerate(_official(3 * count // 4)):
        rows.append(row(question, gold, form, worded=_reworded(question, chance) if index % 6 == 0 else ""))
    rows += [row(question, gold, form) for question, gold in dict.fromkeys(_spans(0, count // 4))]
    chance.shuffle(rows)
    return rows


def held_out_rows(count: int = TESTED, trained: int = TRAINED) -> list[Row]:
    known = {question for question, _ in _official(3 * trained // 4)}
    drawn = dict.fromkeys(problems(MODULE, "interpolate", 2 * count, FAR))
    fresh = [(question, gold) for question, gold in drawn if question not in known]
    return [row(question, gold, "direct") for question, gold in fresh[:count]]


def span_rows(count: int = 200, trained: int = TRAINED) -> list[Row]:
    known = {question for question, _ in _spans(0, trained // 4)}
    fresh = [each for each in dict.fromkeys(_spans(FAR, count + 20)) if each[0] not in known]
    return [row(question, gold, "direct") for question, gold in fresh[:count]]

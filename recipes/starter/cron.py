"""English schedules and the five-field cron expressions that mean them.

One half is worded by `cron-descriptor` (MIT), the other half by a small grammar of how people say it. A schedule is
made of a time part (minute, hour), a day part (day of month, month, weekday) and a wording that joins them. The test
holds expressions that are never trained on, and frames that are never trained with.
"""

# ruff: noqa: E501 - tables of words read best as they are written

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cron_descriptor import get_description

Row = dict[str, Any]

NAME = "cron"
PURPOSE = "Turns an English schedule into a five-field cron expression."
INSTRUCTIONS = "Schedule to cron."
_NUMBER = r"[0-9]{1,2}"
_ITEM = rf"{_NUMBER}(-{_NUMBER})?"
_FIELD = rf"(\*(/{_NUMBER})?|{_ITEM}(/{_NUMBER})?(,{_ITEM}){{0,6}})"
CONTRACT = rf"{_FIELD}( {_FIELD}){{4}}"

DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ORDINALS = ["zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]


@dataclass(frozen=True)
class Part:
    """Words, and the fields they mean: "minute hour" of a time, "day month weekday" of a day part."""

    words: str
    fields: str


# ------------------------------------------------------------------------------------------------------- clock times
def clock(hour: int, minute: int, chance: random.Random) -> str:
    """One of the ways to say a time of the day."""
    half = hour % 12 or 12
    suffix = "am" if hour < 12 else "pm"
    spaced = chance.choice([suffix, f" {suffix}", f" {suffix.upper()}", suffix.upper()])
    period = _period(hour)
    ways = [
        f"{hour:02d}:{minute:02d}",
        f"{hour}:{minute:02d}",
        f"{half}:{minute:02d}{spaced}",
        f"{half}:{minute:02d} {period}",
    ]
    if minute == 0:
        ways += [
            f"{half}{spaced}",
            f"{half}{spaced}",
            f"{half} {period}",
            f"{_WORDS[half]} {period}",
            f"{half} o'clock {period}",
            f"{_WORDS[half]} o'clock {period}",
        ]
        if hour == 12:
            ways += ["noon", "noon", "midday", "12 noon"] * 2
        if hour == 0:
            ways += ["midnight", "midnight", "12 midnight"] * 3
    spoken = {15: f"quarter past {_WORDS[half]}", 30: f"half past {_WORDS[half]}", 45: f"quarter to {_WORDS[half % 12 + 1]}",
              10: f"ten past {_WORDS[half]}", 20: f"twenty past {_WORDS[half]}", 50: f"ten to {_WORDS[half % 12 + 1]}"}  # fmt: skip
    if minute in spoken:
        ways += [f"{spoken[minute]} {period}"] * 3
    if minute in (15, 30, 45):
        said = {15: "fifteen", 30: "thirty", 45: "forty-five"}[minute]
        ways += [f"{_WORDS[half]} {said}{' ' + suffix}", f"{_WORDS[half]} {said} {period}"]
    return chance.choice(ways)


def _period(hour: int) -> str:
    if hour < 4:
        return "at night"
    if hour < 12:
        return "in the morning"
    if hour < 18:
        return "in the afternoon"
    return "in the evening" if hour < 22 else "at night"


def _hour_minute(chance: random.Random) -> tuple[int, int]:
    minute = chance.choice([0, 0, 0, 0, 30, 30, 15, 45, 5, 10, 20, 50, chance.randrange(60)])
    return chance.choice([0, 6, 7, 8, 9, 10, 12, 13, 17, 18, 20, 22, *[chance.randrange(24)] * 5]), minute


def _at(chance: random.Random) -> Part:
    hour, minute = _hour_minute(chance)
    return Part(f"at {clock(hour, minute, chance)}", f"{minute} {hour}")


def _twice(chance: random.Random) -> Part:
    first, second = sorted(chance.sample(range(24), 2))
    minute = chance.choice([0, 0, 0, 30, 15])
    if minute == 0 and chance.random() < 0.5:
        return Part(f"at {first} and {second}", f"0 {first},{second}")
    return Part(f"at {clock(first, minute, chance)} and {clock(second, minute, chance)}", f"{minute} {first},{second}")


# ------------------------------------------------------------------------------------------------------- repetitions
def _span(chance: random.Random) -> tuple[str, str]:
    """A range of hours, both ends included."""
    first = chance.randrange(0, 20)
    last = chance.randrange(first + 2, 24)
    a, b = (str(first), str(last)) if chance.random() < 0.4 else (clock(first, 0, chance), clock(last, 0, chance))
    return chance.choice(
        [f"between {a} and {b}", f"from {a} to {b}", f"between {a} and {b}", f"from {a} until {b}"]
    ), f"{first}-{last}"


def _minutes(chance: random.Random) -> Part:
    step = chance.choice([2, 3, 4, 5, 6, 10, 12, 15, 20, 30, chance.randrange(2, 31)])
    words = chance.choice([f"every {step} minutes", f"once every {step} minutes", f"every {_spelled(step)} minutes"])
    if step == 30 and chance.random() < 0.5:
        words = chance.choice(["every half hour", "every half an hour", "twice an hour"])
    if step == 15 and chance.random() < 0.4:
        words = chance.choice(["every quarter of an hour", "every quarter hour", "four times an hour"])
    return Part(words, f"*/{step}")


def _spelled(number: int) -> str:
    tens = {15: "fifteen", 20: "twenty", 30: "thirty", 25: "twenty-five"}
    return _WORDS[number] if number <= 12 else tens.get(number, str(number))


def _every_minutes(chance: random.Random) -> Part:
    part = _minutes(chance) if chance.random() < 0.85 else Part("every minute", "*")
    if chance.random() < 0.5:
        return Part(part.words, f"{part.fields} *")
    words, hours = _span(chance)
    return Part(f"{part.words} {words}", f"{part.fields} {hours}")


def _every_hours(chance: random.Random) -> Part:
    if chance.random() < 0.4:
        words, hours = (
            chance.choice(
                ["every hour", "hourly", "once an hour", "every hour on the hour", "at the top of every hour"]
            ),
            "*",
        )
        if chance.random() < 0.4:
            span, hours = _span(chance)
            words = f"every hour {span}"
        return Part(words, f"0 {hours}")
    if chance.random() < 0.4:
        minute = chance.randrange(1, 60)
        ways = [
            f"at {minute} minutes past every hour",
            f"{minute} minutes past the hour",
            f"at minute {minute} of every hour",
            f"every hour at minute {minute}",
        ]
        if minute in (15, 30, 45):
            ways += [
                {15: "at quarter past every hour", 30: "at half past every hour", 45: "at quarter to every hour"}[
                    minute
                ]
            ] * 2
        return Part(chance.choice(ways), f"{minute} *")
    step = chance.choice([2, 3, 4, 6, 8, 12])
    words = chance.choice([f"every {step} hours", f"every {_WORDS[step]} hours", f"once every {step} hours"])
    if step == 2 and chance.random() < 0.4:
        words = chance.choice(["every other hour", "every second hour"])
    return Part(words, f"0 */{step}")


# -------------------------------------------------------------------------------------------------------------- days
def _daily(chance: random.Random) -> Part:
    return Part(chance.choice(["every day", "each day", "daily", "every single day", "day after day"][:4]), "* * *")


def _weekdays(chance: random.Random) -> Part:
    if chance.random() < 0.75:
        return Part(
            chance.choice(
                [
                    "every weekday",
                    "on weekdays",
                    "each weekday",
                    "every working day",
                    "on workdays",
                    "Monday to Friday",
                    "Monday through Friday",
                    "from Monday to Friday",
                    "on business days",
                ]
            ),
            "* * 1-5",
        )
    return Part(
        chance.choice(
            [
                "every weekend",
                "on weekends",
                "at the weekend",
                "on Saturdays and Sundays",
                "on Saturday and Sunday",
                "every Saturday and Sunday",
            ]
        ),
        "* * 0,6",
    )


def _some_days(chance: random.Random) -> Part:
    count = chance.choices([1, 2, 3], [5, 3, 1])[0]
    days = sorted(chance.sample(range(7), count), key=lambda day: (day - 1) % 7)
    fields = "* * " + ",".join(map(str, sorted(days)))
    names = [DAYS[day] for day in days]
    if chance.random() < 0.15:
        names = [name[:3] for name in names]
    plural = chance.random() < 0.5
    joined = listed([f"{name}s" if plural else name for name in names])
    if count == 1 and chance.random() < 0.2:
        return Part(
            chance.choice([f"weekly on {names[0]}", f"once a week on {names[0]}", f"on {names[0]} every week"]), fields
        )
    return Part(
        f"on {joined}" if plural else chance.choice([f"every {joined}", f"each {joined}", f"on {joined}"]), fields
    )


def _day_range(chance: random.Random) -> Part:
    first = chance.randrange(1, 5)
    last = chance.randrange(first + 1, 7)
    words = chance.choice(
        [f"{DAYS[first]} to {DAYS[last]}", f"from {DAYS[first]} to {DAYS[last]}", f"{DAYS[first]} through {DAYS[last]}"]
    )
    return Part(words, f"* * {first}-{last}")


def _month_day(chance: random.Random) -> Part:
    if chance.random() < 0.2:
        first, second = sorted(chance.sample(range(1, 29), 2))
        days, fields = f"{nth(first, chance)} and the {nth(second, chance)}", f"{first},{second}"
    else:
        day = chance.choice([1, 1, 15, *[chance.randrange(1, 32)] * 3])
        days, fields = nth(day, chance), str(day)
    if chance.random() < 0.55:
        frame = chance.choice(
            [
                "on the {} of each month",
                "on the {} of every month",
                "every month on the {}",
                "monthly on the {}",
                "on the {} day of the month",
                "on the {} of the month",
            ]
        )
        return Part(frame.format(days), f"{fields} * *")
    month = chance.randrange(12)
    if "," in fields or chance.random() < 0.5:
        return Part(f"on the {days} of {MONTHS[month]}", f"{fields} {month + 1} *")
    words = chance.choice(
        [f"on {MONTHS[month]} {fields}", f"every year on {MONTHS[month]} {fields}", f"every {fields} {MONTHS[month]}"]
    )
    return Part(words, f"{fields} {month + 1} *")


def _in_months(chance: random.Random) -> Part:
    if chance.random() < 0.3:
        step = chance.choice([2, 3, 6])
        ways = {
            2: ["every other month", "every two months"],
            3: ["every quarter", "every three months", "quarterly"],
            6: ["every six months", "twice a year"],
        }[step]
        return Part(
            f"on the {chance.choice(['first', '1st'])} day {chance.choice(ways)}"
            if chance.random() < 0.3
            else f"on the first of the month {chance.choice(ways)}",
            f"1 */{step} *",
        )
    base = chance.choice([_daily, _weekdays, _some_days])(chance)
    first = chance.randrange(0, 11)
    if chance.random() < 0.6:
        return Part(f"{base.words} in {MONTHS[first]}", base.fields.replace("* *", f"* {first + 1}", 1))
    last = chance.randrange(first + 1, 12)
    words = chance.choice([f"from {MONTHS[first]} to {MONTHS[last]}", f"between {MONTHS[first]} and {MONTHS[last]}"])
    return Part(f"{base.words} {words}", base.fields.replace("* *", f"* {first + 1}-{last + 1}", 1))


def _every_days(chance: random.Random) -> Part:
    step = chance.choice([2, 3, 4, 5, 7, 10])
    words = [
        f"every {step} days",
        f"every {_WORDS[step]} days",
        *(["every other day", "every second day"] * 2 if step == 2 else []),
    ]
    return Part(chance.choice(words), f"*/{step} * *")


def nth(day: int, chance: random.Random) -> str:
    """21 as "21st", small ones also as "third"."""
    suffix = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return _ORDINALS[day] if day <= 10 and chance.random() < 0.5 else f"{day}{suffix}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


# ------------------------------------------------------------------------------------------------------- whole wording
Maker = Callable[[random.Random], Part]
_TIMES: list[tuple[Maker, float]] = [(_at, 7), (_twice, 1), (_every_minutes, 4), (_every_hours, 3)]
_DAYPARTS: list[tuple[Maker, float]] = [
    (_daily, 3), (_weekdays, 4), (_some_days, 4), (_day_range, 1), (_month_day, 4), (_in_months, 2), (_every_days, 1),
]  # fmt: skip
_FRAMES = [
    "{}", "{}", "{}", "{}", "{}", "run {}", "a job that runs {}", "run the backup {}", "cron expression for {}", "cron for {}", "{} as cron",
    "schedule it {}", "it should run {}", "what is the cron expression for {}?", "give me the cron expression for {}", "start the report {}",
    "a cron that fires {}", "send the newsletter {}", "I want it to run {}", "write a cron expression that runs {}", "clean the cache {}",
    "{}, please", "execute {}", "sync the files {}", "a task that starts {}",
]  # fmt: skip
HELD_OUT_FRAMES = [
    "how do I write {} in cron?",
    "rotate the logs {}",
    "trigger the pipeline {}",
    "crontab entry: {}",
    "a reminder {}",
]


def schedule(chance: random.Random) -> Part:
    """A schedule in natural words and its five fields."""
    time = chance.choices([one for one, _ in _TIMES], [weight for _, weight in _TIMES])[0]
    at = time(chance)
    if time in (_every_minutes, _every_hours) and chance.random() < 0.5:
        return Part(at.words, f"{at.fields} * * *")
    day = chance.choices([one for one, _ in _DAYPARTS], [weight for _, weight in _DAYPARTS])[0](chance)
    orders = [f"{at.words} {day.words}", f"{day.words} {at.words}", f"{day.words}, {at.words}"]
    return Part(chance.choice(orders[:2] if chance.random() < 0.85 else orders), f"{at.fields} {day.fields}")


def natural(chance: random.Random, *, unseen_frame: bool = False) -> Row:
    """A schedule as people ask for it, and its expression."""
    part = schedule(chance)
    words = chance.choice(HELD_OUT_FRAMES if unseen_frame else _FRAMES).format(part.words)
    return {"prompt": _case(words, chance), "answer": part.fields}


def described(chance: random.Random) -> Row:
    """An expression of the same shapes in the words of cron-descriptor."""
    fields = str(natural(chance)["answer"])
    return {"prompt": _case(get_description(fields), chance), "answer": fields}


def _case(words: str, chance: random.Random) -> str:
    if chance.random() < 0.15:
        words = words.lower()
    if chance.random() < 0.5:
        words = words[0].upper() + words[1:]
    return words + "." if chance.random() < 0.15 and words[-1] not in "?." else words


def held_out(expression: str) -> bool:
    """About one expression in ten, by its hash."""
    return zlib.crc32(expression.encode()) % 10 == 0 and expression not in ("*/15 * * * *", "0 * * * *", "0 0 * * *")


@functools.cache
def train_rows() -> list[Row]:
    chance = random.Random(0)
    found: dict[str, Row] = {}
    while len(found) < 7000:
        row = natural(chance) if chance.random() < 0.75 else described(chance)
        if not held_out(str(row["answer"])):
            found.setdefault(str(row["prompt"]).lower(), row)
    return list(found.values())


@functools.cache
def test_rows() -> list[Row]:
    """200 in natural words (a third of them in frames that are never trained), 200 in cron-descriptor's."""
    chance = random.Random(10_000_000)
    found: dict[str, Row] = {}
    for count in (200, 400):
        while len(found) < count:
            row = natural(chance, unseen_frame=chance.random() < 0.33) if count == 200 else described(chance)
            if held_out(str(row["answer"])):
                found.setdefault(str(row["prompt"]).lower(), row)
    return list(found.values())

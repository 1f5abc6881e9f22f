"""The skills of the starter library by name, and those of them that can be taught in several forms of answer."""

from __future__ import annotations

import functools
import json
import random

import cron
import digits
import games
import general
import home
import planner
import texts
import toolcall
import toolcall_words
import unchain
from skill import APACHE, EXAMPLES, SETTINGS, Row, Skill, some

from plural.specialists import Contract
from plural.teams.planner import PLAN_SCHEMA


def _home_examples() -> list[str]:
    """As many everyday commands as odd ones: an intent in turn, so that rare ones are seen, too."""
    by_intent: dict[str, list[str]] = {}
    for row in home.train_rows():
        by_intent.setdefault(json.loads(row["answer"])["intent"], []).append(row["prompt"])
    turns = [by_intent[intent] for intent in sorted(by_intent)]
    often = by_intent["HassTurnOff"][:8] + by_intent["HassTurnOn"][:8] + by_intent["HassClimateSetTemperature"][:4]
    return (often + [turn[number] for number in range(4) for turn in turns if len(turn) > number])[: EXAMPLES + 16]


def _cron_examples() -> list[str]:
    return some([row for row in cron.train_rows() if "minutes past" not in row["prompt"]])


def _toolcall_examples() -> list[str]:
    """Requests for the network's own tools, some of them as a plan words them, before `#1` is filled in."""
    chance = random.Random(3)
    drawn = [
        *toolcall_words.arithmetic(chance, 48),
        *toolcall_words.next_runs(chance, 28),
        *toolcall_words.between_dates(chance, 24),
    ]
    planned = [step for request in planner.rows(planner.Source(held_out=False), 200) for step in _tasks(request)]
    referring = list(dict.fromkeys(step for step in planned if "#" in step))
    return [question for question, *_ in drawn] + chance.sample(referring, 28)


def _tasks(row: Row) -> list[str]:
    return [step["task"] for step in json.loads(row["answer"])["steps"]]


def _bfcl_test(category: str) -> list[Row]:
    return [row["row"] for row in toolcall.test_rows(category)]


SKILLS: dict[str, Skill] = {
    "home": Skill(
        name=home.NAME,
        purpose=home.PURPOSE,
        instructions=home.INSTRUCTIONS,
        asked_of_base=(
            "Translate the smart-home command into JSON with Home Assistant's intent and its slots, for example "
            '{"intent":"HassTurnOn","slots":{"domain":"light","area":"kitchen"}}. Answer only with the JSON.'
        ),
        checker="json",
        train_rows=home.train_rows,
        test_rows=home.test_rows,
        examples=_home_examples,
        settings={**SETTINGS, "batch_rows": 32, "max_steps": 500, "holdout_rows": 64},
        licence=APACHE,
        output=Contract(kind="json_schema", source=json.dumps(home.contract(), separators=(",", ":"))),
    ),
    "cron": Skill(
        name=cron.NAME,
        purpose=cron.PURPOSE,
        instructions=cron.INSTRUCTIONS,
        asked_of_base=(
            "Translate the schedule into a cron expression of five fields: minute hour day month weekday, for example "
            "30 7 * * 1-5. Answer only with the expression."
        ),
        checker="cron",
        train_rows=cron.train_rows,
        test_rows=cron.test_rows,
        examples=_cron_examples,
        settings={**SETTINGS, "batch_rows": 32, "max_steps": 500, "holdout_rows": 64},
        licence=APACHE,
        output=Contract(kind="regex", source=cron.CONTRACT),
        max_tokens=48,
    ),
    "toolcall": Skill(
        name=toolcall.NAME,
        purpose=toolcall.PURPOSE,
        instructions=toolcall.INSTRUCTIONS,
        asked_of_base="Answer by calling a function.",
        checker="toolcall",
        train_rows=toolcall.train_rows,
        test_rows=toolcall.own_test_rows,
        examples=_toolcall_examples,
        settings={
            **SETTINGS,
            "rank": 8,
            "activated": True,
            "learning_rate": 1.5e-3,
            "batch_rows": 4,
            "max_steps": 1000,
            "evaluate_every": 250,
        },
        licence=APACHE,
        tools=toolcall.TOOLS,
        max_tokens=160,
        more_tests={name: functools.partial(_bfcl_test, name) for name in toolcall.TESTED_ON},
        judges={name: functools.partial(toolcall.bfcl_judge, name) for name in toolcall.TESTED_ON},
    ),
    "planner": Skill(
        name=planner.NAME,
        purpose=planner.PURPOSE,
        instructions=planner.INSTRUCTIONS,
        asked_of_base=(
            "Split the request into its single tasks, word for word, as JSON such as "
            '{"steps":[{"task":"turn off the lights"},{"task":"what is 3*4"}]}. Answer only with the JSON.'
        ),
        checker="words",
        train_rows=planner.train_rows,
        test_rows=planner.test_rows,
        examples=lambda: planner.compound(2 * EXAMPLES),
        settings={**SETTINGS, "batch_rows": 16, "max_steps": 400, "holdout_rows": 64},
        licence=APACHE,
        output=Contract(kind="json_schema", source=json.dumps(PLAN_SCHEMA, separators=(",", ":"))),
        kind="planner",
        max_tokens=256,
    ),
    "unchain": Skill(
        name=unchain.NAME,
        purpose=unchain.PURPOSE,
        instructions=unchain.INSTRUCTIONS,
        asked_of_base=(
            "Split the question into its single steps as JSON, #1 standing for the answer of step 1, such as "
            '{"steps":[{"task":"Calculate 3 - -4."},{"task":"Calculate the greatest common factor of 14 and #1."}]}. '
            "Answer only with the JSON."
        ),
        checker="words",
        train_rows=unchain.train_rows,
        test_rows=unchain.test_rows,
        examples=lambda: some(unchain.train_rows()),
        settings={**SETTINGS, "rank": 8, "activated": True, "batch_rows": 8, "max_steps": 200},
        licence=APACHE,
        output=Contract(kind="json_schema", source=json.dumps(PLAN_SCHEMA, separators=(",", ":"))),
        kind="planner",
        max_tokens=256,
    ),
    **texts.SKILLS,
    **games.SKILLS,
    **{name: forms[digits.BEST[name]] for name, forms in digits.FORMS.items()},
}
FORMS: dict[str, dict[str, Skill]] = digits.FORMS
"""Skills whose answer can be direct, stand after its steps, or be a call of the calculator."""
GENERAL = general.PROMPTS + general.OTHERS

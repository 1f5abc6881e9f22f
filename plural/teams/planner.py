"""Splits a compound request into steps for specialists. The planner is a specialist itself: it answers with a plan."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig

from plural.agents.agent import constrainable
from plural.agents.budget import Price, usage_of
from plural.agents.effects import effects_of
from plural.agents.schema import longest, violations
from plural.errors import PlanError
from plural.teams.insisting import TRIES, again
from plural.types import Grammar, Planned, Step, Usage

MOST_STEPS = 6
LETTERS = 400  # of one task at most
ROOM = 2048  # tokens of one plan at most


def plan_schema(letters: int = LETTERS) -> dict[str, Any]:
    """A plan of 1 to 6 steps. Each place of the list says itself which answers its task may refer to: none that is not
    there yet can be drawn. No task is blank, or longer than `letters`."""

    def step(number: int) -> dict[str, Any]:
        task = {"type": "string", "minLength": 1, "maxLength": letters, "pattern": _task_before(number)}
        return {
            "type": "object",
            "properties": {"task": task},
            "required": ["task"],
            "additionalProperties": False,
        }

    steps = [step(number) for number in range(1, MOST_STEPS + 1)]
    return {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "prefixItems": steps,
                "items": False,
                "minItems": 1,
                "maxItems": MOST_STEPS,
            }
        },
        "required": ["steps"],
        "additionalProperties": False,
    }


def _task_before(number: int) -> str:
    """A text that does not begin with space, in which a # before a digit is one of #1 to #(number - 1)."""
    earlier = f"[1-{number - 1}]?" if number > 1 else ""
    part = rf"#{earlier}([^#0-9][^#]*)?"
    return rf"^([^#\s\x00-\x1f][^#]*|{part})({part})*$"


PLAN_SCHEMA = plan_schema()
_REFERENCE = re.compile(r"#([0-9]+)")
_ROUNDED = re.compile(r"^about [-\d.e+]+ = (?=\S+$)")


@dataclass(frozen=True, slots=True)
class Plan:
    """`probability` as in `Planned`; `usage` is what making the plan cost, in `tries` answers."""

    steps: tuple[Step, ...]
    probability: float | None
    usage: Usage
    tries: int = 1

    @property
    def event(self) -> Planned:
        return Planned(self.steps, self.probability, self.usage)


class Planner:
    """Asks its model for a plan: under a grammar, with log-probabilities, where the model can (`Constrainable`).

    Any other chat model needs `instructions` that say what a plan looks like; the answer is checked either way, and one
    that cannot be used is asked for again. `name` is the router's label for a request that needs a plan. `letters` is
    the length of a task at most, `price` what the model's tokens cost.
    """

    def __init__(
        self,
        model: Runnable[LanguageModelInput, AIMessage],
        *,
        name: str = "planner",
        instructions: str = "",
        letters: int = LETTERS,
        price: Price = Price(),
    ) -> None:
        self.name, self.price = name, price
        self._model, self._schema = model, PLAN_SCHEMA if letters == LETTERS else plan_schema(letters)
        if constrainable(model):
            grammar, most = Grammar.json_schema(self._schema), longest(self._schema)
            assert most is not None  # it follows from the schema
            self._model = model.bind(grammar=grammar, logprobs=1, max_tokens=min(most, ROOM))
        self._instructions = instructions

    async def plan(self, request: str, config: RunnableConfig | None = None) -> Plan:
        """The steps for `request`, 1 to 6. A task may say `#1` for the answer of step 1.

        Raises:
            PlanError: no answer is a plan, or a task refers to itself, to a later step or to one that is not there.
        """
        messages: list[BaseMessage] = [HumanMessage(request)]
        if self._instructions:
            messages.insert(0, SystemMessage(self._instructions))
        effects = effects_of(config)
        model = effects.model(self.name, self._model) if effects else self._model
        asked, usage, wrong = messages, Usage(), ""
        for tries in range(1, TRIES + 1):
            said = await model.ainvoke(asked, config)
            usage += usage_of(said)
            try:
                return Plan(read_plan(str(said.text), self._schema), _probability(said), usage, tries)
            except PlanError as unusable:
                wrong = unusable.message
            asked = [*messages, again(wrong)]
        error = PlanError(
            f"{self.name} was asked {TRIES} times for a plan. {wrong}",
            hint="Ask for less at once, or name a specialist.",
        )
        error.usage = usage
        raise error


def read_plan(text: str, schema: Mapping[str, Any] = PLAN_SCHEMA) -> tuple[Step, ...]:
    """The steps that a plan's JSON stands for. Raises PlanError as `Planner.plan` does."""
    try:
        plan = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(f"The plan is not JSON: {text!r}.", hint="It may have ended early.") from error
    for step in plan["steps"] if isinstance(plan, dict) and isinstance(plan.get("steps"), list) else ():
        if isinstance(step, dict) and isinstance(step.get("task"), str):
            step["task"] = step["task"].strip()
    if problems := violations(plan, schema):
        told = list(_astray(plan)) or problems
        raise PlanError(f"The plan {text!r} cannot be carried out: {'; '.join(told)}.")
    return tuple(_step(step["task"]) for step in plan["steps"])


def fill_in(task: str, answers: Mapping[int, str]) -> str:
    """`task` with every `#k` replaced by the answer of step k: of `about 0.667 = 2/3`, as the calculator says a
    fraction, the exact one."""
    return _REFERENCE.sub(lambda found: _ROUNDED.sub("", answers[int(found[1])]), task)


def _step(task: str) -> Step:
    return Step(task, tuple(sorted({int(found) for found in _REFERENCE.findall(task)})))


def _astray(plan: Any) -> Iterator[str]:
    """References that lead nowhere, in other words than the schema's patterns."""
    steps = plan.get("steps") if isinstance(plan, dict) else None
    tasks = (
        [str(step.get("task")) if isinstance(step, dict) else "" for step in steps] if isinstance(steps, list) else []
    )
    for number, task in enumerate(tasks, start=1):
        for earlier in sorted({int(found) for found in _REFERENCE.findall(task)}):
            if not 1 <= earlier < number:
                there = "a later step" if earlier <= len(tasks) else "a step that is not there"
                what = "no step" if not earlier else "itself" if earlier == number else there
                yield f"step {number} ({task!r}) refers to #{earlier}, {what}"


def _probability(said: AIMessage) -> float | None:
    tokens = (said.response_metadata.get("logprobs") or {}).get("content")
    return math.exp(sum(token["logprob"] for token in tokens)) if tokens else None

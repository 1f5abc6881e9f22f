"""Splits a compound request into steps for specialists. The planner is a specialist itself: it answers with a plan."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig

from plural.agents.budget import usage_of
from plural.agents.effects import effects_of
from plural.agents.schema import violations
from plural.errors import PlanError
from plural.protocols import Constrainable
from plural.types import Grammar, Planned, Step, Usage

MOST_STEPS = 6
PLAN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"task": {"type": "string", "minLength": 1}},
                "required": ["task"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": MOST_STEPS,
        }
    },
    "required": ["steps"],
    "additionalProperties": False,
}
_REFERENCE = re.compile(r"#(\d+)")
_ROUNDED = re.compile(r"^about [-\d.e+]+ = (?=\S+$)")


@dataclass(frozen=True, slots=True)
class Plan:
    """`probability` as in `Planned`; `usage` is what making the plan cost."""

    steps: tuple[Step, ...]
    probability: float | None
    usage: Usage

    @property
    def event(self) -> Planned:
        return Planned(self.steps, self.probability, self.usage)


class Planner:
    """Asks its model for a plan: under a grammar, with log-probabilities, where the model can (`Constrainable`).

    Any other chat model needs `instructions` that say what a plan looks like; the answer is checked either way. `name`
    is the router's label for a request that needs a plan.
    """

    def __init__(
        self, model: Runnable[LanguageModelInput, AIMessage], *, name: str = "planner", instructions: str = ""
    ) -> None:
        self.name = name
        self._model = model
        if isinstance(model, Constrainable):
            self._model = model.bind(grammar=Grammar.json_schema(PLAN_SCHEMA), logprobs=1)
        self._instructions = instructions

    async def plan(self, request: str, config: RunnableConfig | None = None) -> Plan:
        """The steps for `request`, 1 to 6. A task may say `#1` for the answer of step 1.

        Raises:
            PlanError: the answer is no plan, or a task refers to itself, to a later step or to one that is not there.
        """
        messages: list[BaseMessage] = [HumanMessage(request)]
        if self._instructions:
            messages.insert(0, SystemMessage(self._instructions))
        effects = effects_of(config)
        model = effects.model(self.name, self._model) if effects else self._model
        said = await model.ainvoke(messages, config)
        return Plan(read_plan(str(said.text)), _probability(said), usage_of(said))


def read_plan(text: str) -> tuple[Step, ...]:
    """The steps that a plan's JSON stands for. Raises PlanError as `Planner.plan` does."""
    try:
        plan = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(
            f"The plan is not JSON: {text!r}.", hint="It may have ended early: raise max_tokens."
        ) from error
    problems = violations(plan, PLAN_SCHEMA)
    if problems:
        raise PlanError(f"The plan {text!r} cannot be carried out: {'; '.join(problems)}.")
    tasks = [str(step["task"]).strip() for step in plan["steps"]]
    return tuple(_step(number, task, len(tasks)) for number, task in enumerate(tasks, start=1))


def fill_in(task: str, answers: Mapping[int, str]) -> str:
    """`task` with every `#k` replaced by the answer of step k: of `about 0.667 = 2/3`, as the calculator says a
    fraction, the exact one."""
    return _REFERENCE.sub(lambda found: _ROUNDED.sub("", answers[int(found[1])]), task)


def _step(number: int, task: str, count: int) -> Step:
    if not task:
        raise PlanError(f"Step {number} of the plan has an empty task.")
    after = tuple(sorted({int(found) for found in _REFERENCE.findall(task)}))
    for earlier in after:
        if not 1 <= earlier < number:
            what = "itself" if earlier == number else "a later step" if earlier <= count else "a step that is not there"
            raise PlanError(f"Step {number} ({task!r}) refers to #{earlier}, {what if earlier else 'no step'}.")
    return Step(task, after)


def _probability(said: AIMessage) -> float | None:
    tokens = (said.response_metadata.get("logprobs") or {}).get("content")
    return math.exp(sum(token["logprob"] for token in tokens)) if tokens else None

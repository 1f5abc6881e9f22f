"""The smallest honest network: one agent answers a request, or a plan is made and each step goes to its agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import Agent
from plural.agents.asking import approved
from plural.agents.effects import once
from plural.agents.merge import merge
from plural.errors import EngineStopped, LimitError, PlanError, RunError
from plural.protocols import Embedder
from plural.teams.planner import MOST_STEPS, Plan, Planner, fill_in
from plural.teams.router import BASE, Router, without
from plural.types import (
    Decision,
    Event,
    HandedOff,
    Message,
    Option,
    Paused,
    Routed,
    RunFinished,
    StepFinished,
    Usage,
)


async def work(
    request: str,
    *,
    router: Router | None,
    planners: Sequence[Planner],
    agents: Mapping[str, Agent],
    embedder: Embedder,
    max_steps: int = MOST_STEPS,
    history: Sequence[Message] = (),
    config: RunnableConfig | None = None,
) -> AsyncIterator[Event]:
    """Works on one request; the last event is RunFinished with the whole answer and what it cost.

    Without a router the only agent answers, or the one called "base". The base also reads `history`, what was said
    before; a specialist reads only what it is asked. What is routed to a planner is planned by it. In a plan, steps
    that need nothing from each other run at once, and a step that fails says so in its answer; a request without a plan
    raises what its agent raises.

    Raises:
        PlanError: a label of the router has no agent, or the plan cannot be carried out.
        LimitError: the plan has more than `max_steps` steps.
    """
    started = time.monotonic()
    team = _Team(router, planners, agents, embedder, config)
    decision = await team.route(request, 0, may_plan=True)
    yield Routed(request, decision)
    if planner := team.planners.get(decision.value):
        plan = await planner.plan(request, config)
        if len(plan.steps) > max_steps:
            raise LimitError(f"The plan has {len(plan.steps)} steps.", hint=f"Raise max_steps (now {max_steps}).")
        yield plan.event
        answers = _Answers(plan)
        async for event in merge([_step(number, team, answers, config) for number in answers.numbers]):
            yield event
        yield RunFinished(answers.joined(), plan.usage + answers.usage, time.monotonic() - started)
        return
    asked: list[BaseMessage] = [HumanMessage(request)]
    if decision.value == BASE:
        asked = [*map(_as_langchain, history), *asked]
    async for event in approved(team.agent(decision.value), asked, config, 0):
        if isinstance(event, HandedOff | Paused):
            raise _unheeded(event)
        if isinstance(event, RunFinished):
            yield RunFinished(event.answer, event.usage, time.monotonic() - started)
        else:
            yield event


class _Team:
    """Who may be chosen, checked once."""

    def __init__(
        self,
        router: Router | None,
        planners: Sequence[Planner],
        agents: Mapping[str, Agent],
        embedder: Embedder,
        config: RunnableConfig | None,
    ) -> None:
        self.agents, self._config = agents, config
        self._router, self._embedder = router, embedder
        self.planners = {planner.name: planner for planner in planners}
        known = {*agents, *self.planners}
        missing = [label for label in (router.labels if router else ()) if label not in known]
        if missing:
            raise PlanError(
                f"The router knows {missing[0]!r}, which is no agent.", hint=f"Agents: {', '.join(agents)}."
            )
        if not agents or (BASE not in agents and (router or len(agents) > 1)):
            raise PlanError(
                f"There is no agent {BASE!r} among {list(agents)!r}.", hint="It answers what nobody else can."
            )

    def agent(self, name: str) -> Agent:
        """Raises RunError for one who was there when the run began."""
        if name not in self.agents:
            raise RunError(
                f"The run goes to {name!r}, which is not in the network any more.",
                hint="`plural replay` still shows the run; `plural fork --with` lets another one go on.",
            )
        return self.agents[name]

    async def route(self, task: str, step: int, *, may_plan: bool) -> Decision[str]:
        router, embedder = self._router, self._embedder
        if router is None:
            return _certain(BASE if BASE in self.agents else next(iter(self.agents)))
        decision = await once(self._config, f"{step}.route", task, Decision[str], lambda: router.route(task, embedder))
        return decision if may_plan else without(decision, self.planners)


@dataclass(slots=True)
class _Answers:
    """The steps' answers as they come in. A step that waits for others is woken when theirs are there."""

    plan: Plan
    tasks: dict[int, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    usage: Usage = field(default_factory=Usage)
    _done: dict[int, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done = {number: asyncio.Event() for number in self.numbers}

    @property
    def numbers(self) -> range:
        return range(1, len(self.plan.steps) + 1)

    async def before(self, number: int) -> list[int]:
        """Waits until what this step needs is there; returns those of the steps before it that failed."""
        after = self.plan.steps[number - 1].after
        for earlier in after:
            await self._done[earlier].wait()
        return [earlier for earlier in after if earlier in self.failed]

    def put(self, finished: StepFinished) -> None:
        self.texts[finished.step] = finished.answer
        self.usage += finished.usage
        if finished.failed:
            self.failed.add(finished.step)
        self._done[finished.step].set()

    def joined(self) -> str:
        """The answers that no other step has used: one alone, or each on its line after what was asked."""
        used = {earlier for step in self.plan.steps for earlier in step.after}
        last = [number for number in self.numbers if number not in used]
        if len(last) == 1:
            return self.texts[last[0]]
        return "\n".join(f"{self.tasks[number]}: {self.texts[number]}" for number in last)


async def _step(number: int, team: _Team, answers: _Answers, config: RunnableConfig | None) -> AsyncIterator[Event]:
    """One step: begun when what it needs is there, routed by what is then asked, never failing the others."""
    task, started = answers.plan.steps[number - 1].task, time.monotonic()
    if not (lost := await answers.before(number)):
        task = fill_in(task, answers.texts)
    answers.tasks[number] = task
    decision = await team.route(task, number, may_plan=False)
    yield Routed(task, decision, number)
    ended: StepFinished | None = None
    if lost:
        why = f"Not done: it needs the answer of step {lost[0]}, which failed."
        ended = StepFinished(number, decision.value, why, Usage(), 0.0, failed=True)
        yield ended
    else:
        started = time.monotonic()
        try:
            async for event in approved(team.agent(decision.value), task, config, number):
                if isinstance(event, HandedOff | Paused):
                    raise _unheeded(event)
                if isinstance(event, StepFinished):
                    ended = event
                if not isinstance(event, RunFinished):
                    yield event
        except (EngineStopped, RunError):  # the run cannot go on here; it is not the step that failed
            raise
        except Exception as error:  # noqa: BLE001 - whatever one specialist's failure is, the others' answers stand
            seconds = time.monotonic() - started
            ended = StepFinished(number, decision.value, f"Not done: {error}", Usage(), seconds, failed=True)
            yield ended
    assert ended is not None  # an agent's events end with StepFinished or an error
    answers.put(ended)


def _unheeded(event: HandedOff | Paused) -> PlanError:
    """A network has nobody to ask, and its router decides who works."""
    if isinstance(event, HandedOff):
        return PlanError(f"{event.agent} hands over to {event.to}, which a network does not follow.")
    waiting = ", ".join(call.name for call in event.calls)
    return PlanError(f"{event.agent} waits for a person's approval of {waiting}.", hint="Ask the agent itself.")


def _certain(name: str) -> Decision[str]:
    return Decision(name, 1.0, (Option(name, 1.0),))


def _as_langchain(message: Message) -> BaseMessage:
    kinds: dict[str, type[BaseMessage]] = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}
    return kinds[message.role](message.content)

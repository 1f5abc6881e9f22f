"""The smallest honest network: one agent answers a request, or a plan is made and each step goes to its agent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import Agent
from plural.agents.approval import Deny
from plural.agents.asking import approved, verdict
from plural.agents.budget import Budget, Purse, paid, purse_in, spending
from plural.agents.effects import effects_of, once
from plural.agents.merge import merge
from plural.agents.traces import in_step
from plural.agents.waiting import Waiting
from plural.errors import EngineStopped, LimitError, PlanError, RunError, SettingsError
from plural.protocols import Embedder
from plural.teams.planner import MOST_STEPS, Plan, Planner, fill_in, read_plan
from plural.teams.router import BASE, Router, without
from plural.types import (
    Decision,
    Event,
    HandedOff,
    LimitReached,
    Message,
    Option,
    Paused,
    Planned,
    Question,
    Routed,
    RunFinished,
    Step,
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
    budget: Budget = Budget(),
    approve: bool = False,
    history: Sequence[Message] = (),
    config: RunnableConfig | None = None,
) -> AsyncIterator[Event]:
    """Works on one request; the last event is RunFinished with the whole answer and what it cost.

    Without a router the only agent answers, or the one called "base". The base also reads `history`, what was said
    before; a specialist reads only what it is asked. What is routed to a planner is planned by it. In a plan, steps
    that need nothing from each other run at once, and a step that fails says so in its answer; a request without a plan
    raises what its agent raises.

    Args:
        budget: what the request may cost, the plan and all agents together. When it is used up, steps that are left say
            that they were not done; who answers alone stops with what was said.
        approve: a person is asked about the plan before it is carried out (in a journaled run).

    Raises:
        PlanError: a label of the router has no agent, or the plan cannot be carried out.
        LimitError: the plan has more than `max_steps` steps; or the budget is used up and there is nothing to show.
        SettingsError: a plan has to be approved and the run has no journal to wait in.
    """
    started = time.monotonic()
    if approve and effects_of(config) is None:
        raise SettingsError("The plan has to be approved, and this run has no journal.", hint="Give it a journal.")
    purse = Purse(budget, "the network", parent=purse_in(config or {}))
    config = spending(purse, config)
    team = _Team(router, planners, agents, embedder, config)
    decision = await team.route(request, 0, may_plan=True)
    yield Routed(request, decision)
    if planner := team.planners.get(decision.value):
        events = _by_plan(request, planner, team, max_steps, approve, config)
    else:
        asked: list[BaseMessage] = [HumanMessage(request)]
        if decision.value == BASE:
            asked = [*map(_as_langchain, history), *asked]
        events = approved(team.agent(decision.value), asked, config, 0)
    async for event in events:
        if isinstance(event, HandedOff | Paused):
            raise _unheeded(event)
        if isinstance(event, RunFinished):
            yield RunFinished(event.answer, purse.used, time.monotonic() - started, purse.spent.money)
        else:
            yield event


async def _by_plan(
    request: str, planner: Planner, team: _Team, most: int, approve: bool, config: RunnableConfig
) -> AsyncIterator[Event]:
    try:
        plan = await paid(lambda: planner.plan(request, config), config, planner.price)
    except LimitError as error:
        if error.limit:
            yield LimitReached(0, planner.name, error.limit, error.value)
        raise
    if len(plan.steps) > most:
        raise LimitError(f"The plan has {len(plan.steps)} steps.", hint=f"Raise max_steps (now {most}).")
    yield plan.event
    if approve:
        steps = _approved(planner.name, plan.steps, most, config)
        if isinstance(steps, Deny):
            yield RunFinished(f"A person denied the plan: {steps.reason}", Usage(), 0.0)
            return
        if steps != plan.steps:
            plan = replace(plan, steps=steps)
            yield Planned(steps, None)
    answers = _Answers(plan)
    async for event in merge([_step(number, team, answers, config) for number in answers.numbers]):
        yield event
    yield RunFinished(answers.joined(), Usage(), 0.0)  # the network says what it cost


def _approved(planner: str, steps: tuple[Step, ...], most: int, config: RunnableConfig) -> tuple[Step, ...] | Deny:
    """The steps as a person wants them, or why there shall be none. Who writes steps that cannot be carried out is
    told so, and asked again."""
    effects = effects_of(config)
    assert effects is not None  # the network has looked
    listed = "\n".join(f"{number}. {step.task}" for number, step in enumerate(steps, start=1))
    form = '{"steps": [{"task": ...}]}'
    text = f"{listed}\nShall this be done? Say approve, deny: why, or other steps as {form}."
    while True:
        said = verdict(effects.ask("plan", Question(0, planner, text, kind="approval")))
        if isinstance(said, Deny):
            return said
        if said.arguments is None:
            return steps
        try:
            changed = read_plan(json.dumps(said.arguments))
            if len(changed) <= most:
                return changed
            wrong = f"The plan has {len(changed)} steps; {most} are allowed."
        except PlanError as error:
            wrong = str(error)
        text = f"{wrong}\n{listed}\nSay approve, deny: why, or other steps as {form}."


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
    waiting: dict[int, Waiting] = field(default_factory=dict)
    _done: dict[int, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done = {number: asyncio.Event() for number in self.numbers}

    @property
    def numbers(self) -> range:
        return range(1, len(self.plan.steps) + 1)

    async def before(self, number: int) -> list[int]:
        """Waits until what this step needs is there; returns those of the steps before it that failed. Raises Waiting
        where one of them waits for a person."""
        after = self.plan.steps[number - 1].after
        for earlier in after:
            await self._done[earlier].wait()
            if earlier in self.waiting:
                raise Waiting(self.waiting[earlier].question)
        return [earlier for earlier in after if earlier in self.failed]

    def put(self, finished: StepFinished) -> None:
        self.texts[finished.step] = finished.answer
        if finished.failed:
            self.failed.add(finished.step)
        self._done[finished.step].set()

    def wait(self, number: int, waiting: Waiting) -> None:
        """This step waits for a person, and so do those that need it."""
        self.waiting[number] = waiting
        self._done[number].set()

    def joined(self) -> str:
        """The answers that no other step has used: one alone, or each on its line after what was asked."""
        used = {earlier for step in self.plan.steps for earlier in step.after}
        last = [number for number in self.numbers if number not in used]
        if len(last) == 1:
            return self.texts[last[0]]
        return "\n".join(f"{self.tasks[number]}: {self.texts[number]}" for number in last)


async def _step(number: int, team: _Team, answers: _Answers, config: RunnableConfig) -> AsyncIterator[Event]:
    """One step: begun when what it needs is there, routed by what is then asked, never failing the others."""
    try:
        async for event in _worked(number, team, answers, config):
            yield event
    except Waiting as waiting:
        answers.wait(number, waiting)
        raise


async def _worked(number: int, team: _Team, answers: _Answers, config: RunnableConfig) -> AsyncIterator[Event]:
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
        purse = Purse(name=decision.value, parent=purse_in(config))  # of this step alone
        try:
            async with in_step(number, spending(purse, config)) as inside:
                async for event in approved(team.agent(decision.value), task, inside, number):
                    if isinstance(event, HandedOff | Paused):
                        raise _unheeded(event)
                    if isinstance(event, StepFinished):
                        ended = event
                    if not isinstance(event, RunFinished):
                        yield event
        except (EngineStopped, RunError):  # the run cannot go on here; it is not the step that failed
            raise
        except Exception as error:  # noqa: BLE001 - whatever one specialist's failure is, the others' answers stand
            why, seconds = f"Not done: {error}", time.monotonic() - started
            money = purse.spent.money
            ended = StepFinished(number, decision.value, why, purse.used, seconds, failed=True, money=money)
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

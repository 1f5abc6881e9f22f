"""The loop of a team: ask the pattern what is next, let it happen, until the pattern or a condition says it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import Agent
from plural.agents.asking import approved
from plural.agents.budget import Budget, Price, Purse, purse_in, spending
from plural.agents.decisions import Model
from plural.agents.effects import effects_of, once, through
from plural.agents.merge import merge
from plural.agents.traces import in_step
from plural.agents.waiting import Waiting
from plural.errors import LimitError, ModelError, PromptError, SettingsError
from plural.teams.insisting import insist
from plural.teams.patterns.state import PERSON, TEAM, Assignment, Decide, Finish, Pattern, Speak, State, Turn
from plural.teams.stop import Condition
from plural.types import (
    Decided,
    Decision,
    Event,
    HandedOff,
    LimitReached,
    Option,
    Paused,
    Question,
    Routed,
    RunFinished,
    StepFinished,
    StepStarted,
    ToolCall,
    ToolReturned,
)


class Member(Protocol):
    """An agent, a proxy, a team."""

    name: Any
    description: str

    def events(self, input: Any, config: RunnableConfig | None = None, *, step: int = 0) -> AsyncIterator[Event]: ...


@dataclass(frozen=True, slots=True)
class Members:
    """What a team works with. `model` makes the decisions that are no member's, at `price`. `closed` are those whose
    inside is not shown: teams. `blend` makes a mixture of members, by its name."""

    members: Mapping[str, Member]
    closed: frozenset[str]
    pattern: Pattern
    stop: Condition
    model: Model | None
    name: str
    budget: Budget
    price: Price
    blend: Callable[[str], Member] | None


@dataclass(frozen=True, slots=True)
class _Checked:
    """How it stood before a round: seconds of work so far, and why it ends there, or at which limit, if it does."""

    seconds: float
    why: str
    limit: tuple[str, float] | None


@dataclass(slots=True)
class _Turns:
    """Those of one round, as they come."""

    made: dict[int, Turn] = field(default_factory=dict)


async def work(team: Members, task: str, config: RunnableConfig) -> AsyncIterator[Event]:
    """The events of one run. Members that work at once meet in one batch of the engine.

    What a member cannot do (a limit, a broken contract, a transcript longer than its context) is what it says; any
    other error ends the run.
    """
    began = time.monotonic()
    purse = Purse(team.budget, team.name, parent=purse_in(config))
    config = spending(purse, config)
    state = State(task, {name: member.description for name, member in team.members.items()})
    answer: str | None = None
    rounds = 0
    while answer is None:
        rounds += 1
        checked = await once(config, f"{rounds}.stop", rounds, _Checked, _check(team, state, began, purse))
        began = time.monotonic() - checked.seconds  # what was played back counts as it was
        if checked.limit:
            yield LimitReached(len(state.turns), team.name, *checked.limit)
        if checked.why or checked.limit:
            answer = _so_far(state)
            break
        match team.pattern.next(state):
            case Finish(answer):
                pass
            case Speak(who):
                numbered = list(enumerate(who, start=len(state.turns) + 1))
                turns = _Turns()
                async for event in merge([_turn(team, at, each, state, turns, config) for at, each in numbered]):
                    yield event
                state = state.and_turns([turns.made[at] for at, _ in numbered])
            case decides:
                step = len(state.turns) + 1
                try:
                    async with purse.in_time():
                        made = await _all(_decided(team, each, rounds, step, config) for each in decides)
                except LimitError as error:
                    if not error.limit:
                        raise
                    yield LimitReached(len(state.turns), team.name, error.limit, error.value)
                    answer = _so_far(state)
                    break
                for each, decision in zip(decides, made, strict=True):
                    yield _told(each, decision, step, task, _pay(team, each, decision, purse))
                by = tuple(map(_by, decides))
                decided = [(each.key, decision) for each, decision in zip(decides, made, strict=True)]
                state = state.and_decided(decided, by)
    yield RunFinished(answer, purse.used, time.monotonic() - began, purse.spent.money)


def _so_far(state: State) -> str:
    return state.last.text if state.last else ""


def _check(team: Members, state: State, began: float, purse: Purse) -> Callable[[], Awaitable[_Checked]]:
    async def check() -> _Checked:
        seconds = time.monotonic() - began
        now = replace(state, seconds=seconds, money=purse.spent.money)
        return _Checked(seconds, team.stop.why(now), purse.empty())

    return check


async def _turn(
    team: Members, step: int, given: Assignment, state: State, turns: _Turns, config: RunnableConfig
) -> AsyncIterator[Event]:
    """One member's work, of which `turns` then knows."""
    task = given.task if given.task is not None else state.transcript(given.reads)
    calls: list[ToolCall] = []
    started = time.monotonic()
    made: Turn | None = None
    purse = Purse(name=given.agent, parent=purse_in(config))  # of this turn alone
    try:
        async with in_step(step, spending(purse, config)) as inside:
            async for event in _events(team, step, given.agent, task, inside):
                match event:
                    case StepFinished(answer=said, usage=usage, failed=failed, probability=sure):
                        made = Turn(step, given.agent, said, task, failed, tuple(calls), usage, probability=sure)
                    case HandedOff(to=to, task=said, usage=usage):
                        made = Turn(step, given.agent, said, task, False, tuple(calls), usage, to)
                    case ToolReturned(failed=False):
                        calls.append(event.call)
                    case Paused():
                        raise SettingsError(
                            f"{event.agent} waits for approval of {event.calls[0].name}, and this run has no journal.",
                            hint="Begin it with plural.teams.journal.begin.",
                        )
                yield event
    except (ModelError, PromptError) as error:
        if isinstance(error, PromptError) and task == state.task:
            raise  # the user's own words
        why = f"Not done: {error}"
        seconds = time.monotonic() - started
        yield StepFinished(step, given.agent, why, purse.used, seconds, failed=True, money=purse.spent.money)
        made = Turn(step, given.agent, why, task, failed=True, calls=tuple(calls), usage=purse.used)
    assert made is not None  # a member's events end with one of these
    turns.made[step] = made


async def _events(team: Members, step: int, name: str, task: str, config: RunnableConfig) -> AsyncIterator[Event]:
    member = team.members.get(name) or _blended(team, name)
    if name not in team.closed:
        source = (
            approved(member, task, config, step)
            if isinstance(member, Agent)
            else member.events(task, config, step=step)
        )
        async for event in source:
            if not isinstance(event, RunFinished):
                yield event
        return
    yield StepStarted(step, name, task)
    effects = effects_of(config)
    inside = through(effects.inside(name, step), config) if effects else config
    async for event in member.events(task, inside):
        if isinstance(event, RunFinished):
            yield StepFinished(step, name, event.answer, event.usage, event.seconds, money=event.money)


def _blended(team: Members, name: str) -> Member:
    assert team.blend is not None  # the team has looked
    return team.blend(name)


async def _all(decisions: Iterable[Awaitable[Decision[Any]]]) -> list[Decision[Any]]:
    """At once. Where a person has to be asked, or something goes wrong, the others are made first."""
    made = await asyncio.gather(*decisions, return_exceptions=True)
    wrong = [each for each in made if isinstance(each, BaseException)]
    if wrong:
        raise next((each for each in wrong if not isinstance(each, Waiting)), wrong[0])
    return [each for each in made if isinstance(each, Decision)]


async def _decided(team: Members, wanted: Decide, rounds: int, step: int, config: RunnableConfig) -> Decision[Any]:
    if wanted.person:
        return _person_s(team, wanted, rounds, step, config)
    asked: list[BaseMessage] = [HumanMessage(wanted.question)]
    model = team.model
    if wanted.by is not None:
        member = team.members[wanted.by]
        assert isinstance(member, Agent)  # the team has looked
        model = member.model
        if member.instructions:
            asked.insert(0, SystemMessage(member.instructions))
    assert model is not None  # the team has looked
    decider = model

    async def make() -> Decision[Any]:
        samples = 8 if wanted.options else 1  # texts that are drawn again are other texts
        how: dict[str, Any] = {"samples": samples, "temperature": wanted.temperature, "config": config}
        return await insist(decider, asked, wanted.options, schema=wanted.schema, **how)

    about: list[Any] = [wanted.question, wanted.options, wanted.schema]
    about += [wanted.temperature] if wanted.temperature != 1 else []
    return await once(config, f"{rounds}.{wanted.key}", about, Decision[Any], make)


def _person_s(team: Members, wanted: Decide, rounds: int, step: int, config: RunnableConfig) -> Decision[str]:
    if (effects := effects_of(config)) is None:
        raise SettingsError(
            f"{team.name} has to ask a person, and this run has no journal to wait in.",
            hint="Begin it with plural.teams.journal.begin.",
        )
    said = effects.ask(f"{rounds}.{wanted.key}", Question(step, team.name, wanted.question, kind="approval"))
    return Decision(said, 1.0, (Option(said, 1.0),))


def _by(wanted: Decide) -> str:
    return PERSON if wanted.person else wanted.by or TEAM


def _pay(team: Members, wanted: Decide, decision: Decision[Any], purse: Purse) -> float:
    """The money that it cost. A decision is one step. Those of a round are all made, also where the last steps are
    fewer: the next check ends the run then. What the journal knows is paid for again, so that a resumed run ends where
    it would have ended."""
    usage = decision.usage
    member = team.members[wanted.by] if wanted.by is not None else None
    price = member.price if isinstance(member, Agent) else team.price
    money = price.of(usage)
    purse.pay(steps=not wanted.person, usage=usage, money=money)
    return money


def _told(wanted: Decide, decision: Decision[Any], step: int, task: str, money: float) -> Event:
    if wanted.speaker:
        return Routed(task, decision, step, money)
    return Decided(step, _by(wanted), wanted.key, decision, money)

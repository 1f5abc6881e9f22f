"""What a team has so far, and what may come next. A pattern is a function from the one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plural.errors import PlanError
from plural.types import Decision, ToolCall, Usage

TEAM, PERSON = "team", "person"  # who decides what no member does: the team's own model, or somebody who is asked


@dataclass(frozen=True, slots=True)
class Turn:
    """What a member said in one step. `failed`: it could not do it, and `text` says why. `calls` are its tool calls
    that worked, in order. `handed_to`: who shall go on, told `text`. `probability` is that of the whole text, where its
    model tells."""

    step: int
    agent: str
    text: str
    task: str = ""
    failed: bool = False
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    handed_to: str = ""
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One run of a team. `decided` holds every decision as (key, decision), a key may come several times; `deciders`
    says who made each: a member, TEAM or PERSON. `money` is what the run has spent."""

    task: str
    members: Mapping[str, str]  # name: what it is for
    turns: tuple[Turn, ...] = ()
    decided: tuple[tuple[str, Decision[Any]], ...] = ()
    seconds: float = 0.0
    deciders: tuple[str, ...] = ()
    money: float = 0.0

    @property
    def usage(self) -> Usage:
        """Of all turns and decisions."""
        turns = sum((turn.usage for turn in self.turns), Usage())
        return sum((decision.usage for _, decision in self.decided), turns)

    @property
    def last(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    def decisions(self, key: str) -> list[Decision[Any]]:
        return [decision for found, decision in self.decided if found == key]

    def transcript(self, reads: Sequence[int] | None = None) -> str:
        """The task, then what was said, a line each. Everybody reads the same text, so that an engine which knows its
        beginning computes only what is new."""
        turns = self.turns if reads is None else [self.turns[at] for at in reads]
        return "\n".join([self.task, *(f"{turn.agent}: {turn.text}" for turn in turns)])

    def and_turns(self, turns: Sequence[Turn]) -> State:
        return replace(self, turns=(*self.turns, *turns))

    def and_decided(self, decided: Sequence[tuple[str, Decision[Any]]], by: Sequence[str] = ()) -> State:
        """`by` is who made each; left out, the team's own model."""
        named = by or (TEAM,) * len(decided)
        return replace(self, decided=(*self.decided, *decided), deciders=(*self.deciders, *named))


@dataclass(frozen=True, slots=True)
class Assignment:
    """Work for one member. With a `task` it reads only that; else the transcript, or of it the turns `reads`."""

    agent: str
    task: str | None = None
    reads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Speak:
    """These work next, at once."""

    who: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Decide:
    """A decision is needed first: of `options`, or a value of `schema`. `by` is the member whose model decides; None is
    the team's own. `speaker` says that it is about who speaks next. `temperature` divides the log-probabilities of the
    options: fitted by `plural.evals.calibration`, it makes them mean what they say. With `person` a person is asked the
    question for approval, in a journaled run, and the value is what they said."""

    key: str
    question: str
    options: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None
    by: str | None = None
    speaker: bool = False
    temperature: float = 1.0
    person: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    answer: str


Next = Speak | tuple[Decide, ...] | Finish


@dataclass(frozen=True, slots=True)
class Pattern:
    """Who works next. `uses` names the members that it may call, `deciders` those of them whose models decide,
    `decides` says that the team's own model does, `blends` that mixtures of members work. `tells` is who may follow
    whom, and whether that is open."""

    name: str
    next: Callable[[State], Next]
    uses: tuple[str, ...]
    decides: bool = False
    deciders: tuple[str, ...] = ()
    tells: tuple[tuple[str, str, bool], ...] = ()
    blends: bool = False


def say(*names: str) -> Speak:
    return Speak(tuple(Assignment(name) for name in names))


def distinct(names: Sequence[str], what: str, *, least: int = 1) -> tuple[str, ...]:
    """Raises PlanError for too few names, or one that comes twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise PlanError(f"{what} names {twice[0]!r} twice.", hint="Name every member once.")
    if len(names) < least:
        raise PlanError(f"{what} names {len(names)} members; it needs at least {least}.")
    return tuple(names)

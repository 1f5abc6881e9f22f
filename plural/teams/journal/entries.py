"""What a journal's entries say: everything that was shown (`plural.types.Event`), and what is needed to go on from it.

Text is written as it is shown, once. `ModelReturned` closes a model's call and holds the rest of its message; texts of
a call that was never closed count for nothing once the call is made again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from plural.errors import RunError
from plural.types import (
    Decided,
    Event,
    HandedOff,
    LimitReached,
    Paused,
    Planned,
    Question,
    Routed,
    RunFinished,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCall,
    ToolCalled,
    ToolReturned,
)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`target` says, to whoever started the run, how to make again what works on it. `input` is what that was given."""

    target: Mapping[str, Any]
    input: Any


@dataclass(frozen=True, slots=True)
class Resumed:
    owner: str


@dataclass(frozen=True, slots=True)
class ModelCalled:
    """The `call`-th call, from 0, of one piece of work. `digest` is that of the messages, which are not stored again:
    they follow from what the run was given and what came back."""

    call: int
    digest: str


@dataclass(frozen=True, slots=True)
class ModelReturned:
    """`message` is langchain-core's chunk without its empty fields, and without content where the texts are all."""

    call: int
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelFailed:
    call: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class ToolBegun:
    """The tool is called next: from here on its effect may have happened."""

    step: int
    agent: str
    call: ToolCall
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that came from outside and is not a model's message or a tool's result. `about` is a digest."""

    about: str
    value: Any


@dataclass(frozen=True, slots=True)
class Answered:
    """What a person answered to the question in entry `question`."""

    question: int
    answer: str


@dataclass(frozen=True, slots=True)
class RunFailed:
    """`fatal` are the model calls, as (path, call), whose failure nobody caught: they are made again."""

    error: str
    message: str
    fatal: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody ended the run before it was finished."""

    why: str


Noted: TypeAlias = (
    Event
    | RunStarted
    | Resumed
    | ModelCalled
    | ModelReturned
    | ModelFailed
    | ToolBegun
    | Kept
    | Answered
    | RunFailed
    | Cancelled
)

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Routed, Planned, Decided, StepStarted, TextDelta, ToolCalled, ToolReturned, StepFinished, Question, RunFinished,
        LimitReached, HandedOff, Paused,
        RunStarted, Resumed, ModelCalled, ModelReturned, ModelFailed, ToolBegun, Kept, Answered, RunFailed, Cancelled,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is who did it: "" the run itself, "0.clerk" what clerk did in step 0, "0.clerk/call_1" a call of its
    tool, and below that what an agent did that is this tool."""

    seq: int
    at: float
    path: str
    what: Noted


def written(what: Noted) -> tuple[str, str]:
    """The kind, and the body as JSON."""
    kind = type(what).__name__
    return kind, _adapter(kind).dump_json(what).decode()


def read(kind: str, body: str) -> Noted:
    """Raises RunError for what this version did not write."""
    try:
        what: Noted = _adapter(kind).validate_json(body)
    except (KeyError, ValidationError) as error:
        raise RunError(
            f"The journal has a {kind} that this Plural cannot read: {body:.80}.",
            hint="A newer Plural wrote it: use that one. Or it is damaged: put a copy of it in its place.",
        ) from error
    return what


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS[kind])

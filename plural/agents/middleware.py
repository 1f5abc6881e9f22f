"""What a user may put around the loop: before and after each model call, and around each tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langchain_core.messages import AIMessage, BaseMessage

from plural.types import ToolCall


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call. `number` counts those of this run, from 0. `messages` is the transcript, without the instructions
    if they come last.

    `ask` puts messages to the agent's own model, without tools or contract, at the run's expense.
    """

    agent: str
    step: int
    number: int
    messages: tuple[BaseMessage, ...]
    ask: Callable[[Sequence[BaseMessage]], Awaitable[str]]


class Observation(NamedTuple):
    """What a call came to; `result` is what the model is told."""

    result: str
    failed: bool


ToolRunner = Callable[[ToolCall], Awaitable[Observation]]


class Middleware:
    """Each method does nothing until it is overridden. Of several, the first given stands furthest from the model and
    the tool: `before_model` runs from first to last, `after_model` from last to first, and `around_tool` of the first
    is around all others'. One object serves many runs at once: what it keeps must not belong to one of them.
    """

    async def before_model(self, turn: Turn) -> Sequence[BaseMessage]:
        """The transcript from now on."""
        return turn.messages

    async def after_model(self, turn: Turn, said: AIMessage) -> AIMessage:  # noqa: ARG002 - to be overridden
        """The message from now on. Its text was streamed already; its calls were not made yet."""
        return said

    async def around_tool(self, call: ToolCall, run: ToolRunner) -> Observation:
        """What the call comes to. `run` makes it, time-out and retries included; it may be left out or repeated."""
        return await run(call)

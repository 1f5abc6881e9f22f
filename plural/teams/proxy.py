"""A member that is no model: a person, a rule, or a program that runs what others wrote."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from plural.agents.agent import AgentInput, task_of
from plural.agents.effects import effects_of
from plural.agents.marks import mark
from plural.agents.tools import call_tool
from plural.errors import SettingsError
from plural.types import (
    Event,
    Question,
    RunFinished,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCall,
    ToolCalled,
    ToolReturned,
    Usage,
)

Reply = Callable[[str], str | Awaitable[str]]
_CODE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)


class _Heard(BaseModel):
    message: str = Field(description="The conversation so far.")


class Proxy:
    """Speaks for the user. With `reply` it answers by itself, from the conversation so far; without, a person is asked:
    the run ends with a `Question`, waits in its journal, and goes on when there is an answer.

    Args:
        idempotent: that replying twice is the same as replying once; a reply that was interrupted is then repeated
            without asking, as a tool's call is.
    """

    def __init__(
        self,
        name: str = "user",
        reply: Reply | None = None,
        *,
        description: str = "The user.",
        idempotent: bool = False,
    ) -> None:
        if not name.strip():
            raise SettingsError("A proxy needs a name.")
        self.name, self.description = name, description
        self._reply = None if reply is None else _as_tool(reply, idempotent)

    async def events(
        self, input: AgentInput, config: RunnableConfig | None = None, *, step: int = 0
    ) -> AsyncIterator[Event]:
        """Raises SettingsError when a person has to be asked and the run has no journal to wait in."""
        started, heard = time.monotonic(), task_of(input)
        yield StepStarted(step, self.name, heard)
        effects, failed = effects_of(config), False
        if self._reply is not None:
            tool = effects.tool(self.name, step, self._reply) if effects else self._reply
            call = ToolCall(f"reply_{step}", tool.name, {"message": heard})
            yield ToolCalled(step, self.name, call)
            said, failed = await call_tool({tool.name: tool}, call, config)
            yield ToolReturned(step, self.name, call, said, failed)
        elif effects is not None:
            said = effects.ask(f"{step}.{self.name}", Question(step, self.name, heard))
        else:
            raise SettingsError(
                f"{self.name!r} is a person, and this run has no journal to wait in.",
                hint="Begin it with plural.teams.journal.begin, or give the proxy a reply.",
            )
        yield TextDelta(step, self.name, said)
        finished = StepFinished(step, self.name, said, Usage(), time.monotonic() - started, failed)
        yield finished
        yield RunFinished(said, finished.usage, finished.seconds)


def runs_code(run: Reply | BaseTool, *, otherwise: str = "There is no code to run.") -> Reply:
    """A reply that gives the code blocks that were written since the last run to `run`, and says what came of it, or
    what went wrong. `run` is a tool of one text, as `plural.agents.toolbox.sandbox()` is, or a function."""

    async def reply(heard: str) -> str:
        blocks = _CODE.findall(heard.rpartition(_RAN)[2])
        if not blocks:
            return otherwise
        code = "\n".join(blocks)
        if isinstance(run, BaseTool):
            call = ToolCall("run", run.name, {next(iter(run.args)): code})
            result, _ = await call_tool({run.name: run}, call, None)
            return f"{_RAN}\n{result}"
        said = run(code)
        return f"{_RAN}\n{await said if inspect.isawaitable(said) else said}"

    return reply


_RAN = "The code ran:"


def _as_tool(reply: Reply, idempotent: bool) -> BaseTool:
    async def answered(message: str) -> Any:
        said = reply(message)
        return await said if inspect.isawaitable(said) else said

    made = StructuredTool.from_function(
        coroutine=answered,
        name="reply",
        description="Answers for the user.",
        args_schema=_Heard,
    )
    return mark(made, idempotent=idempotent)

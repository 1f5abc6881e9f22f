"""What the loop must know of a tool beyond what the model reads: may it run unasked, for how long, and twice?

    search = mark(search, timeout=10, idempotent=True)

    @mark(approval=True)
    @tool
    def delete(path: str) -> str: ...

Marks are kept in the tool's own metadata, so any LangChain tool can carry them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from plural.errors import ToolError

MARKS = "plural"  # their place in a tool's metadata
_TRANSIENT = (ConnectionError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Marks:
    """`timeout` and `backoff` are in seconds, `cost` is money a call, in the budget's currency.

    A call that failed with one of `retry_on`, or that took too long, is made again `retries` times, after `backoff`
    seconds and then twice as many each time. None is twice for an idempotent tool and never for any other: whoever
    gives a number says that the tool bears it.
    """

    approval: bool = False
    idempotent: bool = False
    timeout: float | None = None
    retries: int | None = None
    backoff: float = 0.5
    retry_on: tuple[type[Exception], ...] = _TRANSIENT
    cost: float = 0.0
    handoff: str = ""
    long: bool = False

    def __post_init__(self) -> None:
        for name, fine, allowed in (
            ("timeout", self.timeout is None or 0 < self.timeout < math.inf, "above 0"),
            ("retries", self.retries is None or self.retries >= 0, "at least 0"),
            ("backoff", 0 <= self.backoff < math.inf, "at least 0"),
            ("cost", 0 <= self.cost < math.inf, "at least 0"),
        ):
            if not fine:
                raise ToolError(f"{name} of a tool is {getattr(self, name)!r}; it must be {allowed}.")

    @property
    def tries(self) -> int:
        return 1 + (self.retries if self.retries is not None else 2 * self.idempotent)


class Marking(TypedDict, total=False):
    """The fields of `Marks` that may be given to `mark`."""

    approval: bool
    idempotent: bool
    timeout: float | None
    retries: int | None
    backoff: float
    retry_on: tuple[type[Exception], ...]
    cost: float
    handoff: str
    long: bool


_UNMARKED = Marks()

# Of a tool and its call: the result, made in another process, which knows nothing of the run. Leaving it ends the work;
# a process that is lost is a ConnectionError.
Away = Callable[[BaseTool, Mapping[str, Any]], Awaitable[Any]]
_AWAY: list[Away] = []


def elsewhere() -> Away | None:
    """Where this process has its long tools run, if not here."""
    return _AWAY[0] if _AWAY else None


def send_long_tools(away: Away | None) -> None:
    """From now on long tools run there; None is here. A process has one such place, as it is part of one cluster."""
    _AWAY[:] = [] if away is None else [away]


@overload
def mark(tool: BaseTool, /, **marks: Unpack[Marking]) -> BaseTool: ...


@overload
def mark(**marks: Unpack[Marking]) -> Callable[[BaseTool], BaseTool]: ...


def mark(tool: BaseTool | None = None, /, **marks: Unpack[Marking]) -> BaseTool | Callable[[BaseTool], BaseTool]:
    """A copy of the tool with these marks in the place of the ones it had. Without a tool: a decorator.

    The marks, all of which `Marks` describes:

    - `approval`: a person must agree to each call.
    - `idempotent`: calling it twice does what calling it once does.
    - `timeout`: seconds that one try may take. A sync tool's thread cannot be stopped: its result is then unread.
    - `retries`, `backoff`, `retry_on`: how often it is tried again, and after what.
    - `cost`: money that a call costs.
    - `handoff`: the agent that takes over when the tool was called.
    - `long`: where there is a cluster, it runs there (see `elsewhere`) and not in this process.

    Raises:
        ToolError: something that is no LangChain tool, or a value out of its range.
    """
    made = Marks(**marks)
    if tool is None:
        return lambda decorated: _marked(decorated, made)
    return _marked(tool, made)


def marks_of(tool: BaseTool) -> Marks:
    found = (tool.metadata or {}).get(MARKS, _UNMARKED)
    return found if isinstance(found, Marks) else _UNMARKED


async def attempt(tool: BaseTool, request: Mapping[str, Any], config: RunnableConfig | None) -> Any:
    """The result of the tool, run within its time and as often as its marks allow. Raises what the last try raised."""
    marks, tried = marks_of(tool), 0
    while True:
        tried += 1
        try:
            async with asyncio.timeout(marks.timeout) as limit:
                if marks.long and (away := elsewhere()) is not None:
                    return await away(tool, request)
                return await tool.ainvoke(dict(request), config)
        except Exception as error:  # noqa: BLE001 - it is raised again, unless the tool is to be tried again
            told = TimeoutError(f"no result within {marks.timeout:g} s") if limit.expired() else error
            if tried == marks.tries or not isinstance(told, marks.retry_on):
                if tried > 1:
                    told.add_note(f"tried {tried} times")
                raise told from error.__cause__
        await asyncio.sleep(marks.backoff * 2 ** (tried - 1))


def _marked(tool: BaseTool, marks: Marks) -> BaseTool:
    if not isinstance(tool, BaseTool):
        raise ToolError(f"{tool!r} is no tool that can be marked.", hint="Put @tool under @mark(...).")
    return tool.model_copy(update={"metadata": {**(tool.metadata or {}), MARKS: marks}})

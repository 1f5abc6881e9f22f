"""What a run may cost, as one budget, and the purse that it is paid from.

Budgets make a tree: a purse that has a parent draws from it, too, and stops when either is empty. The purse travels in
the config of LangChain's Runnables, so what an agent calls (a chain, another agent as a tool) draws from the caller's.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig, ensure_config

from plural.errors import ContractError, LimitError, PlanError, SettingsError
from plural.types import Usage

T = TypeVar("T")


class _NoMore:
    """Stands behind the last item."""


_NO_MORE = _NoMore()
_KEY = "__plural_purse"  # with two underscores, langchain-core keeps it out of the traces


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits; None is none. Steps are model calls. Tokens are those read and written, whether or not a cache had them.
    Money is in the currency of `Price` and of what tools are marked with."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name} of a budget is {value!r}; it must be above 0, or None for no limit.")


@dataclass(frozen=True, slots=True)
class Spent:
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.steps + other.steps,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.money + other.money,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """Money for a million tokens: read, written, and read from a cache (as much as read if it is None)."""

    read: float = 0.0
    written: float = 0.0
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SettingsError(f"{name} of a price is {value!r}; it must be a number of at least 0.")

    def of(self, usage: Usage) -> float:
        cached = self.read if self.cached is None else self.cached
        return (
            (usage.prompt - usage.cached) * self.read + usage.cached * cached + usage.completion * self.written
        ) / 1e6


class Purse:
    """The owner of what was spent on one budget. It may be shared by runs, also in several threads.

    Args:
        budget: its limits.
        name: whose it is; errors say so.
        parent: the purse that everything is drawn from as well.
        spent: what was spent before, of a run that goes on. Its seconds do not run while nobody works.
        used: the tokens of that by their kinds.
    """

    def __init__(
        self,
        budget: Budget = Budget(),
        name: str = "this run",
        *,
        parent: Purse | None = None,
        spent: Spent | None = None,
        used: Usage = Usage(),
    ) -> None:
        self.budget = budget
        self.name = name
        self._parent = parent
        self._spent, self._used = spent or Spent(), used
        self._opened = time.monotonic()
        self._lock: threading.Lock = parent._lock if parent else threading.Lock()  # one for a whole tree

    @property
    def spent(self) -> Spent:
        return self._spent + Spent(seconds=time.monotonic() - self._opened)

    @property
    def used(self) -> Usage:
        """The tokens of all that was paid with its usage."""
        return self._used

    def draw(self, *, steps: int = 0, money: float = 0.0) -> None:
        """Pays for what is about to be done. Raises LimitError, and pays nothing, when some purse cannot bear it."""
        with self._lock:
            for purse in self._line():
                purse._bear(steps, money)
            self._pay(Spent(steps=steps, money=money))

    def pay(self, *, steps: int = 0, usage: Usage = Usage(), money: float = 0.0) -> None:
        """Pays for what was done. That may be more than there was: the next `draw` then fails."""
        with self._lock:
            self._pay(Spent(steps=steps, tokens=usage.prompt + usage.completion, money=money), usage)

    def empty(self) -> tuple[str, float] | None:
        """The limit that is used up, of this purse or one that it draws from, and how much of it there was."""
        for purse in self._line():
            for limit in Budget.__slots__:
                most = getattr(purse.budget, limit)
                if most is not None and getattr(purse.spent, limit) >= most:
                    return limit, most
        return None

    async def within(self, source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The same items while there is time. Raises LimitError when there is none left. The source is closed."""
        try:
            while True:
                async with self.in_time():
                    item = await anext(source, _NO_MORE)
                if isinstance(item, _NoMore):
                    return
                yield item
        finally:
            if (close := getattr(source, "aclose", None)) is not None:
                await close()

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """What is awaited inside ends with LimitError when there is no time left."""
        first = min(self._line(), key=Purse._left)  # the one that runs out first
        left = first._left()
        try:
            async with asyncio.timeout(None if left == math.inf else left) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise first._used_up("seconds") from None

    def _line(self) -> Iterator[Purse]:
        purse: Purse | None = self
        while purse is not None:
            yield purse
            purse = purse._parent

    def _left(self) -> float:
        """Seconds."""
        return math.inf if self.budget.seconds is None else self.budget.seconds - self.spent.seconds

    def _bear(self, steps: int, money: float) -> None:
        budget, spent = self.budget, self.spent
        if budget.steps is not None and spent.steps + steps > budget.steps:
            raise self._used_up("steps")
        if budget.tokens is not None and spent.tokens >= budget.tokens:
            raise self._used_up("tokens")
        if budget.seconds is not None and spent.seconds >= budget.seconds:
            raise self._used_up("seconds")
        if budget.money is not None and (spent.money >= budget.money or spent.money + money > budget.money):
            raise self._used_up("money")

    def _pay(self, spent: Spent, usage: Usage = Usage()) -> None:
        for purse in self._line():
            purse._spent += spent
            purse._used += usage

    def _used_up(self, limit: str) -> LimitError:
        value, spent = getattr(self.budget, limit), getattr(self.spent, limit)
        return LimitError(
            f"{self.name} has used up its {limit}: {spent:g} of {value:g}.",
            hint=f"Give it a larger Budget({limit}=...).",
            limit=limit,
            value=value,
        )


class Counted(BaseCallbackHandler):
    """What the chat models cost that are asked under it, in `usage`."""

    run_inline = True

    def __init__(self) -> None:
        self.usage = Usage()

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        for generation in response.generations[0] if response.generations else ():
            if isinstance(generation, ChatGeneration):
                self.usage += usage_of(generation.message)


class _HasUsage(Protocol):
    @property
    def usage(self) -> Usage: ...


P = TypeVar("P", bound=_HasUsage)


async def paid(make: Callable[[], Awaitable[P]], config: RunnableConfig | None, price: Price = Price()) -> P:
    """What `make` gives, a decision or a plan, paid from the purse in the config, if there is one: a step and its
    tokens, in the time that is left. Answers that no decision came of are paid, too.

    Raises:
        LimitError: something is used up before it, or the time while it is made.
    """
    purse = purse_in(config or {})
    if purse is None:
        return await make()
    purse.draw(steps=1)
    try:
        async with purse.in_time():
            made = await make()
    except (ContractError, PlanError) as error:
        if isinstance(error.usage, Usage):
            purse.pay(usage=error.usage, money=price.of(error.usage))
        raise
    purse.pay(usage=made.usage, money=price.of(made.usage))
    return made


def usage_of(said: BaseMessage) -> Usage:
    """What a model's message cost; nothing where its provider does not say."""
    counted = getattr(said, "usage_metadata", None)
    if not counted:
        return Usage()
    cached = counted.get("input_token_details", {}).get("cache_read", 0)
    return Usage(counted["input_tokens"], counted["output_tokens"], cached)


def spending(purse: Purse, config: RunnableConfig | None = None) -> RunnableConfig:
    """A config under which every agent draws from `purse`: `chain.invoke(input, spending(purse))`."""
    whole = ensure_config(config)
    return {**whole, "configurable": {**whole.get("configurable", {}), _KEY: purse}}


def purse_in(config: RunnableConfig) -> Purse | None:
    found = config.get("configurable", {}).get(_KEY)
    return found if isinstance(found, Purse) else None

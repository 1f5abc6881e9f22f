"""What a run puts between its agents and the world: nothing, or something that records, as the journal does.

It travels in the run's config, so that it also reaches agents inside of chains, and agents that are other agents'
tools.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from plural.agents.loop import ChatRunnable, Equipment
from plural.types import Question

_KEY = "__plural_effects"  # with two underscores, so that langchain-core keeps it out of the traces' metadata


T = TypeVar("T")


class Effects(Protocol):
    def outfit(self, kit: Equipment, step: int) -> Equipment:
        """The same equipment for one piece of work, with a model and tools that go through here."""
        ...

    def model(self, name: str, model: ChatRunnable) -> ChatRunnable:
        """A model that is asked by no agent, as a planner's is, going through here. Nothing shows what it says."""
        ...

    def tool(self, name: str, step: int, tool: BaseTool) -> BaseTool:
        """A tool that is called by no agent, but by `name` in this step."""
        ...

    def inside(self, name: str, step: int) -> Effects:
        """The same for what goes on inside of a step, where nothing is shown."""
        ...

    def ask(self, path: str, question: Question) -> str:
        """What a person answered. Ends the run, which then waits, until there is an answer."""
        ...

    async def once(self, path: str, about: Any, kind: type[T], make: Callable[[], Awaitable[T]]) -> T:
        """A value from anywhere else, of a `kind` that pydantic reads and writes as JSON. `path` names the place in the
        run, `about` (JSON) is what the value depends on."""
        ...


def effects_of(config: RunnableConfig | None) -> Effects | None:
    return cast(Effects | None, (config or {}).get("configurable", {}).get(_KEY))


async def once(
    config: RunnableConfig | None, path: str, about: Any, kind: type[T], make: Callable[[], Awaitable[T]]
) -> T:
    """What `make` gives; in a run that did this before, what it gave then."""
    effects = effects_of(config)
    return await (effects.once(path, about, kind, make) if effects else make())


def through(effects: Effects, config: RunnableConfig | None = None) -> RunnableConfig:
    """The config of a run, or of a part of it, whose agents work through `effects`."""
    given: RunnableConfig = config or {}
    return {**given, "configurable": {**given.get("configurable", {}), _KEY: effects}}


def outfitted(kit: Equipment, step: int, config: RunnableConfig) -> Equipment:
    effects = effects_of(config)
    return effects.outfit(kit, step) if effects else kit

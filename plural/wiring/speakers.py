"""The network, offered agents and teams as models of the wire: each takes a conversation and no options."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import fields
from typing import cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from plural.agents import Agent
from plural.errors import SettingsError
from plural.teams import Team
from plural.types import (
    Asked,
    Event,
    FinishReason,
    HandedOff,
    LimitReached,
    Message,
    Paused,
    Routed,
    RunFinished,
    Sampling,
    Spoken,
    StepStarted,
    TextDelta,
)
from plural.wiring.network import BASE, Network

NETWORK = "network"  # the model id under which the router chooses who answers
_SPOKEN: dict[str, type[BaseMessage]] = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}


class NetworkSpeaker:
    """The whole network as one model: it takes a conversation and no options.

    What a single agent without tools says is shown as it comes; of all other runs only the answer is, when it is whole.
    Every event of the run is told beside that.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    async def speak(self, asked: Asked) -> AsyncGenerator[Spoken, None]:
        check_asked(NETWORK, asked, self._network.settings.max_tokens)
        *history, last = asked.messages
        live, finish = False, _Finish()
        # Not in the journal: nobody goes on with a chat whose client is gone.
        events = cast(AsyncGenerator[Event, None], self._network.work(last.content, history=history))
        async with aclosing(events):
            async for event in events:
                yield Spoken(0, "", event=event)
                finish.see(event)
                match event:
                    case Routed(step=0):
                        live = self._speaks_once(event.decision.value)
                    case TextDelta() if live:
                        yield Spoken(0, event.text)
                    case RunFinished():
                        yield Spoken(0, "" if live else event.answer, finish=finish.reason, usage=event.usage)

    def _speaks_once(self, name: str) -> bool:
        if name == BASE:
            return True
        card = self._network.library.get(name).card
        return card.kind == "skill" and not card.tools


class WorkerSpeaker:
    """An agent or a team as one model. Its answer is shown when it is whole; what it does is told beside that. It has
    no journal, so a person can be asked nothing: that takes a run."""

    def __init__(self, worker: Agent | Team, max_tokens: int) -> None:
        self._worker, self._max_tokens = worker, max_tokens

    async def speak(self, asked: Asked) -> AsyncGenerator[Spoken, None]:
        name = self._worker.name
        check_asked(name, asked, self._max_tokens)
        if isinstance(self._worker, Team) and len(asked.messages) > 1:
            raise SettingsError(f"The team {name!r} reads one task, no conversation.", hint="Give one message.")
        events = cast(AsyncIterable[Event], self._worker.events(list(map(as_langchain, asked.messages))))
        finish = _Finish()
        async for event in events:
            finish.see(event)
            left = isinstance(event, HandedOff) and isinstance(self._worker, Agent)  # a team follows it
            if left or isinstance(event, Paused):
                raise SettingsError(f"{name!r} cannot go on in a chat.", hint="Start a run: POST /v1/runs.")
            yield Spoken(0, "", event=event)
            if isinstance(event, RunFinished):
                yield Spoken(0, event.answer, finish=finish.reason, usage=event.usage)


class _Finish:
    """How the answer of a run ended: by its length when a limit was reached after which nobody else began."""

    def __init__(self) -> None:
        self.reason: FinishReason = "stop"

    def see(self, event: Event) -> None:
        if isinstance(event, LimitReached | StepStarted):
            self.reason = "length" if isinstance(event, LimitReached) else "stop"


def as_langchain(message: Message) -> BaseMessage:
    return _SPOKEN[message.role](message.content)


def check_asked(name: str, asked: Asked, max_tokens: int) -> None:
    """Raises SettingsError for what only a plain model can do."""
    default = Asked(asked.messages, sampling=Sampling(max_tokens=max_tokens))
    differ = [one.name for one in fields(Asked) if getattr(asked, one.name) != getattr(default, one.name)]
    if "sampling" in differ:
        differ.remove("sampling")
        mine, theirs = default.sampling, asked.sampling
        differ += [one.name for one in fields(Sampling) if getattr(mine, one.name) != getattr(theirs, one.name)]
    if differ or not asked.messages:
        named = ", ".join(differ) or "a prompt without messages"
        raise SettingsError(
            f"The model {name!r} does not support {named}.", hint="Name a specialist or the base as the model."
        )
    last = asked.messages[-1]
    if last.role != "user" or any(one.role == "tool" or one.tool_calls for one in asked.messages):
        raise SettingsError(
            f"The model {name!r} reads a conversation that ends with the user, without tools.",
            hint="Name a specialist or the base as the model.",
        )

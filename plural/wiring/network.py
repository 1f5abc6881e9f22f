"""The network: base + library + router over one engine. What a user talks to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from plural import sync
from plural.agents import Agent, Budget, toolbox
from plural.agents.memory import LongTerm, Standardised
from plural.errors import PromptError, SettingsError, unknown_name
from plural.specialists import Contract, Library, Specialist
from plural.teams import Planner, Router, learning, work
from plural.teams.learning import Lessons
from plural.types import AdapterRef, Event, Grammar, Message, RunFinished, Sampling, Usage
from plural.wiring import runs
from plural.wiring.routes import Routes, general_texts, label
from plural.wiring.runs import EventStream
from plural.wiring.settings import Settings, read_settings, shelf
from plural.wiring.tracing import traced

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool

    from plural.engine.chat import ChatPlural
    from plural.engine.interface import TokenEngine
    from plural.engine.reading import RequestReader
    from plural.models.base import Base
    from plural.teams.journal import Journal

# Told what is being done and the share of it that is done, in [0, 1]; nothing is being done when `what` is empty.
Progress = Callable[[str, float], None]
BASE = "base"
# A mixture's name: "sql:0.7+polite:0.3". Neither can be part of a specialist's.
MIXED, WEIGHT = "+", ":"


def _quiet(_what: str, _done: float) -> None:
    """No progress bar."""


class Answer(str):
    """An answer is a string that remembers how it came about."""

    usage: Usage
    seconds: float
    events: tuple[Event, ...]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Self:
        last = events[-1]
        assert isinstance(last, RunFinished)  # what every run ends with
        answer = cls(last.answer)
        answer.usage, answer.seconds, answer.events = last.usage, last.seconds, tuple(events)
        return answer


class Network:
    """Base, library and router over one engine. Open it with `Network.open()`, close it or use it in a `with`."""

    def __init__(
        self, base: Base, library: Library, engine: TokenEngine, settings: Settings, progress: Progress
    ) -> None:
        self.base_model = base
        self.library = library
        self.engine = engine
        self.settings = settings
        # By the names that cards and teams use; who opens the network may add to them.
        self.tools: dict[str, BaseTool] = dict(toolbox.TOOLS)
        self._progress = progress
        self.routes = Routes(base, settings, progress)
        self.lessons = Lessons.of(library)
        self._journal: Journal | None = None
        self._after = contextlib.ExitStack()

    @classmethod
    def open(
        cls,
        *,
        base: Path | str | None = None,
        library: Path | str | None = None,
        progress: Progress = _quiet,
        **settings: Any,
    ) -> Network:
        """The embedded default: the carried base and the starter library. Other settings: the fields of `Settings`.

        Raises BaseModelError when no base model is found or it cannot be read.
        """
        from plural.models.base import load_base
        from plural.wiring.engines import open_engine

        chosen = read_settings(base=base, library=library, **settings)
        loaded = load_base(chosen.base, cache_dir=chosen.resolve(chosen.cache), device=chosen.device, progress=progress)
        library_ = shelf(chosen)
        packed = chosen.resolve(chosen.cache) / "packed" / f"{label(loaded.digest)}-{chosen.dtype}.safetensors"
        engine, after = open_engine(loaded, library_, chosen, packed, lambda what: progress(what, 0.0))
        network = cls(loaded, library_, engine, chosen, progress)
        network._after = after
        return network

    def over(self, library: Library) -> Network:
        """The same base and engine with another view of its library, for comparison. Close only the first one."""
        return Network(self.base_model, library, self.engine, self.settings, self._progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.engine.close()
        self._after.close()
        if self._journal is not None:
            self._journal.close()

    # ------------------------------------------------------------------------------------------------------- members
    def names(self) -> list[str]:
        """The specialists of this base, without its planners."""
        return [one.name for one in self.mine() if one.card.kind == "skill"]

    @property
    def base(self) -> ChatPlural:
        """The base itself, as a LangChain chat model."""
        return self.model(None)

    @functools.cached_property
    def reader(self) -> RequestReader:
        """Reads requests as the router knows them, and leaves what it computed to whoever answers."""
        from plural.engine.reading import RequestReader

        return RequestReader(self.engine, self.base_model)

    def specialist(self, name: str) -> ChatPlural:
        """A specialist as a LangChain chat model, its answers drawn under its contract."""
        return self.model(self.library.get(name))

    def mixture(self, weights: Mapping[str, float]) -> ChatPlural:
        """Several specialists as one chat model: what their adapters add to the base, each times its weight, is added
        up.

        Instructions and output contract are those of the one with the largest weight (of several, the first named).
        """
        if not weights:
            raise SettingsError("A mixture names no specialist.", hint="Name at least one, with its weight.")
        members = {name: self.library.get(name) for name in weights}
        leading = self.model(members[max(weights, key=lambda name: weights[name])])
        return leading.model_copy(
            update={
                "model_name": MIXED.join(f"{name}{WEIGHT}{weight:g}" for name, weight in weights.items()),
                "adapter": tuple(AdapterRef(members[name].digest, weight) for name, weight in weights.items()),
                "invocations": {one.digest: one.card.invocation for one in members.values() if one.card.invocation},
            }
        )

    def mixed(self, name: str) -> ChatPlural:
        """A mixture by its name: "sql:0.7+polite:0.3"."""
        return self.mixture(_weights(name))

    def agent(self, name: str) -> Agent:
        """A specialist (or "base", or a mixture as "sql:0.7+polite:0.3") as an agent with the tools its card names."""
        if name == BASE:
            return Agent(BASE, model=self.base)
        if MIXED in name or WEIGHT in name:
            return Agent(name, model=self.mixed(name))
        card = self.library.get(name).card
        tools = [self.tools[tool] for tool in card.tools]
        return Agent(name, model=self.specialist(name), tools=tools, description=card.purpose)

    def memory(self) -> LongTerm:
        """What agents keep for good; it is searched by the base's own hidden states, standardised."""
        space = f"{self.base_model.digest} {self.settings.dtype} standardised {label(*general_texts())}"
        embedder = Standardised(self.base, lambda: self.routes.general(self.base))
        return LongTerm(self.settings.resolve(self.settings.memories), embedder, space=space)

    # --------------------------------------------------------------------------------------------------------- asking
    def ask(self, request: str, *, to: str | None = None) -> Answer:
        """The answer, blocking. `to` skips the router and asks one specialist, or "base"."""
        return sync.run(self.aask(request, to=to))

    async def aask(self, request: str, *, to: str | None = None) -> Answer:
        return Answer.of([event async for event in self.stream(request, to=to)])

    def stream(
        self, request: str, *, to: str | None = None, budget: Budget = Budget(), approve: bool = False
    ) -> EventStream:
        """The run's events as they happen, for `for` and for `async for`. `budget` is what it may cost; with `approve`
        a person is asked about a plan before it is carried out, which needs a journal."""
        return self.run(request, to=to, budget=budget, approve=approve)

    def run(
        self,
        request: str,
        *,
        to: str | None = None,
        history: Sequence[Message] = (),
        budget: Budget = Budget(),
        approve: bool = False,
    ) -> EventStream:
        """A run after what was said in `history`; in the journal, if the network has one."""
        if self.settings.journal is None:
            return EventStream(self.work(request, to=to, history=history, budget=budget, approve=approve))
        how: dict[str, Any] = {"to": to, "history": history, "budget": budget, "approve": approve}
        return runs.begin(self.journal, self.work, self.base_model.digest, request, **how)

    def resume(self, run: str) -> EventStream:
        """All events of a run that is in the journal: what was shown before, then what is still to be done.

        Raises:
            RunError: there is no such run, or this network did not begin it.
            SettingsError: the network has no journal.
        """
        return runs.resume(self.journal, self.work, self.base_model.digest, run, lambda name: self.agent(name).model)

    @property
    def journal(self) -> Journal:
        """Where its runs are written. Raises SettingsError when it was opened without one."""
        if self._journal is None:
            if self.settings.journal is None:
                raise SettingsError("The network has no journal.", hint="Open it with journal=FILE.")
            from plural.teams.journal import Journal

            self._journal = Journal(self.settings.journal)
        return self._journal

    def conversation(self, *, to: str | None = None) -> Conversation:
        return Conversation(self, to)

    async def work(
        self,
        request: str,
        *,
        to: str | None = None,
        history: Sequence[Message] = (),
        budget: Budget = Budget(),
        approve: bool = False,
        config: RunnableConfig | None = None,
    ) -> AsyncIterator[Event]:
        """The events of one request, which nobody writes down but who reads them."""
        if not request.strip():
            raise PromptError("The request is empty.", hint="Say what you want.")
        runs.check_approval(to, approve)
        mixed = to is not None and (MIXED in to or WEIGHT in to)
        if to is not None and not mixed and to not in (BASE, *self.names()):
            raise unknown_name("specialist", to, [BASE, *self.names()])
        names = [to] if to else [*self.names(), BASE]
        working = functools.partial(
            work,
            request,
            agents={name: self.agent(name) for name in names},
            router=None if to else await self.router(),
            planners=[] if to else self.planners(),
            embedder=self.reader,
            history=history,
            max_steps=self.settings.max_steps,
            budget=budget,
            approve=approve,
        )
        async for event in traced(self.settings, "network", lambda told: working(config=told), config):
            yield event

    # --------------------------------------------------------------------------------------------------------- inside
    def mine(self) -> list[Specialist]:
        """The specialists of this base."""
        return [one for one in self.library if one.card.base == self.base_model.digest]

    def model(
        self,
        specialist: Specialist | None,
        instructions: str = "",
        *,
        output: Contract | None = None,
        grammar: bool = True,
    ) -> ChatPlural:
        """A specialist that need not be in the library, or the base with instructions and a contract, as a chat model.

        `grammar` says whether answers are drawn under the contract's.
        """
        from plural.engine.chat import ChatPlural

        card = specialist.card if specialist else None
        contract = (card.output if card else output) if grammar else None
        return ChatPlural(
            engine=self.engine,
            base=self.base_model,
            model_name=card.name if card else BASE,
            adapter=AdapterRef(card.digest) if card else None,
            invocations={card.digest: card.invocation} if card and card.invocation else {},
            instructions=card.instructions if card else instructions,
            grammar=Grammar(contract.kind, contract.source) if contract else None,
            sampling=Sampling(max_tokens=self.settings.max_tokens),
        )

    def planners(self) -> list[Planner]:
        """The planner specialists; the router says which of them plans."""
        return [Planner(self.model(one), name=one.name) for one in self.mine() if one.card.kind == "planner"]

    async def router(self) -> Router | None:
        """Fitted to the library as it stands and to the lessons of earlier runs. What was read once is kept on disk."""
        examples = {one.name: one.card.examples for one in self.mine() if one.card.examples}
        if not examples:
            return None
        learned = learning.examples(self.lessons.read(), (*examples, BASE))
        texts = {**examples, BASE: general_texts()}
        labelled = {one: tuple(dict.fromkeys((*texts[one], *learned[one]))) for one in texts}
        planners = [one.name for one in self.mine() if one.card.kind == "planner" and one.name in labelled]
        return await self.routes.router(labelled, self.reader, planners)


class Conversation:
    """A dialogue with the network. The base reads all of it; a specialist reads only what it is asked."""

    def __init__(self, network: Network, to: str | None) -> None:
        self._network = network
        self._to = to
        self.messages: list[Message] = []

    def stream(self, request: str) -> Iterator[Event]:
        return sync.iterate(self.astream(request))

    async def astream(self, request: str) -> AsyncGenerator[Event, None]:
        async for event in self._network.run(request, to=self._to, history=tuple(self.messages)):
            if isinstance(event, RunFinished):
                self.messages += [Message("user", request), Message("assistant", event.answer)]
            yield event


def _weights(name: str) -> dict[str, float]:
    """Of "sql:0.7+polite:0.3", or "sql+polite", each of which then acts in full."""
    weights: dict[str, float] = {}
    for member in name.split(MIXED):
        one, _, weight = member.strip().partition(WEIGHT)
        try:
            weights[one] = float(weight or 1)
        except ValueError:
            raise SettingsError(
                f"{weight!r} in {name!r} is no weight.", hint="Write a mixture as sql:0.7+polite:0.3."
            ) from None
    return weights

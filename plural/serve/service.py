"""What all routes share: the network, the gate, the counts; and the one way in which an answer is drawn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute

from plural.errors import DeadlineError, SpecialistError
from plural.protocols import Speaker
from plural.serve.admission import Gate
from plural.serve.backend import Backend
from plural.serve.errors import WireError
from plural.serve.keys import Scope
from plural.serve.metrics import Metrics
from plural.serve.settings import ServeSettings
from plural.serve.store import Store
from plural.serve.visit import Visit
from plural.types import Asked, Spoken, Usage


@dataclass(slots=True)
class Service:
    backend: Backend
    settings: ServeSettings
    gate: Gate
    metrics: Metrics
    store: Store
    draining: bool = False
    until: float = math.inf  # by time.monotonic(): until when it waits for what is under way
    hurried: bool = False  # it shall not wait any more

    def meant(self, name: str) -> str:
        """The model that is asked by this name."""
        return self.settings.aliases.get(name, name)

    def speaker(self, name: str, visit: Visit) -> Speaker:
        """Raises WireError 404 for a model that is not there."""
        model = self.meant(name)
        try:
            speaker = self.backend.speaker(model)
        except SpecialistError as error:
            raise WireError(404, str(error), code="model_not_found", param="model") from error
        visit.model = model
        return speaker

    async def speech(
        self, speaker: Speaker, asked: Sequence[Asked], visit: Visit, *, events: bool = False
    ) -> AsyncGenerator[Spoken, None]:
        """The pieces of all answers to all that is asked, let in, within time, and counted. Answers are numbered
        through. With `events` there are also the pieces that tell of a run."""
        many = sum(one.n for one in asked)
        with self.gate.place(visit.key.id, many):
            try:
                async with asyncio.timeout(self.settings.timeout), aclosing(_pieces(speaker, asked)) as pieces:
                    async for piece in pieces:
                        if piece.event is not None:
                            self.metrics.told(piece.event)
                            if events:
                                yield piece
                            continue
                        if visit.first is None:
                            visit.first = visit.seconds
                        if piece.usage is not None:
                            self._spend(piece.usage, visit, paid=bool(piece.which % asked[0].n))
                        yield piece
            except TimeoutError:
                raise DeadlineError(
                    f"The answer was not whole after {self.settings.timeout} seconds.", hint="Ask for fewer tokens."
                ) from None

    def _spend(self, usage: Usage, visit: Visit, *, paid: bool) -> None:
        """A prompt is read once for all answers to it: only the first one's is counted."""
        spent = Usage(0, usage.completion, 0) if paid else usage
        visit.usage += spent
        self.metrics.spent(visit.model, spent)


async def _pieces(speaker: Speaker, asked: Sequence[Asked]) -> AsyncGenerator[Spoken, None]:
    if len(asked) == 1:
        async with aclosing(speaker.speak(asked[0])) as pieces:
            async for piece in pieces:
                yield piece
        return
    # Several prompts are in the engine at once; whoever has a piece puts it into one queue.
    queue: asyncio.Queue[Spoken | None] = asyncio.Queue()

    async def pump(one: Asked, first: int) -> None:
        try:
            async with aclosing(speaker.speak(one)) as pieces:
                async for piece in pieces:
                    queue.put_nowait(_numbered(piece, first + piece.which))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(one, index * one.n)) for index, one in enumerate(asked)]
    try:
        left = len(tasks)
        while left:
            said = await queue.get()
            if said is not None:
                yield said
                continue
            left -= 1
            for task in tasks:
                if task.done():
                    task.result()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _numbered(piece: Spoken, which: int) -> Spoken:
    return replace(piece, which=which)


def visit_of(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


async def known_query(request: Request) -> None:
    """Every route's dependency: under /v1, a query parameter that the route does not know is a 400 that names it."""
    if not request.scope["query_string"]:
        return
    route: APIRoute = request.scope["route"]
    if not route.path.startswith("/v1/"):
        return
    known = _query_names(route.dependant)
    # Those that are written name[key]=value.
    deep = {one["name"] for one in (route.openapi_extra or {}).get("parameters", ()) if one["style"] == "deepObject"}
    refused = [
        name
        for name in dict.fromkeys(request.query_params)
        if name not in known and not (name.endswith("]") and name.partition("[")[0] in deep)
    ]
    if refused:
        raise WireError(400, f"{', '.join(refused)} is not supported.", param=refused[0])


def _query_names(dependant: Dependant) -> set[str]:
    return {field.alias for field in dependant.query_params}.union(*map(_query_names, dependant.dependencies))


def needs(scope: Scope) -> Dependency:
    """A route's dependency: the key must have this scope."""

    async def check(request: Request) -> None:
        key = visit_of(request).key
        if scope not in key.scopes:
            raise WireError(403, f"This API key may not do this: it lacks the scope {scope!r}.", code="missing_scope")

    checked: Callable[[Request], Awaitable[None]] = check
    depends: Dependency = Depends(checked)
    return depends

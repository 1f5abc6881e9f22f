"""One engine on the cluster: it wires itself from settings, and answers what the others ask of an engine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from plural.errors import EngineLost, PluralError
from plural.scale.cluster import Identity
from plural.wiring.network import Network

# What may be called from elsewhere: those that stream, and those that give one value.
STREAMED = ("generate", "samples")
ANSWERED = ("choose", "score", "embed")
_LOG = logging.getLogger(__name__)


class Replica:
    """A deployment of Ray Serve. What an engine raises for a request travels back as a value: it is no failure of the
    replica's."""

    def __init__(self, settings: Mapping[str, Any], expected: Identity, pause: float) -> None:
        """Raises SettingsError when this node has another base or another version than the others."""
        os.environ.pop("PLURAL_CLUSTER", None)  # it computes itself
        self._pause = pause
        self._network = Network.open(**settings)
        self._identity = Identity.of(self._network.base_model)
        try:
            expected.refuse(self._identity, f"The replica on {os.uname().nodename}")
        except PluralError:
            self._network.close()
            raise

    async def stream(self, call: str, *given: Any) -> AsyncGenerator[list[Any], None]:
        """The events of `generate` or `samples`, those of a moment in one message."""
        assert call in STREAMED
        await self._remembered()
        try:
            async with aclosing(_bundled(getattr(self._network.engine, call)(*given), self._pause)) as bundles:
                async for bundle in bundles:
                    yield bundle
        except PluralError as error:
            yield [await self._told(error)]

    async def answer(self, call: str, *given: Any, **named: Any) -> Any:
        assert call in ANSWERED
        await self._remembered()
        try:
            return await getattr(self._network.engine, call)(*given, **named)
        except PluralError as error:
            return await self._told(error)

    async def _remembered(self) -> None:
        """Tells Ray Serve whose requests were computed here. deploying.py, which knows Serve, says how."""

    # ------------------------------------------------------------------------------------- asked of every replica
    def identity(self) -> Identity:
        return self._identity

    def stats(self) -> Any:
        return self._network.engine.stats()

    async def pin(self, digest: str) -> PluralError | None:
        return await self._done(self._network.engine.pin, digest)

    async def unpin(self, digest: str) -> PluralError | None:
        return await self._done(self._network.engine.unpin, digest)

    async def check_health(self) -> None:
        """Ray Serve calls it, and replaces a replica that said three times that it is not well. One whose engine is in
        another process, and lost, ends at once: meanwhile it would draw requests, being the one with least to do.
        Raises MachineError."""
        try:
            await asyncio.to_thread(self._network.engine.check)
        except EngineLost as error:
            _LOG.error("The replica ends with its engine. %s", error)
            self._end()
            raise

    async def _told(self, error: PluralError) -> PluralError:
        if isinstance(error, EngineLost):
            with suppress(PluralError):  # it is not worse than what is told
                await self.check_health()
        return error

    def _end(self) -> None:
        os._exit(1)

    async def _done(self, work: Any, digest: str) -> PluralError | None:
        try:
            await asyncio.to_thread(work, digest)
        except PluralError as error:
            return error
        return None


async def _bundled(events: AsyncGenerator[Any, None], pause: float) -> AsyncGenerator[list[Any], None]:
    """The first event at once, then whatever came within `pause` seconds: every message costs both sides."""
    came: deque[Any] = deque()
    news = asyncio.Event()

    async def listen() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    came.append(event)
                    news.set()
        finally:
            news.set()

    listening = asyncio.create_task(listen())
    try:
        while True:
            await news.wait()
            news.clear()
            if came:
                bundle = list(came)
                came.clear()
                yield bundle
            if listening.done() and not came:
                listening.result()
                return
            if not listening.done():
                await asyncio.wait([listening], timeout=pause)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

"""One server: JSON there and back, and server-sent events.

A server that cannot be reached, or says that it is busy, is tried again after pauses that grow, until patience ends.
That is safe for all that is asked of an engine: nothing it does has an effect beside its answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpcore2

from plural.errors import EngineLost, MachineError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_BUSY = (429, 502, 503)
_CONNECT_S = 5.0
# Between two pieces of an answer; the first one may have to wait in a queue.
_SILENCE_S = 600.0
_LOST = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


class Refusal(Exception):  # noqa: N818 - what was said, to be put into words by who asked
    """An answer other than 2xx."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status, self.said = status, said


class HttpServer:
    """Belongs to the event loop on which it is first used."""

    def __init__(self, url: str, *, key: str | None = None, patience: float = 20.0) -> None:
        self.url = url
        self._patience = patience
        self._headers = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]
        if key:
            self._headers.append(("Authorization", f"Bearer {key}"))
        self._pool = httpcore2.AsyncConnectionPool(max_connections=None)

    async def close(self) -> None:
        await self._pool.aclose()

    async def get(self, path: str) -> Any:
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What came back, as JSON says it, or as text. Raises Refusal, EngineLost, and MachineError for one that stays
        busy."""
        return await self._whole("POST", path, body)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The server-sent events, until [DONE]. Raises as `post` does."""
        async with AsyncExitStack() as stack:
            response = await self._sent(stack, "POST", path, body)
            try:
                async for data in _events(response):
                    if data == b"[DONE]":
                        return
                    said = json.loads(data)
                    failed = said.get("error")
                    if isinstance(failed, Mapping) and isinstance(failed.get("code"), int):
                        raise Refusal(failed["code"], _complaint(data))  # the head had gone out before it was known
                    yield said
            except _LOST as error:
                raise EngineLost(
                    f"The engine at {self.url} broke off in the middle of an answer: {_cause(error)}.",
                    hint="Ask again.",
                ) from error
            raise EngineLost(f"The engine at {self.url} ended an answer before its end.", hint="Ask again.")

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        begun, tried = time.monotonic(), 0
        while True:
            async with AsyncExitStack() as stack:
                response = await self._sent(stack, method, path, body)
                try:
                    return _read(await response.aread())
                except _LOST as error:
                    tried += 1
                    await self._pause(begun, tried, error)

    async def _sent(
        self, stack: AsyncExitStack, method: str, path: str, body: Mapping[str, Any] | None
    ) -> httpcore2.Response:
        """An answer whose head is there and good; its body is the stack's."""
        content = None if body is None else json.dumps(body).encode()
        timeout = {"connect": _CONNECT_S, "read": _SILENCE_S, "write": _CONNECT_S * 6, "pool": _SILENCE_S}
        begun, tried = time.monotonic(), 0
        while True:
            tried += 1
            failed: Exception
            try:
                asked = self._pool.stream(
                    method, f"{self.url}{path}", headers=self._headers, content=content, extensions={"timeout": timeout}
                )
                response = await stack.enter_async_context(asked)
                if response.status // 100 == 2:
                    return response
                failed = Refusal(response.status, _complaint(await response.aread()))
                if response.status not in _BUSY:
                    raise failed
            except _LOST as error:
                failed = error
            await stack.aclose()
            await self._pause(begun, tried, failed)

    async def _pause(self, begun: float, tried: int, failed: Exception) -> None:
        """Raises EngineLost when patience has ended, and MachineError if it was only busy."""
        pause = min(_FIRST_PAUSE_S * 2 ** (tried - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        gone = time.monotonic() - begun
        if gone + pause > self._patience:
            busy = isinstance(failed, Refusal)
            kind, what = (MachineError, "is busy") if busy else (EngineLost, "cannot be reached")
            raise kind(
                f"The engine at {self.url} {what}: {_cause(failed)}; tried {tried} times in {gone:.0f} s.",
                hint="Try again later." if busy else "Is it running, and is the address right?",
            ) from failed
        await asyncio.sleep(pause)


async def _events(response: httpcore2.Response) -> AsyncGenerator[bytes, None]:
    held = b""
    async for piece in response.aiter_stream():
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _read(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _complaint(content: bytes) -> str:
    """What an error's body says, in vLLM's, OpenAI's or FastAPI's form."""
    said = _read(content)
    if isinstance(said, Mapping):
        inner = said.get("error", said)
        said = inner.get("message", inner.get("detail", said)) if isinstance(inner, Mapping) else inner
    return str(said).strip()[:600] or "no reason was given"


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__

"""Server-sent events. The status is sent with the first event, so what fails before it is an error like any other."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plural.serve.errors import described, error_body

DONE = b"data: [DONE]\n\n"
# For the schema: what a route answers beside JSON when it is asked to stream.
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
_FAULTS = logging.getLogger("plural.serve")


async def event_stream(events: AsyncGenerator[bytes, None]) -> Response:
    """The response, when its first event is there. Raises what comes in its place."""
    first = await anext(events)
    return _EventStream(first, events)


class _EventStream(Response):
    """Starlette's own would start a task for each response to look for the client; Keeper does that for all."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None, 200, {"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as error:  # noqa: BLE001 - the client is told in the stream, since the status is sent
                await send({"type": "http.response.body", "body": _failed(error, scope), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _failed(error: Exception, scope: Scope) -> bytes:
    status, message, code, param, _ = described(error)
    visit = scope["state"]["visit"]
    visit.error = type(error).__name__
    if status == 500:
        _FAULTS.error("request %s failed", visit.id, exc_info=error)
    return b"data: " + json.dumps(error_body(message, status, code, param)).encode() + b"\n\n"

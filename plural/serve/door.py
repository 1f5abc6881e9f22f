"""What happens to every request, whatever it asks for: plain ASGI, so that nothing stands in a stream's way.

Door: an id, headers, the access log, who may call at all. Keeper, inside CORS: the key, the size, and that the work of
a client that is gone ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plural.serve.errors import WireError, described, refusal
from plural.serve.keys import ANYBODY, Keyring
from plural.serve.metrics import Metrics
from plural.serve.page import FILES
from plural.serve.settings import ServeSettings
from plural.serve.visit import Visit, request_id

ACCESS = logging.getLogger("plural.access")
FAULTS = logging.getLogger("plural.serve")
# These tell nothing but that the server is up, and may be asked by anybody who reaches it. A browser sends no key for a
# page; the page asks for it.
OPEN_PATHS = frozenset({"/health", "/ready", *FILES})
UPLOADS = "/v1/files"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Door:
    """The outermost. What goes wrong inside and was not answered is answered and logged here."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._names = frozenset(name.lower() for name in (*settings.hosts, settings.host))
        self._local = settings.loopback
        self._origins = frozenset(settings.origins)
        self._headers = _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if settings.tls_cert else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = scope["client"][0] if scope.get("client") else ""
        visit = Visit(request_id(headers.get("x-request-id")), scope["method"], scope["path"], client)
        scope.setdefault("state", {})["visit"] = visit

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                made = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    made.setdefault(name, value)
                made["X-Request-Id"] = visit.id
            await send(message)

        try:
            self._admit(headers, scope)
            await self._app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it is answered and logged
            told = answer_error(error, visit)
            if not visit.status:
                await told(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self._metrics.answered(visit, route)
            ACCESS.info(json.dumps(visit.line(route)))

    def _admit(self, headers: Headers, scope: Scope) -> None:
        """A page in somebody's browser may not call a server on that machine: neither under a name of its own
        (DNS rebinding) nor from its origin."""
        host = _host_name(headers.get("host", ""))
        if self._local and host not in self._names and not _is_this_machine(host):
            raise WireError(403, f"The server is not called {host!r}.", code="unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            own = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
            if origin != own:
                raise WireError(403, f"Pages of {origin!r} may not call this server.", code="origin_refused")


class Keeper:
    """Asks for the key, measures the body, and ends the work when the client is gone."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, keys: Keyring) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit: Visit = scope["state"]["visit"]
        headers = Headers(scope=scope)
        upload = scope["path"] == UPLOADS and scope["method"] == "POST"
        limit = self._settings.upload_limit if upload else self._settings.body_limit
        length = headers.get("content-length", "")
        try:
            if scope["path"] not in OPEN_PATHS:
                self._unlock(visit, headers.get("authorization", ""))
            if length.isdecimal() and int(length) > limit:
                raise _too_large(limit)
        except WireError as error:  # answered here, so that a page that may call can read it
            await answer_error(error, visit)(scope, receive, send)
            return
        await _while_listened(self._app, scope, _Body(receive, limit), send, visit)

    def _unlock(self, visit: Visit, authorization: str) -> None:
        if not self._keys.needed:
            visit.key = ANYBODY
            return
        kind, _, key = authorization.partition(" ")
        found = self._keys.find(key.strip()) if kind.lower() == "bearer" else None
        if found is None:
            said = "This API key is not known." if authorization else "An API key is needed: Authorization: Bearer KEY."
            raise WireError(401, said, code="invalid_api_key")
        visit.key = found


class _Body:
    """A request's body as it comes in, up to a limit; afterwards, whether its client is still there."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._read = 0
        self._whole = asyncio.Event()

    async def receive(self) -> Message:
        if self._whole.is_set():
            await asyncio.Event().wait()  # for a disconnect, which ends the work from outside
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self._limit:
            raise _too_large(self._limit)
        if not message.get("more_body", False):
            self._whole.set()
        return message

    async def left(self) -> None:
        """Returns when the client has gone."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _while_listened(app: ASGIApp, scope: Scope, body: _Body, send: Send, visit: Visit) -> None:
    """Runs the app, and cancels it as soon as nobody waits for its answer."""
    work = asyncio.ensure_future(app(scope, body.receive, send))
    left = asyncio.ensure_future(body.left())
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        else:
            visit.gone = True
    finally:
        for task in (left, work):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work


def answer_error(error: Exception, visit: Visit) -> Response:
    """What the client is told. What is a fault of the server's is logged whole."""
    status, message, code, param, again = described(error)
    visit.error = type(error).__name__
    if status == 500:
        FAULTS.error("request %s failed", visit.id, exc_info=error)
    return refusal(status, message, code=code, param=param, again=again)


def _too_large(limit: int) -> WireError:
    return WireError(413, f"The body is larger than {limit} bytes.", code="body_too_large")


def _host_name(host: str) -> str:
    """Of "localhost:8000" or "[::1]:8000"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

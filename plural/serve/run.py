"""Listens: uvicorn, until a signal, and then until the answers under way are whole."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from plural.errors import MachineError, SettingsError
from plural.serve.app import Server
from plural.serve.keys import Keyring
from plural.serve.settings import ServeSettings


def check_exposure(settings: ServeSettings, keys: Keyring) -> None:
    """Raises SettingsError for a server that others can reach and that asks for no key."""
    if not settings.loopback and not keys.needed:
        raise SettingsError(
            f"The server would listen on {settings.host}, which others can reach, without an API key.",
            hint="Make one (plural keys add), set PLURAL_SERVE_API_KEY, or listen on 127.0.0.1.",
        )


def run(server: Server, settings: ServeSettings, told: Callable[[str], None]) -> None:
    """Blocks until SIGTERM or Ctrl-C and the end of the answers under way; a second signal does not wait for them.

    `told` gets the address when requests are taken. Raises MachineError when it cannot listen.
    """
    log_as_json()
    listener = Listener(server, settings, told)
    listener.run()
    if not listener.started:
        raise MachineError(f"{settings.host}:{settings.port} cannot be listened on.", hint="Is the port taken?")


class Listener(uvicorn.Server):
    """Drains on signals and returns: uvicorn would end the process by the signal, before the engine is closed."""

    def __init__(self, server: Server, settings: ServeSettings, told: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                host=settings.host,
                port=settings.port,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                timeout_graceful_shutdown=settings.drain,
                # Longer than clients keep a connection that nobody uses (5 s): else a busy server closes one on which a
                # request is under way.
                timeout_keep_alive=75,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who calls is who is connected, not what a header says
                ws="none",
                lifespan="on",
                loop="asyncio",  # uvloop was measured to bring nothing here; httptools brings a third
                http="httptools",
            )
        )
        self._service = server.service
        self._told = told

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.ssl_certfile else "http"
            self._told(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.drain()

    def drain(self) -> None:
        """Takes no more requests and ends when those under way have; a second call does not wait for them."""
        if not self._service.draining:
            self._service.until = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        self._service.draining = True
        self.force_exit = self._service.hurried = self.should_exit
        self.should_exit = True


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": time.time(), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """One JSON object a line on standard error; the access log's lines are objects already."""
    for name, formatter in {
        "plural.access": logging.Formatter("%(message)s"),
        "plural.serve": _AsJson(),
        "uvicorn.error": _AsJson(),
    }.items():
        logger = logging.getLogger(name)
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if name == "uvicorn.error" else logging.INFO)

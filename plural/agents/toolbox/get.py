"""One HTTP GET of one URL from addresses that were checked before.

It is httpcore2 and not its big brother httpx2, because here a connection is opened by us: to a given address, with
the certificate still checked against the URL's host. There is no proxy, no cookie, no redirect and no decompression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import httpcore2

_HEADERS = (
    ("User-Agent", "plural (an agent's tool)"),
    ("Accept", "text/html, text/plain;q=0.9, application/json;q=0.8, text/*;q=0.7, */*;q=0.1"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """`headers` have lower-case names. `whole` is False when the body was longer than it may be and was cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


async def get(url: str, addresses: Sequence[str], *, seconds: float, max_bytes: int) -> Reply:
    """`seconds` bounds every single wait; who calls bounds the whole.

    Raises:
        OSError: no answer, or none in HTTP.
    """
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
    try:
        async with (
            httpcore2.AsyncConnectionPool(network_backend=_Pinned(addresses)) as pool,
            pool.stream("GET", url, headers=_HEADERS, extensions={"timeout": timeouts}) as response,
        ):
            named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            body = bytearray()
            async for piece in response.aiter_stream():
                body += piece
                if len(body) > max_bytes:
                    return Reply(response.status, named, bytes(body[:max_bytes]), whole=False)
            return Reply(response.status, named, bytes(body), whole=True)
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        raise OSError(str(error) or type(error).__name__) from error


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to one of the given addresses, whatever the host's name resolves to by now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - only its checked addresses are connected to
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failed: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        for address in self._addresses:
            try:
                return await self._real.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failed = error
        raise failed or httpcore2.ConnectError("there is no address to connect to")

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds)

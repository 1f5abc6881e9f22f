"""The client of wire.py: reads what is to be asked from standard input, writes what it measured to standard output.

It speaks HTTP by hand and parses nothing but the last event, so that little of the machine goes to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_USAGE = b'"usage": {'
_END = b"0\r\n\r\n"  # of a body in chunks


@dataclass
class Connection:
    """One of those that a client keeps, as OpenAI's client does."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str

    async def ask(self, body: bytes) -> tuple[int, float]:
        """Tokens of the answer, and seconds to its first event."""
        start, first, last = time.perf_counter(), 0.0, b""
        self.writer.write(f"{self.head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not last.endswith(_END):
            if not (data := await self.reader.read(65536)):
                break
            if not first and b"data: {" in data:
                first = time.perf_counter() - start
            last = (last + data)[-4096:]
        if _USAGE not in last:
            raise SystemExit(f"The answer did not end: {last[-500:]!r}")
        usage = last[last.rindex(_USAGE) + len(_USAGE) - 1 :]
        return int(json.JSONDecoder().raw_decode(usage.decode())[0]["completion_tokens"]), first


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    url = urlsplit(asked["url"])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.hostname}\r\nContent-Type: application/json\r\n"
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(asked["streams"]):
        free.put_nowait(Connection(*await asyncio.open_connection(url.hostname, url.port or 80), head))
    bodies = [json.dumps(body).encode() for body in asked["bodies"]]

    async def one(body: bytes, pause: float) -> tuple[int, float]:
        connection = await free.get()
        try:
            await asyncio.sleep(pause)
            return await connection.ask(body)
        finally:
            free.put_nowait(connection)

    start = time.perf_counter()
    done = await asyncio.gather(*map(one, bodies, asked["pauses"]))
    seconds = time.perf_counter() - start
    return {"tokens": sum(tokens for tokens, _ in done), "seconds": seconds, "firsts": [first for _, first in done]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))

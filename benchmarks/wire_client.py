"""The client of wire.py: reads what is to be asked from standard input, writes what it measured to standard output.

It speaks HTTP by hand and parses nothing but the last event, so that little of the machine goes to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

_USAGE = b'"usage": {'


async def ask(host: str, port: int, body: bytes, room: asyncio.Semaphore) -> tuple[int, float]:
    """Tokens of the answer, and seconds to its first event."""
    async with room:
        start, first, last = time.perf_counter(), 0.0, b""
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        while data := await reader.read(65536):
            if not first and b"data: {" in data:
                first = time.perf_counter() - start
            last = (last + data)[-4096:]
        writer.close()
        if _USAGE not in last:
            raise SystemExit(f"The answer did not end: {last[-500:]!r}")
        usage = last[last.rindex(_USAGE) + len(_USAGE) - 1 :]
        return int(json.JSONDecoder().raw_decode(usage.decode())[0]["completion_tokens"]), first


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    url = urlsplit(asked["url"])
    room = asyncio.Semaphore(asked["streams"])
    bodies = [json.dumps(body).encode() for body in asked["bodies"]]
    start = time.perf_counter()
    done = await asyncio.gather(*(ask(url.hostname or "", url.port or 80, body, room) for body in bodies))
    seconds = time.perf_counter() - start
    return {"tokens": sum(tokens for tokens, _ in done), "seconds": seconds, "firsts": [first for _, first in done]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))

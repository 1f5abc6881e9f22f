"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merge(sources: Sequence[AsyncIterator[T]]) -> AsyncIterator[T]:
    """Every item of every source, in the order in which they arrive; the sources run concurrently.

    The first source that raises ends the stream with its error. However the stream ends, no source is left running.
    """
    arrived: asyncio.Queue[tuple[T, ...]] = asyncio.Queue()  # an empty tuple: one source has ended

    async def pump(source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                arrived.put_nowait((item,))
        finally:
            arrived.put_nowait(())

    pumps = [asyncio.create_task(pump(source)) for source in sources]
    running = len(pumps)
    try:
        while running:
            for item in (got := await arrived.get()):
                yield item
            if not got:
                running -= 1
                for ended in pumps:
                    if ended.done():
                        ended.result()
        await asyncio.gather(*pumps)
    finally:
        for left in pumps:
            left.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

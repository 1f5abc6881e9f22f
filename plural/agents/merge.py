"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from plural.agents.waiting import Waiting

T = TypeVar("T")


async def merge(sources: Sequence[AsyncIterator[T]]) -> AsyncIterator[T]:
    """Every item of every source, in the order in which they arrive; the sources run concurrently.

    A source goes on when its item was dealt with and the next one is asked for, as if it were read alone: what is
    written down about an item is written before its source acts upon it. The first source that raises ends the stream
    with its error; one that waits for a person (`Waiting`) ends it when all others have come to their ends, or wait as
    well. However the stream ends, no source is left running.
    """
    ended: tuple[()] = ()
    arrived: asyncio.Queue[tuple[T, asyncio.Event] | tuple[()]] = asyncio.Queue()

    async def pump(source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                arrived.put_nowait((item, taken := asyncio.Event()))
                await taken.wait()
        finally:
            arrived.put_nowait(ended)

    pumps = [asyncio.create_task(pump(source)) for source in sources]
    running = len(pumps)
    try:
        while running:
            if got := await arrived.get():
                yield got[0]
                got[1].set()
                continue
            running -= 1
            for done in pumps:
                if done.done() and not isinstance(done.exception(), Waiting):
                    done.result()
        await asyncio.gather(*pumps)
    finally:
        for left in pumps:
            left.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

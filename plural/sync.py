"""The one door from blocking code into async code: a private event loop on a daemon thread.

It works wherever the caller stands, inside a running loop (a notebook) as well; the caller's context variables
(LangChain's config, tracing) travel along. Ctrl-C in the waiting thread cancels what it waited for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END = object()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="plural-sync", daemon=True).start()
    return loop


def _submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    loop = _loop()
    if _running() is loop:
        work.close()
        raise RuntimeError("A blocking call was made on Plural's own event loop; await the async form instead.")
    context = contextvars.copy_context()
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def start() -> None:
        task = loop.create_task(work, context=context)
        task.add_done_callback(lambda done: _copy(done, future))
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(task.cancel) if done.cancelled() else None)

    loop.call_soon_threadsafe(start)
    return future


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _copy(done: asyncio.Task[T], future: concurrent.futures.Future[T]) -> None:
    if future.cancelled():
        return
    if done.cancelled():
        future.cancel()
    elif error := done.exception():
        future.set_exception(error)
    else:
        future.set_result(done.result())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end and returns what it returns."""
    future = _submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(source: AsyncIterator[T]) -> Iterator[T]:
    """The same items from a blocking `for`. Leaving the loop early closes the source."""
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def pump() -> None:
        try:
            async for item in source:
                items.put(item)
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    future = _submit(pump())
    future.add_done_callback(lambda _: items.put(_END))
    try:
        while (item := items.get()) is not _END:
            yield item
        future.result()
    finally:
        future.cancel()


class Stream(Generic[T]):
    """What comes from one source, once: `for item in stream`, or `async for item in stream`."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[T]:
        return self._source

    def __iter__(self) -> Iterator[T]:
        return iterate(self._source)

"""The blocking door works from plain code, from inside a running loop, and cancels what nobody waits for."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator

import pytest

from plural import sync

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


def test_runs_a_coroutine_and_raises_what_it_raises() -> None:
    async def fail() -> None:
        raise ValueError("said so")

    assert sync.run(double(21)) == 42
    with pytest.raises(ValueError, match="said so"):
        sync.run(fail())


async def test_works_inside_a_running_loop() -> None:
    assert sync.run(double(4)) == 8


def test_context_variables_travel_along() -> None:
    async def read() -> str:
        return NAME.get()

    token = NAME.set("clerk")
    try:
        assert sync.run(read()) == "clerk"
    finally:
        NAME.reset(token)


def test_a_blocking_call_on_the_private_loop_is_refused_instead_of_hanging() -> None:
    async def nested() -> None:
        sync.run(double(1))

    with pytest.raises(RuntimeError, match="await the async form"):
        sync.run(nested())


def test_iterates_and_closes_the_source_when_the_loop_is_left() -> None:
    closed = threading.Event()

    async def count() -> AsyncIterator[int]:
        try:
            for number in range(1000):
                await asyncio.sleep(0)
                yield number
        finally:
            closed.set()

    seen = []
    for number in sync.iterate(count()):
        seen.append(number)
        if number == 2:
            break
    assert seen == [0, 1, 2]
    assert closed.wait(5)
    assert list(sync.iterate(count())) == list(range(1000))


def test_an_error_in_the_middle_reaches_the_reader_after_what_came_before() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("half way")

    items = sync.iterate(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="half way"):
        next(items)

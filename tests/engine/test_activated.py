"""Activated adapters: what comes before the invocation is the base's, and is read once for all of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from plural.engine import Request
from plural.errors import SettingsError
from plural.types import AdapterRef, Sampling

from .tiny import CONFIG, Shelf, SlowShelf, collect, drawn, drive, tiny_adapter, tiny_decoder, tiny_engine

TRANSCRIPT = tuple((7 * i + i // 13) % 256 for i in range(2048))
INVOCATION = (3, 1, 4)
TOKENS = 4
PAGE = 16


def request(prompt: tuple[int, ...], adapter: AdapterRef | None = None) -> Request:
    return Request(prompt, Sampling(max_tokens=TOKENS, ignore_eos=True), adapter)


async def answer(engine: Any, one: Request) -> list[tuple[int, float]]:
    [events] = await drive(engine, collect(engine, one))
    if isinstance(events, BaseException):
        raise events
    return drawn(events)


def specialists(shelf: Shelf, count: int, offset: int) -> list[AdapterRef]:
    return [AdapterRef(shelf.put(tiny_adapter(seed)), offset=offset) for seed in range(1, count + 1)]


async def test_eight_specialists_read_one_transcript_once() -> None:
    """Counted: the transcript once, then each one's own tokens; and the pages of one transcript, not of eight."""
    shelf = Shelf()
    decoder = tiny_decoder(config=replace(CONFIG, max_positions=4096))
    engine = tiny_engine(shelf, start=False, decoder=decoder, kv_tokens=4096)
    prompt = (*TRANSCRIPT, *INVOCATION)
    for ref in specialists(shelf, 8, len(TRANSCRIPT)):
        await answer(engine, request(prompt, ref))
    own = len(INVOCATION) + TOKENS - 1  # nobody reads the last token drawn
    assert engine.stats().computed == len(TRANSCRIPT) + 8 * own
    assert engine.stats().pages_cached == len(TRANSCRIPT) // PAGE
    await answer(engine, request(prompt))
    assert engine.stats().computed == len(TRANSCRIPT) + 9 * own


async def test_a_growing_transcript_is_handed_from_one_to_the_next() -> None:
    """What one wrote is history to the next, read by the base: nothing that an adapter touched is used again."""
    shelf = Shelf()
    engine = tiny_engine(shelf, start=False)
    history, begun = TRANSCRIPT[:160], 160
    for seed in (1, 2, 3):
        prompt = (*history, *INVOCATION)
        ref = AdapterRef(shelf.put(tiny_adapter(seed)), offset=len(history))
        said = await answer(engine, request(prompt, ref))
        assert said == await answer(tiny_engine(shelf, start=False), request(prompt, ref))
        assert said != await answer(tiny_engine(shelf, start=False), request(prompt))
        assert engine.stats().computed == begun + len(prompt) - 160 + TOKENS - 1
        begun = engine.stats().computed
        history = (*prompt, *(token for token, _ in said))


async def test_the_transcript_is_read_while_the_adapter_is_on_its_way() -> None:
    """Counted: all that is the base's before it is there, its own tokens after that; and the answer is the same."""
    shelf = SlowShelf(tiny_adapter(1))
    [digest] = shelf.adapters
    decoder = tiny_decoder(config=replace(CONFIG, max_positions=4096))
    engine = tiny_engine(shelf, start=False, decoder=decoder, kv_tokens=4096)
    one = request((*TRANSCRIPT, *INVOCATION), AdapterRef(digest, offset=len(TRANSCRIPT)))
    late = asyncio.ensure_future(collect(engine, one))
    while engine.stats().computed < len(TRANSCRIPT):
        await asyncio.sleep(0)
        engine.step()
    assert not engine.step()
    assert (engine.stats().computed, engine.stats().adapters) == (len(TRANSCRIPT), ())
    engine.check()
    shelf.open.set()
    [events] = await drive(engine, late)
    assert not isinstance(events, BaseException)
    assert engine.stats().computed == len(TRANSCRIPT) + len(INVOCATION) + TOKENS - 1
    assert engine.stats().preempted == 0
    assert drawn(events) == await answer(tiny_engine(shelf, start=False, decoder=decoder, kv_tokens=4096), one)


async def test_where_it_acts_is_part_of_what_it_is() -> None:
    shelf = Shelf()
    digest = shelf.put(tiny_adapter(1))
    prompt = TRANSCRIPT[:100]
    offsets = (0, 16, 40, 99, 100, 500)
    apart = [
        await answer(tiny_engine(shelf, start=False), request(prompt, AdapterRef(digest, 1.0, at))) for at in offsets
    ]
    engine = tiny_engine(shelf, start=False)
    assert [await answer(engine, request(prompt, AdapterRef(digest, 1.0, at))) for at in offsets] == apart
    together = await drive(engine, *(collect(engine, request(prompt, AdapterRef(digest, 1.0, at))) for at in offsets))
    assert [drawn(events) for events in together if not isinstance(events, BaseException)] == apart
    assert apart[-1] == await answer(
        tiny_engine(shelf, start=False), request(prompt)
    )  # beyond the last token: the base
    assert len({str(one) for one in apart}) == len(offsets)


async def test_choices_are_read_from_where_it_acts() -> None:
    shelf = Shelf()
    [ref] = specialists(shelf, 1, 96)
    engine = tiny_engine(shelf, start=False)
    prompt = TRANSCRIPT[:100]
    [acting] = await drive(engine, engine.choose(prompt, ["a", "b"], ref))
    assert engine.stats().cached == 0
    [base] = await drive(engine, engine.choose(prompt, ["a", "b"]))
    assert engine.stats().cached == 96
    assert acting.options != base.options


async def test_an_offset_before_the_beginning_is_refused() -> None:
    engine = tiny_engine(Shelf(), start=False)
    with pytest.raises(SettingsError, match="offset is -1"):
        await answer(engine, request((1, 2), AdapterRef("a", offset=-1)))

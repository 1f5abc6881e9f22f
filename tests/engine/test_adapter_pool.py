"""Adapters on their way, in pages, evicted, pinned; and several of them on one request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.errors import PoolError, SettingsError, SpecialistError
from plural.models.config import DecoderConfig, Group
from plural.types import AdapterRef, Mixture, Sampling

from .tiny import (
    PlainDelta,
    Shelf,
    SlowShelf,
    TinyAdapter,
    collect,
    drawn,
    drive,
    pages_of,
    reference_logprobs,
    tiny_adapter,
    tiny_decoder,
    tiny_engine,
    tiny_tokenizer,
)

PROMPT = tuple((5 * i) % 256 for i in range(40))


def request(adapter: AdapterRef | Mixture | None = None, tokens: int = 6, prompt: tuple[int, ...] = PROMPT) -> Request:
    return Request(prompt, Sampling(max_tokens=tokens, ignore_eos=True), adapter)


async def answer(engine: Engine, adapter: AdapterRef | Mixture | None = None) -> list[tuple[int, float]]:
    [events] = await drive(engine, collect(engine, request(adapter)))
    if isinstance(events, BaseException):
        raise events
    return drawn(events)


# ------------------------------------------------------------------------------------------------- mixtures
class PlainMixture:
    """What each adapter adds, as its definition says, one after another."""

    def __init__(self, config: DecoderConfig, parts: list[tuple[TinyAdapter, float]]) -> None:
        self.parts = [PlainDelta(config, replace(one, scale=one.scale * weight)) for one, weight in parts]

    def __call__(self, layer: int, group: Group, x_TI: torch.Tensor, y_TO: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            y_TO = part(layer, group, x_TI, y_TO)
        return y_TO


@pytest.mark.parametrize("kernels", [None, TorchKernels()])
async def test_a_mixture_is_the_weighted_sum(kernels: TorchKernels | None) -> None:
    shelf, decoder = Shelf(), tiny_decoder()
    parts = [(tiny_adapter(1), 0.7), (tiny_adapter(2, rank=19), 0.3), (tiny_adapter(3, modules=("up_proj",)), -1.0)]
    mixed = tuple(AdapterRef(shelf.put(one), weight) for one, weight in parts)
    engine = Engine(decoder, tiny_tokenizer(), shelf, EngineSettings(), kernels=kernels, start=False)
    said = await answer(engine, mixed)
    tokens = [*PROMPT, *(token for token, _ in said)]
    logprobs_TV = reference_logprobs(decoder, tokens, delta=PlainMixture(decoder.config, parts))[len(PROMPT) - 1 :]
    for at, (token, logprob) in enumerate(said):
        assert token == int(logprobs_TV[at].argmax())
        assert logprob == pytest.approx(float(logprobs_TV[at, token]), abs=2e-3)
    assert said == await answer(engine, tuple(reversed(mixed)))
    assert engine.stats().cached == 32  # the same mixture, found under another order
    for one in mixed:
        assert said != await answer(engine, one)


async def test_a_weight_of_zero_and_a_mixture_of_one_are_what_they_say() -> None:
    shelf = Shelf()
    one, other = (AdapterRef(shelf.put(tiny_adapter(seed))) for seed in (1, 2))
    engine = tiny_engine(shelf, start=False)
    alone = await answer(engine, one)
    assert await answer(engine, (one,)) == alone
    assert await answer(engine, (replace(other, scale=0.0), one)) == alone
    assert engine.stats().cached == 2 * 32


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((AdapterRef("a"), AdapterRef("a", 0.5)), "named twice"),
        (AdapterRef("a", float("nan")), "scale is nan"),
        ((AdapterRef("a"), AdapterRef("b", offset=-2)), "offset is -2"),
    ],
)
async def test_a_mixture_that_cannot_act_is_refused(wrong: AdapterRef | Mixture, says: str) -> None:
    engine = tiny_engine(start=False)
    with pytest.raises(SettingsError, match=says):
        await answer(engine, wrong)
    with pytest.raises(SettingsError, match=says):
        await engine.choose(PROMPT, ["a", "b"], wrong)


# ------------------------------------------------------------------------------------------------- on their way
async def test_no_step_waits_for_an_adapter() -> None:
    shelf = SlowShelf(tiny_adapter(1))
    [ref] = map(AdapterRef, shelf.adapters)
    engine = tiny_engine(shelf, start=False)
    late = asyncio.ensure_future(collect(engine, request(ref)))
    assert len(await answer(engine)) == 6
    assert not late.done()
    assert (engine.stats().waiting, engine.stats().adapters) == (1, ())
    shelf.open.set()
    [events] = await drive(engine, late)
    assert not isinstance(events, BaseException)
    assert drawn(events) == await answer(tiny_engine(shelf, start=False), ref)


async def test_an_engine_that_only_waits_for_an_adapter_sleeps_and_is_woken() -> None:
    shelf = SlowShelf(tiny_adapter(1))
    [ref] = map(AdapterRef, shelf.adapters)
    engine = tiny_engine(shelf, threads=1)
    late = asyncio.ensure_future(collect(engine, request(ref)))
    while engine.stats().waiting == 0:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert engine.stats().steps == 0
    shelf.open.set()
    assert len(await late) == 6
    engine.close()


async def test_adapters_of_those_who_wait_come_while_others_run() -> None:
    shelf = Shelf()
    first, second = (AdapterRef(shelf.put(tiny_adapter(seed))) for seed in (1, 2))
    engine = tiny_engine(shelf, start=False, max_running=1)
    tasks = [asyncio.ensure_future(collect(engine, request(ref, 200))) for ref in (first, second)]
    while second.digest not in engine.stats().adapters:
        await asyncio.sleep(0.001)
        engine.step()
    assert (engine.stats().running, engine.stats().finished) == (1, 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_copy_that_fails_fails_its_request_only() -> None:
    class Clumsy(TorchKernels):
        def place(self, *given: Any) -> Any:
            raise OSError("out of luck")

    shelf = Shelf()
    ref = AdapterRef(shelf.put(tiny_adapter(1)))
    engine = Engine(tiny_decoder(), tiny_tokenizer(), shelf, EngineSettings(), kernels=Clumsy(), start=False)
    with pytest.raises(SpecialistError, match="out of luck"):
        await answer(engine, ref)
    assert len(await answer(engine)) == 6
    engine.check()
    assert engine.stats().pages_used == 0


# ------------------------------------------------------------------------------------------------- room
async def test_an_adapter_that_never_fits_is_refused_and_others_are_served() -> None:
    shelf = Shelf()
    large, small = (AdapterRef(shelf.put(tiny_adapter(seed, rank=rank))) for seed, rank in ((1, 64), (2, 2)))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * 12)
    with pytest.raises(PoolError, match="the pool has 12"):
        await answer(engine, large)
    with pytest.raises(PoolError, match="the pool has 12"):
        await answer(engine, (large, small))
    assert await answer(engine, small) == await answer(tiny_engine(shelf, start=False), small)
    engine.check()


async def test_more_adapters_than_fit_take_turns() -> None:
    shelf = Shelf()
    refs = [AdapterRef(shelf.put(tiny_adapter(seed, rank=8))) for seed in range(1, 7)]
    mixed: list[AdapterRef | Mixture] = [*refs, (refs[0], refs[3]), (refs[2], refs[5]), (refs[1], refs[4])]
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * (2 * pages_of(tiny_adapter(1, rank=8)) + 10))
    together = await drive(engine, *(collect(engine, request(one)) for one in mixed))
    for one, events in zip(mixed, together, strict=True):
        assert not isinstance(events, BaseException), events
        assert drawn(events) == await answer(tiny_engine(shelf, start=False), one)
    engine.check()
    assert len(shelf.loads) > len(refs)


async def test_a_higher_priority_gets_the_pages_for_its_adapter_from_a_lower_one() -> None:
    shelf = Shelf()
    low, high = (AdapterRef(shelf.put(tiny_adapter(seed, rank=8))) for seed in (1, 2))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * (pages_of(tiny_adapter(1, rank=8)) + 8))
    slow = [asyncio.ensure_future(collect(engine, request(low, 40))) for _ in range(2)]
    while engine.stats().running < 1:
        await asyncio.sleep(0)
        engine.step()
    urgent = asyncio.ensure_future(collect(engine, replace(request(high), priority=1)))
    [events] = await drive(engine, urgent)
    assert not isinstance(events, BaseException)
    assert drawn(events) == await answer(tiny_engine(shelf, start=False), high)
    assert engine.stats().preempted > 0
    assert not any(task.done() for task in slow)
    for events in await drive(engine, *slow):
        assert not isinstance(events, BaseException)
        assert len(events) == 40
    engine.check()


@pytest.mark.parametrize("kernels", [None, TorchKernels()])
async def test_a_preempted_request_finishes_on_an_adapter_that_was_evicted_and_removed_meanwhile(
    kernels: TorchKernels | None,
) -> None:
    shelf = Shelf()
    worn = tuple(AdapterRef(shelf.put(tiny_adapter(seed, rank=rank))) for seed, rank in ((1, 4), (2, 19)))
    alone = Engine(tiny_decoder(), tiny_tokenizer(), shelf, EngineSettings(), kernels=kernels, start=False)
    [expected] = await drive(alone, collect(alone, request(worn, 40)))
    assert not isinstance(expected, BaseException)
    pages = sum(len(alone._pages.pages_of(ref.digest)) for ref in worn) // 2 * 2 + 8
    engine = Engine(
        tiny_decoder(), tiny_tokenizer(), shelf, EngineSettings(kv_tokens=16 * pages), kernels=kernels, start=False
    )
    under_way = asyncio.ensure_future(collect(engine, request(worn, 40)))
    loads = len(shelf.loads) + len(worn)
    for turn in range(2):  # it is evicted a second time from where it was brought back to
        while engine.stats().running < 1:
            await asyncio.sleep(0)
            engine.step()
        shelf.adapters.clear()
        halves = [
            request(None, 1, tuple((50 * turn + which + i) % 256 for i in range(8 * pages - 2))) for which in (7, 9)
        ]
        for half in await drive(engine, *(collect(engine, replace(one, priority=1)) for one in halves)):
            assert not isinstance(half, BaseException), half
        assert not under_way.done()
    [events] = await drive(engine, under_way)
    assert not isinstance(events, BaseException), events
    assert [event.token_id for event in events] == [event.token_id for event in expected]
    within = 0.0 if kernels is None else 1e-4  # torch's attention rounds in another way in chunks
    assert [event.logprob for event in events] == pytest.approx(
        [event.logprob for event in expected], abs=within, rel=0
    )
    assert engine.stats().preempted == 2
    assert engine.stats().loaded == 3 * len(worn)
    assert len(shelf.loads) == loads
    engine.check()
    await drive(engine, *(collect(engine, one) for one in halves))
    with pytest.raises(SpecialistError):  # nothing of it is left for others
        await answer(engine, worn)


async def test_children_that_wait_for_pages_keep_their_parents_adapter() -> None:
    """`choose` reads the prompt, and its options go on one after another in a pool that is too small for all."""
    shelf = Shelf()
    worn = AdapterRef(shelf.put(one := tiny_adapter(1)))
    options = [f"option {number}" for number in range(6)]
    alone = tiny_engine(shelf, start=False)
    [expected] = await drive(alone, alone.choose(PROMPT, options, worn))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * (pages_of(one) + 6), prefix_cache=False)
    asked = asyncio.ensure_future(engine.choose(PROMPT, options, worn))
    while engine.stats().waiting == 0 or engine.stats().computed < len(PROMPT):
        await asyncio.sleep(0)
        engine.step()
    shelf.adapters.clear()
    urgent = asyncio.ensure_future(collect(engine, replace(request(None, 1, tuple(range(16 * 8))), priority=1)))
    [chosen, other] = await drive(engine, asked, urgent)
    assert not isinstance(other, BaseException), other
    assert chosen == expected
    assert len(shelf.loads) == 2
    engine.check()


async def test_a_request_that_has_begun_in_time_is_never_given_up() -> None:
    engine = tiny_engine(start=False, kv_tokens=16 * 8)
    ones = [asyncio.ensure_future(collect(engine, replace(request(None, 60), deadline=30.0))) for _ in range(2)]
    for events in await drive(engine, *ones):
        assert not isinstance(events, BaseException), events
        assert len(events) == 60


async def test_a_pinned_adapter_stays() -> None:
    shelf = Shelf()
    pinned, other = (AdapterRef(shelf.put(tiny_adapter(seed, rank=8))) for seed in (1, 2))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * (2 * pages_of(tiny_adapter(1, rank=8)) + 6))
    engine.pin(pinned.digest)
    engine.pin(pinned.digest)
    held = engine.stats().pages_used
    assert held > 0
    for ref in (other, None, other):
        await answer(engine, ref)
    await drive(engine, engine.embed([range(150)]))
    assert pinned.digest in engine.stats().adapters
    assert shelf.loads.count(pinned.digest) == 2  # by the two calls of pin
    with pytest.raises(PoolError, match=r"takes \d+ pages, \d+ can be had"):
        engine.pin(shelf.put(tiny_adapter(3, rank=16)))
    with pytest.raises(SpecialistError, match="nobody"):
        engine.pin("nobody")
    engine.check()
    engine.unpin(pinned.digest)
    engine.unpin(pinned.digest)
    assert engine.stats().pages_used == 0
    engine.check()


async def test_a_new_version_is_for_the_next_request_and_those_under_way_finish_on_theirs() -> None:
    shelf = Shelf()
    names = {"clerk": shelf.put(tiny_adapter(1))}
    engine = tiny_engine(shelf, start=False)
    old = asyncio.ensure_future(collect(engine, request(AdapterRef(names["clerk"]), 30)))
    while engine.stats().running == 0:
        await asyncio.sleep(0)
        engine.step()
    del shelf.adapters[names["clerk"]]
    names["clerk"] = shelf.put(tiny_adapter(2))
    new = asyncio.ensure_future(collect(engine, request(AdapterRef(names["clerk"]), 30)))
    before, after = await drive(engine, old, new)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    expected = []
    for seed in (1, 2):
        fresh = Shelf()
        alone = tiny_engine(fresh, start=False)
        [events] = await drive(alone, collect(alone, request(AdapterRef(fresh.put(tiny_adapter(seed))), 30)))
        assert not isinstance(events, BaseException)
        expected.append(drawn(events))
    assert [drawn(before), drawn(after)] == expected


# ------------------------------------------------------------------------------------------------- memory
def test_memory_is_what_the_process_may_hold() -> None:
    engine = tiny_engine(start=False, memory="6GB")
    stats = engine.stats()
    assert 1e9 < stats.pages * stats.page_bytes < 6e9
    with pytest.raises(SettingsError, match=r"memory is 10 MB; .* are needed before the first request"):
        tiny_engine(start=False, memory="10MB")


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5gb", 15 * 10**8), (77, 77)])
def test_a_size_is_read_with_its_unit(text: str | int, size: int) -> None:
    assert EngineSettings(memory=text).memory == size


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="'lots' is not a size such as 4GB"):
        EngineSettings(memory="lots")
    with pytest.raises(SettingsError, match="memory and kv_tokens both say"):
        EngineSettings(memory="4GB", kv_tokens=1024)

"""Adapters are what they contain. Each test here is a bug that users of other engines met."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from plural.engine import Engine, Request
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.errors import NumericError, SpecialistError
from plural.types import AdapterRef, Sampling

from .tiny import (
    Shelf,
    TinyAdapter,
    collect,
    drawn,
    drive,
    pages_of,
    tiny_adapter,
    tiny_decoder,
    tiny_engine,
    tiny_tokenizer,
)

PROMPT = tuple((5 * i) % 256 for i in range(70))


async def answer(engine: Engine, adapter: AdapterRef | None = None) -> list[tuple[int, float]]:
    request = Request(PROMPT, Sampling(max_tokens=12, ignore_eos=True), adapter)
    [events] = await drive(engine, collect(engine, request))
    if isinstance(events, BaseException):
        raise events
    return drawn(events)


def renamed(adapter: TinyAdapter, digest: str) -> TinyAdapter:
    return dataclasses.replace(adapter, digest=digest)


async def test_the_same_name_with_other_weights_is_another_adapter() -> None:
    """vLLM 30931: KV computed with the old weights of a name was read by the new ones."""
    shelf = Shelf()
    names = {"clerk": shelf.put(tiny_adapter(1))}
    engine = tiny_engine(shelf, start=False)
    old = await answer(engine, AdapterRef(names["clerk"]))
    names["clerk"] = shelf.put(tiny_adapter(2))
    new = await answer(engine, AdapterRef(names["clerk"]))
    fresh = tiny_engine(shelf, start=False)
    assert new == await answer(fresh, AdapterRef(names["clerk"]))
    assert new != old


async def test_an_adapter_that_was_dropped_and_loaded_again_reads_its_own_cache() -> None:
    """vLLM 42125: a stale prefix cache after a reload."""
    shelf = Shelf()
    one, two = (AdapterRef(shelf.put(tiny_adapter(seed))) for seed in (1, 2))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * 20)
    first = await answer(engine, one)
    await drive(engine, engine.embed([range(15 * 16 - 1)]))  # the adapter gives way, its five pages of keys do not
    assert engine.stats().adapters == ()
    assert await answer(engine, one) == first
    assert shelf.loads == [one.digest, one.digest]
    assert engine.stats().cached == 64  # four pages, found under the same digest
    other = await answer(engine, two)
    assert other != first


async def test_zero_scale_is_the_base() -> None:
    """llama.cpp 28674: zero scale was not zero."""
    shelf = Shelf()
    digest = shelf.put(tiny_adapter(1))
    engine = tiny_engine(shelf, start=False)
    base = await answer(engine)
    assert await answer(engine, AdapterRef(digest, 0.0)) == base
    assert await answer(engine, AdapterRef(digest)) != base
    with pytest.raises(SpecialistError, match="nobody"):
        await answer(engine, AdapterRef("nobody", 0.0))


@pytest.mark.parametrize("scale", [0.5, -1.0])
async def test_scales_do_not_share_a_cache(scale: float) -> None:
    shelf = Shelf()
    digest = shelf.put(tiny_adapter(1))
    engine = tiny_engine(shelf, start=False)
    await answer(engine, AdapterRef(digest))
    scaled = await answer(engine, AdapterRef(digest, scale))
    assert engine.stats().cached == 0
    assert scaled == await answer(tiny_engine(shelf, start=False), AdapterRef(digest, scale))


async def test_the_prompt_cache_never_crosses_adapters() -> None:
    """llama.cpp 26207, vLLM 44250: a prompt's KV reused under another adapter."""
    shelf = Shelf()
    refs = [None, *(AdapterRef(shelf.put(tiny_adapter(seed))) for seed in (1, 2))]
    engine = tiny_engine(shelf, start=False)
    for ref in refs:
        assert await answer(engine, ref) == await answer(tiny_engine(shelf, start=False), ref)
    assert engine.stats().cached == 0
    for ref in refs:
        await answer(engine, ref)
    assert engine.stats().cached == 3 * 64


async def test_the_base_is_not_touched_by_adapters_beside_it() -> None:
    shelf = Shelf()
    digest = shelf.put(tiny_adapter(1))
    alone = await answer(tiny_engine(shelf, start=False))
    engine = tiny_engine(shelf, start=False)
    request = Request(PROMPT, Sampling(max_tokens=12, ignore_eos=True))
    results = await drive(
        engine,
        *(collect(engine, dataclasses.replace(request, adapter=AdapterRef(digest))) for _ in range(3)),
        collect(engine, request),
    )
    assert not isinstance(results[3], BaseException)
    assert drawn(results[3]) == alone


async def test_ranks_below_others_read_no_garbage() -> None:
    """SGLang 21864: an adapter of a smaller rank read what a larger one left in the pool."""
    shelf = Shelf()
    wide = tiny_adapter(1, rank=32)
    large, small = AdapterRef(shelf.put(wide)), AdapterRef(shelf.put(tiny_adapter(2, rank=2)))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * (pages_of(wide) + 6))  # the prompt and 12 tokens
    await answer(engine, large)
    assert await answer(engine, small) == await answer(tiny_engine(shelf, start=False), small)


async def test_an_unknown_adapter_fails_its_request_only() -> None:
    """peft 2090: an unknown name was served as the base."""
    engine = tiny_engine(start=False)
    request = Request(PROMPT, Sampling(max_tokens=3, ignore_eos=True))
    lost, fine = await drive(
        engine,
        collect(engine, dataclasses.replace(request, adapter=AdapterRef("nobody"))),
        collect(engine, request),
    )
    assert isinstance(lost, SpecialistError)
    assert isinstance(fine, list)
    engine.check()


SHAPES = tiny_adapter(1).tensors[0, "q_proj"]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "changes no linear"),
        ({(0, "wq"): SHAPES}, "of wq in layer 0, which the base has not"),
        ({(7, "q_proj"): SHAPES}, "of q_proj in layer 7, which the base has not"),
        ({(0, "q_proj"): SHAPES, (0, "lm_head"): SHAPES}, "of lm_head in layer 0"),
        ({(0, "q_proj"): (SHAPES[0][:, :32], SHAPES[1])}, "64 inputs and 96 outputs"),
        ({(0, "q_proj"): (SHAPES[0][:2], SHAPES[1])}, r"\(2, 64\) and \(96, 4\)"),
    ],
)
@pytest.mark.parametrize("kernels", [None, TorchKernels()])
async def test_an_adapter_that_matches_nothing_of_the_base_is_refused(
    tensors: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]], says: str, kernels: TorchKernels | None
) -> None:
    """vLLM 34186 and 55193: an adapter none of whose modules were the model's was served, as the base."""
    shelf = Shelf()
    stranger = AdapterRef(shelf.put(TinyAdapter("stranger", tensors)))
    engine = Engine(tiny_decoder(), tiny_tokenizer(), shelf, kernels=kernels, start=False)
    for worn in (stranger, dataclasses.replace(stranger, offset=30)):
        with pytest.raises(SpecialistError, match=says):
            await answer(engine, worn)
    with pytest.raises(SpecialistError, match=says):
        engine.pin(stranger.digest)
    assert len(await answer(engine)) == 12
    engine.check()


async def test_weights_with_nan_are_refused() -> None:
    shelf = Shelf()
    good = tiny_adapter(1)
    a_RI, b_OR = good.tensors[1, "o_proj"]
    bad = renamed(good, "bad")
    bad = dataclasses.replace(bad, tensors={**good.tensors, (1, "o_proj"): (np.where(a_RI > 0, np.nan, a_RI), b_OR)})
    ref = AdapterRef(shelf.put(bad))
    with pytest.raises(NumericError, match=r"bad.*layer 1, o_proj"):
        await answer(tiny_engine(shelf, start=False), ref)


async def test_numbers_that_overflow_fail_their_request_and_poison_nobody() -> None:
    shelf = Shelf()
    wild = AdapterRef(shelf.put(dataclasses.replace(tiny_adapter(1), digest="wild", scale=1e38)))
    engine = tiny_engine(shelf, start=False, kv_tokens=16 * 18, step_tokens=40)
    expected = await answer(tiny_engine(shelf, start=False))
    request = Request(PROMPT, Sampling(max_tokens=12, ignore_eos=True))
    broken, fine = await drive(
        engine, collect(engine, dataclasses.replace(request, adapter=wild)), collect(engine, request)
    )
    assert isinstance(broken, NumericError)
    assert "wild" in str(broken)
    assert not isinstance(fine, BaseException)
    assert drawn(fine) == expected
    assert await answer(engine) == expected  # in pages that the broken one wrote
    engine.check()


async def test_a_loader_that_breaks_is_named() -> None:
    def broken(digest: str) -> TinyAdapter:
        raise OSError("disk gone")

    engine = Engine(tiny_decoder(), tiny_tokenizer(), broken, start=False)
    with pytest.raises(SpecialistError, match="disk gone"):
        await answer(engine, AdapterRef("a" * 64))

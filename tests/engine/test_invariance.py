"""A request's output is its own: bit-equal alone and in any company, whole and in chunks, cached and computed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.interface import Span
from plural.engine.kernels.pages import Pages
from plural.engine.kernels.torch_kernels import TorchKernels, product
from plural.models.config import DecoderConfig
from plural.models.decoder import Decoder
from plural.types import AdapterRef, Sampling

from .tiny import Shelf, bit_equal, collect, drawn, drive, pages_of, tiny_adapter, tiny_decoder, tiny_engine

ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100]
ADAPTERS = (
    tiny_adapter(1, rank=4),
    tiny_adapter(2, rank=16),
    tiny_adapter(3, rank=8, modules=("q_proj", "down_proj")),
    tiny_adapter(4, rank=1, modules=("v_proj",)),
    tiny_adapter(5, rank=64, modules=("o_proj", "up_proj")),  # more ranks than a page holds
)
REFS = (
    None,
    *(AdapterRef(a.digest) for a in ADAPTERS),
    AdapterRef(ADAPTERS[0].digest, 0.5),
    *(AdapterRef(a.digest, offset=offset) for a in ADAPTERS[1:3] for offset in (16, 30)),
    (AdapterRef(ADAPTERS[2].digest, 0.7), AdapterRef(ADAPTERS[0].digest, 0.3)),
    (
        AdapterRef(ADAPTERS[0].digest, 0.3),
        AdapterRef(ADAPTERS[3].digest, -1.5, offset=20),
        AdapterRef(ADAPTERS[2].digest),
    ),
)


# ------------------------------------------------------------------------------------------------------- kernels
@pytest.mark.parametrize(("terms", "outputs"), [(576, 960), (1536, 576), (2048, 100), (16, 960), (576, 4)])
def test_a_row_of_a_product_does_not_see_the_others(terms: int, outputs: int) -> None:
    x, w = torch.randn(120, terms), torch.randn(terms, outputs)
    whole = product(x, w)
    for rows in ROWS:
        assert torch.equal(product(x[:rows], w), whole[:rows]), rows
        assert torch.equal(product(x[-rows:], w), whole[-rows:]), rows


def test_a_row_of_logits_does_not_see_how_many_are_wanted() -> None:
    """A tied head lay output-major, and from sixteen rows on torch adds up another way there."""
    config = DecoderConfig("llama", 4096, 576, 1, 9, 3, 64, 64, 2048, tied_head=True)
    plain = tiny_decoder(config=config)
    decoder = Decoder(config, replace(plain.weights, head_VH=plain.weights.embed_VH))
    kernels, rows = TorchKernels(), range(33)

    def logits(wanted: Sequence[int]) -> torch.Tensor:
        memory = Pages(config, 3, 16, torch.float32, torch.device("cpu"))
        return kernels.forward(decoder)(rows, rows, wanted, memory, [Span(0, 33, 33, [1, 2, 3])], []).logits_RV

    every = logits(rows)
    assert torch.equal(logits([0]), every[:1])
    assert torch.equal(logits(rows[:7]), every[:7])


BMM = pytest.mark.xfail(reason="torch.bmm adds in an order that depends on its sizes; the native kernels keep this")


@pytest.mark.parametrize("heads", [9, 3])
@pytest.mark.parametrize("bound", [1e-5, pytest.param(0.0, marks=BMM)])
def test_attention_of_a_row_does_not_see_chunks_padding_or_neighbours(heads: int, bound: float) -> None:
    config = DecoderConfig("llama", 8, heads * 64, 1, heads, 3, 64, 64, 2048)
    kernels, cpu = TorchKernels(), torch.device("cpu")
    length, size = 700, 16
    q, k, v = torch.randn(length, heads, 64), torch.randn(length, 3, 64), torch.randn(length, 3, 64)
    tables = [list(range(1, 45)), list(range(45, 89)), list(range(89, 120))]

    def attend(chunk: int, others: bool) -> torch.Tensor:
        memory = Pages(config, 120, size, torch.float32, cpu)
        memory.kv[1:] = torch.randn_like(memory.kv[1:])  # what earlier owners left
        outs = []
        for start in range(0, length, chunk):
            stop = min(start + chunk, length)
            spans = [Span(0, stop - start, stop, tables[0])]
            rows = [(q[start:stop], k[start:stop], v[start:stop])]
            if others:
                spans += [Span(stop - start, stop - start + 1, 700, tables[1])]
                spans += [Span(stop - start + 1, stop - start + 6, 100, tables[2])]
                rows += [(torch.randn(6, heads, 64), torch.randn(6, 3, 64), torch.randn(6, 3, 64))]
            attend_step, _ = kernels.bind(memory, spans, [])
            outs.append(attend_step(0, *(torch.cat(part) for part in zip(*rows, strict=True)))[: stop - start])
        return torch.cat(outs)

    whole = attend(length, others=False)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, enable_gqa=True
    )
    assert (whole - expected.transpose(0, 1)).abs().max() < 1e-5
    for chunk, others in ((1, True), (37, False), (64, True), (512, True)):
        assert (attend(chunk, others) - whole).abs().max() <= bound, chunk


# -------------------------------------------------------------------------------------------------------- engine
def shelf() -> Shelf:
    return Shelf({adapter.digest: adapter for adapter in ADAPTERS})


def request(kind: int, which: int, sampled: bool, tokens: int) -> Request:
    """Prompts share beginnings, so that the prefix cache has something to find."""
    length = (3, 17, 33, 64, 90)[kind]
    prompt = tuple((7 * i + (kind == 4 and i > 40)) % 256 for i in range(length))
    temperature = {"temperature": 1.0, "top_p": 0.9, "seed": 11, "presence_penalty": 0.5} if sampled else {}
    return Request(prompt, Sampling(max_tokens=tokens, ignore_eos=True, logprobs=2, **temperature), REFS[which])


@functools.cache
def alone(kind: int, which: int, sampled: bool, tokens: int) -> list[tuple[int, float]]:
    """The request computed in one piece in an engine of its own."""
    engine = tiny_engine(shelf(), start=False, prefix_cache=False)

    async def main() -> Any:
        return (await drive(engine, collect(engine, request(kind, which, sampled, tokens))))[0]

    return drawn(asyncio.run(main()))


requests = st.tuples(st.integers(0, 4), st.integers(0, len(REFS) - 1), st.booleans(), st.sampled_from([1, 6, 20]))


@bit_equal
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(requests, min_size=1, max_size=10),
    st.sampled_from([10, 13, 32, 512]),
    st.sampled_from([34, 48, 140]),
    st.integers(1, 10),
    st.booleans(),
)
def test_any_mix_is_bit_equal_to_each_alone(
    mix: list[tuple[int, int, bool, int]], step_tokens: int, pages: int, running: int, cached: bool
) -> None:
    """Base, adapters of any rank and target and mixtures of them, greedy and sampled, chunked, cached, preempted."""
    engine = tiny_engine(
        shelf(),
        start=False,
        step_tokens=step_tokens,
        kv_tokens=16 * pages,
        max_running=running,
        prefix_cache=cached,
    )

    async def main() -> list[Any]:
        return await drive(engine, *(collect(engine, request(*one)) for one in mix))

    for one, events in zip(mix, asyncio.run(main()), strict=True):
        assert drawn(events) == alone(*one)
    engine.check()
    assert engine.stats().pages_used == 0


@bit_equal
def test_preemption_was_really_tried() -> None:
    mix = [(2, which, False, 20) for which in (0, 1, 0, 1)]
    engine = tiny_engine(shelf(), start=False, kv_tokens=16 * (pages_of(ADAPTERS[0]) + 10))
    engine.pin(ADAPTERS[0].digest)

    async def main() -> list[Any]:
        return await drive(engine, *(collect(engine, request(*one)) for one in mix))

    results = asyncio.run(main())
    assert engine.stats().preempted > 0
    for one, events in zip(mix, results, strict=True):
        assert drawn(events) == alone(*one)


@bit_equal
async def test_choose_and_embed_do_not_see_the_others() -> None:
    prompt = [(7 * i) % 256 for i in range(50)]
    options = ["yes", "no", "perhaps", "a"]
    quiet = tiny_engine(shelf(), start=False)
    [decision, vectors] = await drive(quiet, quiet.choose(prompt, options, REFS[1]), quiet.embed([prompt, prompt[:7]]))
    busy = tiny_engine(shelf(), start=False, step_tokens=11, max_running=3, kv_tokens=16 * 34)
    noise = [collect(busy, request(kind, kind, False, 20)) for kind in range(5)]
    results = await drive(busy, busy.choose(prompt, options, REFS[1]), busy.embed([prompt, prompt[:7]]), *noise)
    assert results[0] == decision
    assert results[1] == vectors
    busy.check()
    assert busy.stats().pages_used == 0


async def test_the_real_base_is_bit_equal_too(base: Any) -> None:
    rich = {a.digest: a for a in (tiny_adapter(1, 16, config=base.config), tiny_adapter(2, 4, config=base.config))}
    engine = Engine(base.decoder, base.tokenizer, rich.__getitem__, EngineSettings(step_tokens=48), start=False)
    text = "The quick brown fox jumps over the lazy dog. " * 6
    prompt = tuple(base.tokenizer.encode(text))
    wanted = [
        Request(prompt[:length], Sampling(max_tokens=5, ignore_eos=True), ref)
        for length, ref in zip((5, 60, 60), (None, *map(AdapterRef, rich)), strict=True)
    ]
    separately = []
    for one in wanted:
        whole = Engine(base.decoder, base.tokenizer, rich.__getitem__, EngineSettings(prefix_cache=False), start=False)
        separately += await drive(whole, collect(whole, one))
    together = await drive(engine, *(collect(engine, one) for one in wanted))
    again = await drive(engine, *(collect(engine, one) for one in reversed(wanted)))
    assert engine.stats().cached > 0
    for alone_, mixed, cached in zip(separately, together, reversed(again), strict=True):
        assert not isinstance(alone_, BaseException)
        assert not isinstance(mixed, BaseException)
        assert not isinstance(cached, BaseException)
        assert drawn(mixed) == drawn(alone_)
        assert drawn(cached) == drawn(alone_)

"""A request's output is its own: bit-equal alone and in any company, whole and in chunks, cached and computed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.interface import Span
from plural.engine.kernels.pages import Pages
from plural.engine.kernels.torch_kernels import TorchKernels, product
from plural.models.config import MODULES, DecoderConfig
from plural.models.decoder import Decoder
from plural.types import AdapterRef, Sampling

from .tiny import (
    Shelf,
    TinyAdapter,
    bit_equal,
    collect,
    drawn,
    drive,
    four_bit,
    pages_of,
    tiny_adapter,
    tiny_decoder,
    tiny_engine,
)

ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100]
ADAPTERS = (tiny_adapter(1, rank=4), tiny_adapter(2, rank=16))
REFS = (None, *(AdapterRef(a.digest) for a in ADAPTERS))
# Its linears can be held in any way, the head apart.
DECODER = four_bit(tiny_decoder())


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
@dataclass(frozen=True)
class Worn:
    """An adapter of any rank and targets, at any scale, from any position on."""

    seed: int
    rank: int
    modules: tuple[str, ...]
    scale: float
    offset: int

    @property
    def adapter(self) -> TinyAdapter:
        return tiny_adapter(self.seed, self.rank, self.modules)

    @property
    def ref(self) -> AdapterRef:
        return AdapterRef(self.adapter.digest, self.scale, self.offset)


@dataclass(frozen=True)
class Asked:
    """Prompts share beginnings, so that the prefix cache has something to find."""

    kind: int
    worn: tuple[Worn, ...]
    sampled: bool
    tokens: int

    @property
    def request(self) -> Request:
        length = (3, 17, 33, 64, 90)[self.kind]
        prompt = tuple((7 * i + (self.kind == 4 and i > 40)) % 256 for i in range(length))
        chance = {"temperature": 1.0, "top_p": 0.9, "seed": 11, "presence_penalty": 0.5} if self.sampled else {}
        sampling = Sampling(max_tokens=self.tokens, ignore_eos=True, logprobs=2, **chance)
        return Request(prompt, sampling, tuple(worn.ref for worn in self.worn))


def shelf_of(*asked: Asked) -> Shelf:
    return Shelf({worn.adapter.digest: worn.adapter for one in asked for worn in one.worn})


@functools.cache
def alone(asked: Asked, dtype: str) -> list[tuple[int, float]]:
    """The request computed in one piece in an engine of its own."""
    engine = tiny_engine(shelf_of(asked), decoder=DECODER, start=False, prefix_cache=False, dtype=dtype)

    async def main() -> Any:
        return (await drive(engine, collect(engine, asked.request)))[0]

    return drawn(asyncio.run(main()))


@functools.cache
def needed(asked: Asked) -> int:
    """Pages for the request and what it wears."""
    return pages_of(*(worn.adapter for worn in asked.worn)) + (len(asked.request.prompt) + asked.tokens) // 16 + 2


# Few seeds and scales: the same adapter is to be met at other scales and offsets, and another one of the same shape.
worn = st.builds(
    Worn,
    st.integers(0, 2),
    st.sampled_from([1, 2, 3, 4, 8, 13, 16, 31, 33, 64]) | st.integers(1, 64),
    st.sets(st.sampled_from(MODULES), min_size=1).map(lambda chosen: tuple(sorted(chosen, key=MODULES.index))),
    st.sampled_from([1.0, 0.5, -1.5, 0.0]),
    st.sampled_from([0, 0, 5, 16, 30, 200]),
)
mixtures = st.lists(worn, max_size=3, unique_by=lambda one: one.adapter.digest).map(tuple)
requests = st.builds(Asked, st.integers(0, 4), mixtures, st.booleans(), st.sampled_from([1, 6, 20]))


async def arriving(engine: Engine, mix: Sequence[tuple[int, Request]]) -> list[Any]:
    """Each is submitted after so many steps."""
    tasks: dict[int, asyncio.Task[Any]] = {}
    step = 0
    while len(tasks) < len(mix) or not all(task.done() for task in tasks.values()):
        for at, (when, one) in enumerate(mix):
            if when == step:
                tasks[at] = asyncio.ensure_future(collect(engine, one))
        await asyncio.sleep(0)
        engine.step()
        step += 1
    return [tasks[at].result() for at in range(len(mix))]


@bit_equal
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "q4"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 5, 20]), requests), min_size=1, max_size=8),
    st.sampled_from([10, 13, 32, 512]),
    st.sampled_from([0, 3, 20, 300]),
    st.integers(1, 10),
    st.booleans(),
)
def test_any_mix_is_bit_equal_to_each_alone(
    dtype: str, mix: list[tuple[int, Asked]], step_tokens: int, spare: int, running: int, cached: bool
) -> None:
    """Base, adapters and mixtures of them, activated or not, greedy and sampled, in any order of arrival, chunked,
    cached, preempted, evicted."""
    asked = [one for _, one in mix]
    engine = tiny_engine(
        shelf_of(*asked),
        decoder=DECODER,
        start=False,
        step_tokens=step_tokens,
        kv_tokens=16 * (max(map(needed, asked)) + spare),
        max_running=running,
        prefix_cache=cached,
        dtype=dtype,
    )
    for one, events in zip(
        asked, asyncio.run(arriving(engine, [(when, one.request) for when, one in mix])), strict=True
    ):
        assert drawn(events) == alone(one, dtype)
    engine.check()
    while engine.stats().pages_used:  # an adapter that nobody waits for any more is on its way
        engine.step()
    engine.check()


def shelf() -> Shelf:
    return Shelf({adapter.digest: adapter for adapter in ADAPTERS})


def request(kind: int, which: int, tokens: int) -> Request:
    return replace(Asked(kind, (), False, tokens).request, adapter=REFS[which])


@bit_equal
def test_preemption_was_really_tried() -> None:
    mix = [(2, which, 20) for which in (0, 1, 0, 1)]
    engine = tiny_engine(shelf(), start=False, kv_tokens=16 * (pages_of(ADAPTERS[0]) + 10))
    engine.pin(ADAPTERS[0].digest)

    async def main() -> list[Any]:
        return await drive(engine, *(collect(engine, request(*one)) for one in mix))

    results = asyncio.run(main())
    assert engine.stats().preempted > 0
    for one, events in zip(mix, results, strict=True):
        quiet = tiny_engine(shelf(), start=False, prefix_cache=False)
        [expected] = asyncio.run(drive(quiet, collect(quiet, request(*one))))
        assert drawn(events) == drawn(expected)


@bit_equal
async def test_choose_and_embed_do_not_see_the_others() -> None:
    prompt = [(7 * i) % 256 for i in range(50)]
    options = ["yes", "no", "perhaps", "a"]
    quiet = tiny_engine(shelf(), start=False)
    [decision, vectors] = await drive(quiet, quiet.choose(prompt, options, REFS[1]), quiet.embed([prompt, prompt[:7]]))
    busy = tiny_engine(shelf(), start=False, step_tokens=11, max_running=3, kv_tokens=16 * 34)
    noise = [collect(busy, request(kind, kind % 3, 20)) for kind in range(5)]
    results = await drive(busy, busy.choose(prompt, options, REFS[1]), busy.embed([prompt, prompt[:7]]), *noise)
    assert results[0] == decision
    assert results[1] == vectors
    busy.check()
    assert busy.stats().pages_used == 0


@pytest.mark.parametrize("dtype", ["fp32", "auto"])
async def test_the_real_base_is_bit_equal_too(base: Any, dtype: str) -> None:
    rich = {a.digest: a for a in (tiny_adapter(1, 16, config=base.config), tiny_adapter(2, 4, config=base.config))}
    chosen = EngineSettings(step_tokens=48, dtype=dtype)
    engine = Engine(base.decoder, base.tokenizer, rich.__getitem__, chosen, start=False)
    text = "The quick brown fox jumps over the lazy dog. " * 6
    prompt = tuple(base.tokenizer.encode(text))
    wanted = [
        Request(prompt[:length], Sampling(max_tokens=5, ignore_eos=True), ref)
        for length, ref in zip((5, 60, 60), (None, *map(AdapterRef, rich)), strict=True)
    ]
    separately = []
    for one in wanted:
        plain = EngineSettings(prefix_cache=False, dtype=dtype)
        whole = Engine(base.decoder, base.tokenizer, rich.__getitem__, plain, start=False)
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

"""Triton's kernels against torch's: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.interface import Kernels, Result, Segment, Span
from plural.engine.kernels.pages import Pages, page_bytes
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.models.decoder import Decoder
from plural.models.weights import move
from plural.types import AdapterRef, Sampling

from .tiny import CONFIG, Shelf, TinyAdapter, collect, drive, tiny_adapter, tiny_decoder, tiny_tokenizer

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (make triton)", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

from plural.engine.kernels.triton_kernels import TritonKernels  # noqa: E402

# The interpreter is NumPy, which warns of what a GPU computes in silence.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SIZE = 16
ONE = replace(CONFIG, num_layers=1)
# For adapters: torch's kernels want room for a dozen ranks in a page.
SMALL, LARGE = replace(ONE, num_heads=4), 64
ODD = replace(CONFIG, hidden_size=36, num_heads=4, num_kv_heads=4, head_dim=12, intermediate_size=52, num_layers=1)
QWEN = replace(CONFIG, num_heads=4, num_kv_heads=1, qk_norm=True, qkv_bias=True, num_layers=1)


def there(decoder: Decoder) -> Decoder:
    return Decoder(decoder.config, move(decoder.weights, torch.float32, DEVICE))


def with_norms_and_biases(decoder: Decoder) -> Decoder:
    chance = torch.Generator().manual_seed(7)
    c, weights = decoder.config, decoder.weights
    layers = tuple(
        replace(
            layer,
            q_norm_D=torch.rand(c.head_dim, generator=chance) + 0.5,
            k_norm_D=torch.rand(c.head_dim, generator=chance) + 0.5,
            qkv_bias_O=torch.randn(len(layer.qkv_OI), generator=chance),
        )
        for layer in weights.layers
    )
    return Decoder(c, replace(weights, layers=layers))


@dataclass(frozen=True)
class Worn:
    start: int
    stop: int
    adapter: TinyAdapter
    scale: float = 1.0


class Machine:
    """One kind of kernels, with pages that the sequences of a test write one after another."""

    def __init__(self, kernels: Kernels, decoder: Decoder, adapters: Sequence[TinyAdapter], held: int) -> None:
        config, size = decoder.config, LARGE if adapters else SIZE
        each = page_bytes(config, size, torch.float32)
        parcels = {one.digest: kernels.pack(config, one, each, torch.float32) for one in adapters}
        count = held + sum(parcel.pages for parcel in parcels.values())
        self.memory = Pages(config, count, size, torch.float32, decoder.device)
        self._forward = kernels.forward(decoder)
        self.packed: dict[str, Any] = {}
        at = held + 1
        for digest, parcel in parcels.items():
            self.packed[digest] = kernels.place(parcel, self.memory, range(at, at + parcel.pages))
            at += parcel.pages

    @torch.inference_mode()
    def step(self, ids: Sequence[int], spans: Sequence[Span], worn: Sequence[Worn], wanted: Sequence[int]) -> Result:
        positions = [at for s in spans for at in range(s.length - (s.stop - s.start), s.length)]
        segments = [Segment(w.start, w.stop, self.packed[w.adapter.digest], w.scale) for w in worn]
        return self._forward(ids, positions, wanted, self.memory, spans, segments)


def both(decoder: Decoder, adapters: Sequence[TinyAdapter], held: int) -> tuple[Machine, Machine]:
    return (
        Machine(TritonKernels(), there(decoder), adapters, held),
        Machine(TorchKernels(), decoder, adapters, held),
    )


def compare(ours: Result, theirs: Result, within: float = 1e-4) -> None:
    states, expected = ours.states_TH.cpu(), theirs.states_TH
    assert (states - expected).norm() <= within * expected.norm()
    assert ours.logits_RV.shape == theirs.logits_RV.shape
    torch.testing.assert_close(ours.logits_RV.cpu(), theirs.logits_RV, rtol=within, atol=within * 10)
    np.testing.assert_allclose(ours.totals_R, theirs.totals_R, rtol=within, atol=within)
    assert list(ours.finite_T) == list(theirs.finite_T)
    assert list(ours.best_R) == list(theirs.best_R)
    chosen = theirs.logits_RV.max(dim=-1).values if len(theirs.logits_RV) else torch.empty(0)
    np.testing.assert_allclose(ours.best_logit_R, chosen.numpy(), rtol=within, atol=within * 10)


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, count).tolist()


# ---------------------------------------------------------------------------------------------------- whole steps
@pytest.mark.parametrize(
    "decoder", [tiny_decoder(config=ONE), tiny_decoder(1, ODD), with_norms_and_biases(tiny_decoder(2, QWEN))]
)
def test_chunks_of_odd_lengths_and_single_rows_attend_over_pages(decoder: Decoder) -> None:
    ours, theirs = both(decoder, [], 12)
    first = [Span(0, 19, 19, [3, 1]), Span(19, 20, 1, [5]), Span(20, 37, 17, [2, 9])]
    later = [Span(0, 1, 20, [3, 1]), Span(1, 8, 8, [5]), Span(8, 10, 19, [2, 9])]
    for spans in (first, later):
        rows = spans[-1].stop
        given = tokens(rows), spans, (), [0, rows - 1, rows // 2]
        compare(ours.step(*given), theirs.step(*given))
        torch.testing.assert_close(ours.memory.kv.cpu()[0], torch.zeros_like(theirs.memory.kv[0]), rtol=0, atol=0)
    last = [Span(0, 1, 21, [3, 1]), Span(1, 2, 9, [5]), Span(2, 3, 20, [2, 9])]
    given = tokens(3), last, (), [0, 1, 2]
    for _ in range(3 if DEVICE.type == "cuda" else 1):  # on a GPU from the second on it is captured and replayed
        compare(ours.step(*given), theirs.step(*given))


def test_a_step_of_which_no_logits_are_wanted_has_states() -> None:
    ours, theirs = both(tiny_decoder(config=ONE), [], 4)
    given = tokens(5), [Span(0, 5, 5, [2])], (), []
    compare(ours.step(*given), theirs.step(*given))


RANKS = (1, 5, 16, 17, 64)
ADAPTERS = [
    *(tiny_adapter(seed, rank, config=SMALL) for seed, rank in enumerate(RANKS)),
    tiny_adapter(20, 8, ("q_proj", "v_proj", "down_proj"), SMALL),
    tiny_adapter(21, 3, ("k_proj", "up_proj", "o_proj"), SMALL),
]
MACHINES: list[tuple[Machine, Machine]] = []


def machines() -> tuple[Machine, Machine]:
    if not MACHINES:
        MACHINES.append(both(tiny_decoder(config=SMALL), ADAPTERS, 20))
    return MACHINES[0]


@settings(max_examples=4 if DEVICE.type == "cpu" else 40, deadline=None)
@given(st.data())
def test_any_mix_of_adapters_is_what_torch_makes_of_it(data: st.DataObject) -> None:
    """Sequences of one or many rows, each with up to three adapters, from any row on, at any scale."""
    spans: list[Span] = []
    worn: list[Worn] = []
    page, rows = 1, 0
    for _ in range(data.draw(st.integers(1, 5))):
        new, before = data.draw(st.sampled_from([1, 1, 2, 18])), data.draw(st.integers(0, 20))
        held = -(-(before + new) // LARGE)
        spans.append(Span(rows, rows + new, before + new, range(page, page + held)))
        for adapter in data.draw(st.lists(st.sampled_from(ADAPTERS), max_size=3, unique_by=id)):
            start = rows + data.draw(st.integers(0, new - 1))
            worn.append(Worn(start, rows + new, adapter, data.draw(st.sampled_from([1.0, 0.7, -0.3, 0.0]))))
        page, rows = page + held, rows + new
    ours, theirs = machines()
    given = tokens(rows, rows), spans, worn, list(range(rows))
    compare(ours.step(*given), theirs.step(*given))


def test_rows_that_share_an_adapter_are_more_than_a_tile() -> None:
    ours, theirs = machines()
    rows = 20
    spans = [Span(row, row + 1, 1, [row + 1]) for row in range(rows)]
    assert len(ours.packed[ADAPTERS[4].digest].tables) > 1  # its ranks do not fit in a page
    worn = [Worn(0, 18, ADAPTERS[4]), Worn(18, 20, ADAPTERS[1]), Worn(16, 19, ADAPTERS[0], 0.5)]
    given = tokens(rows), spans, worn, [0, 15, 17, 18, 19]
    compare(ours.step(*given), theirs.step(*given))
    plain = given[0], spans, (), given[3]
    assert not torch.allclose(ours.step(*given).logits_RV, ours.step(*plain).logits_RV)


def test_what_is_not_finite_is_said_of_its_row_alone() -> None:
    decoder = tiny_decoder(config=ONE)
    decoder.weights.embed_VH[7] = float("inf")
    ours, _ = both(decoder, [], 4)
    result = ours.step([7, 8], [Span(0, 1, 1, [1]), Span(1, 2, 1, [2])], (), [0, 1])
    assert list(result.finite_T) == [False, True]
    assert np.isnan(result.totals_R[0])
    assert np.isfinite(result.totals_R[1])


def test_bf16_linears_are_near_and_their_logits_fp32() -> None:
    decoder = tiny_decoder(config=SMALL)
    half = Machine(TritonKernels(half=True), there(decoder), ADAPTERS[:1], 4)
    whole = Machine(TorchKernels(), decoder, ADAPTERS[:1], 4)
    given = tokens(6), [Span(0, 6, 6, [1])], [Worn(0, 6, ADAPTERS[0])], [0, 5]
    ours, theirs = half.step(*given), whole.step(*given)
    assert ours.logits_RV.dtype == torch.float32
    error = (ours.states_TH.cpu() - theirs.states_TH).norm() / theirs.states_TH.norm()
    assert 1e-5 < error < 3e-2


# -------------------------------------------------------------------------------------------------- a whole engine
async def test_an_engine_draws_what_it_draws_with_torch() -> None:
    shelf = Shelf()
    refs = [AdapterRef(shelf.put(one)) for one in ADAPTERS[:2]]
    ways: list[Any] = [None, refs[0], replace(refs[1], offset=9), (replace(refs[0], scale=0.4), replace(refs[1]))]
    requests = [
        Request(tuple(tokens(18, seed)), Sampling(max_tokens=2, ignore_eos=True, logprobs=seed % 2), way)
        for seed, way in enumerate(ways)
    ]

    async def answers(kernels: Kernels, decoder: Decoder) -> list[list[tuple[int, float]]]:
        asked = EngineSettings(step_tokens=40, max_running=8, page_size=LARGE)
        engine = Engine(decoder, tiny_tokenizer(), shelf, asked, kernels=kernels, start=False)
        events = await drive(engine, *(collect(engine, request) for request in requests))
        assert not [one for one in events if isinstance(one, BaseException)], events
        vectors = await drive(engine, engine.embed([tokens(9), tokens(1)]))
        engine.check()
        [[first, second]] = vectors
        return [
            *([(event.token_id, event.logprob) for event in each] for each in events),
            list(enumerate(first)),
            list(enumerate(second)),
        ]

    ours = await answers(TritonKernels(), there(tiny_decoder(config=SMALL)))
    theirs = await answers(TorchKernels(), tiny_decoder(config=SMALL))
    for one, other in zip(ours, theirs, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert max(abs(a - b) for (_, a), (_, b) in zip(one, other, strict=True)) < 1e-3

"""The native kernels against torch's, and against themselves in any company, on any number of threads."""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plural.engine import EngineSettings
from plural.engine.kernels import abi
from plural.engine.kernels.choice import best_kernels
from plural.engine.kernels.interface import Kernels, Result, Segment, Span
from plural.engine.kernels.native import NativeForward, NativeKernels
from plural.engine.kernels.packing import Held, Kind, PackedLinears
from plural.engine.kernels.pages import Pages, page_bytes
from plural.engine.kernels.program import Op, record
from plural.engine.kernels.torch_kernels import TorchKernels, summed_up
from plural.errors import NumericError, SettingsError
from plural.models.base import Base
from plural.models.decoder import Decoder

from .tiny import CONFIG, TinyAdapter, as_q4_1, four_bit, tiny_adapter, tiny_decoder

ROOT = Path(__file__).parents[2]
CPU, F32 = torch.device("cpu"), torch.float32
built = pytest.mark.skipif(abi.library() is None, reason="the native kernels are not built for this machine")
ADAPTERS = (
    tiny_adapter(1, rank=4),
    tiny_adapter(2, rank=19),
    tiny_adapter(3, rank=8, modules=("q_proj", "down_proj")),
    tiny_adapter(4, rank=1, modules=("v_proj", "up_proj")),
)
IDS = [(7 * i) % 250 for i in range(90)]


class Bench:
    """One decoder on some kernels, with a pool of 40 pages of 16 tokens."""

    def __init__(
        self, kernels: Kernels, decoder: Decoder | None = None, adapters: Sequence[TinyAdapter] = ADAPTERS
    ) -> None:
        decoder = decoder or tiny_decoder()
        self.forward = kernels.forward(decoder)
        parcels = [kernels.pack(decoder.config, one, page_bytes(decoder.config, 16, F32), F32) for one in adapters]
        self.memory = Pages(decoder.config, 40 + sum(parcel.pages for parcel in parcels), 16, F32, CPU)
        first = np.cumsum([41, *(parcel.pages for parcel in parcels)])
        self.packed = [
            kernels.place(parcel, self.memory, range(at, at + parcel.pages))
            for parcel, at in zip(parcels, first, strict=False)
        ]

    def step(self, ids: Sequence[int], spans: Sequence[Span], worn: Sequence[int | None]) -> Result:
        """`worn` says for each span which adapter its rows wear."""
        positions = [at for s in spans for at in range(s.length - (s.stop - s.start), s.length)]
        segments = [
            Segment(s.start, s.stop, self.packed[w], 0.5 + w) for s, w in zip(spans, worn, strict=True) if w is not None
        ]
        with torch.inference_mode():
            return self.forward(ids, positions, range(len(ids)), self.memory, spans, segments)

    def whole(self, ids: Sequence[int], worn: int | None) -> Result:
        return self.step(ids, [Span(0, len(ids), len(ids), range(1, 9))], [worn])


@built
@pytest.mark.parametrize("worn", [None, 0, 1, 2, 3])
def test_fp32_equals_torch(worn: int | None) -> None:
    ours, theirs = (Bench(kernels).whole(IDS, worn) for kernels in (NativeKernels(threads=2), TorchKernels()))
    torch.testing.assert_close(ours.states_TH, theirs.states_TH, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(ours.logits_RV, theirs.logits_RV, atol=2e-4, rtol=1e-5)


@built
def test_every_feature_of_the_family_equals_torch() -> None:
    """Biases, norms of q and k, as many KV heads as heads, an untied head with a width that fills no vector."""
    config = replace(CONFIG, num_kv_heads=6, qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)
    plain = tiny_decoder(config=config)
    random = torch.Generator().manual_seed(5)
    layers = tuple(
        replace(
            layer,
            qkv_bias_O=torch.randn(layer.qkv_OI.shape[0], generator=random),
            o_bias_O=torch.randn(layer.o_OI.shape[0], generator=random),
            gate_up_bias_O=torch.randn(layer.gate_up_OI.shape[0], generator=random),
            down_bias_O=torch.randn(layer.down_OI.shape[0], generator=random),
            q_norm_D=torch.rand(config.head_dim, generator=random) + 0.5,
            k_norm_D=torch.rand(config.head_dim, generator=random) + 0.5,
        )
        for layer in plain.weights.layers
    )
    decoder = Decoder(config, replace(plain.weights, layers=layers))
    ours, theirs = (
        Bench(kernels, decoder, ()).whole(IDS, None) for kernels in (NativeKernels(threads=2), TorchKernels())
    )
    torch.testing.assert_close(ours.logits_RV, theirs.logits_RV, atol=1e-4, rtol=1e-5)


@built
def test_a_tied_head_is_packed_from_the_embedding() -> None:
    plain = tiny_decoder()
    decoder = Decoder(CONFIG, replace(plain.weights, head_VH=plain.weights.embed_VH))
    ours, theirs = (Bench(kernels, decoder).whole(IDS, 0) for kernels in (NativeKernels(threads=2), TorchKernels()))
    torch.testing.assert_close(ours.logits_RV, theirs.logits_RV, atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- low precision
def packed(kind: Kind, w_OI: Tensor) -> tuple[np.ndarray, int]:
    """What plural_pack makes of weights, and how many blocks it says are not held to the bit."""
    library = abi.library()
    assert library is not None
    (outputs, inputs), (stride_out, stride_in) = w_OI.shape, w_OI.stride()
    to = np.zeros(library.plural_weight_bytes(kind, inputs, outputs), np.uint8)
    lossy = library.plural_pack(kind, w_OI.data_ptr(), inputs, outputs, stride_in, stride_out, to.ctypes.data)
    return to, lossy


def unpacked(kind: Kind, data: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """w_OI of packed codes, as plural_kernels.h describes them."""
    size = 512 if kind is Kind.INT8 else 256
    blocks = data.reshape(-1, inputs // 32, size + 64)
    halves = blocks[..., size:].copy().view(np.float16).astype(np.float32)
    scales_PBO1, minima_PBO1 = (part[..., None] for part in (halves[..., :16], halves[..., 16:]))
    codes = blocks[..., :size].reshape(*blocks.shape[:2], -1, 16, 4)
    if kind is Kind.Q4:
        codes = np.stack([codes & 15, codes >> 4], axis=3).reshape(*blocks.shape[:2], -1, 16, 4)
    codes_PBOK = codes.swapaxes(2, 3).reshape(*blocks.shape[:2], 16, 32)
    w_PBOK = scales_PBO1 * codes_PBOK.astype(np.float32) + minima_PBO1
    return w_PBOK.swapaxes(1, 2).reshape(-1, inputs)[:outputs]


@built
@given(
    st.integers(-2047, 2047),
    st.integers(-2047, 2047),
    st.integers(-8, 4),
    st.integers(-4, 4),
    st.sampled_from([(Kind.Q4, 15), (Kind.INT8, 255)]).flatmap(
        lambda held: st.tuples(st.just(held[0]), st.lists(st.integers(0, held[1]), min_size=32, max_size=32))
    ),
)
def test_any_block_with_a_scale_and_a_minimum_in_half_precision_is_held_to_the_bit(
    scale: int, minimum: int, power: int, apart: int, coded: tuple[Kind, list[int]]
) -> None:
    """Whichever codes occur, and also where the scale is negative or zero. A block of one value is that value."""
    kind, codes = coded
    step, low = (np.float32(scale * 2.0 ** (power - 12)), np.float32(minimum * 2.0 ** (power - 12 + apart)))
    if len(set(codes)) == 1:
        step = np.float32(0)
    w_OI = torch.from_numpy(step * np.array([codes], np.float32) + low)
    data, lossy = packed(kind, w_OI)
    assert lossy == 0
    np.testing.assert_array_equal(unpacked(kind, data, 1, 32), w_OI.numpy())


@built
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_a_gguf_quantised_is_held_to_the_bit(name: str) -> None:
    kind = Kind.Q4 if name.startswith("Q4") else Kind.INT8
    how = GGMLQuantizationType[name]
    random = np.random.default_rng(3).standard_normal((40, 96), np.float32)
    w_OI = torch.from_numpy(dequantize(quantize(random, how), how))
    data, lossy = packed(kind, w_OI)
    assert lossy == 0
    np.testing.assert_array_equal(unpacked(kind, data, 40, 96), w_OI.numpy())


def held_by(forward: NativeForward) -> dict[str, Held]:
    return {name: linear.held for name, linear in forward.linears.items()}


@built
def test_packed_weights_are_kept_for_the_next_start(tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "packed.safetensors"
    kernels = NativeKernels(Kind.Q4, 2)
    first = kernels.forward(FOUR_BIT, kept=kept)
    written = kept.stat().st_mtime_ns
    blank = Decoder(CONFIG, FOUR_BIT.weights.map_linears(torch.zeros_like))  # whose weights are not looked at any more
    again = kernels.forward(blank, kept=kept)
    assert kept.stat().st_mtime_ns == written
    assert held_by(again) == held_by(first)
    for name, linear in first.linears.items():
        assert torch.equal(again.linears[name].bytes_B(), linear.bytes_B())


@built
def test_plain_numbers_are_not_kept_twice(tmp_path: Path) -> None:
    NativeKernels(Kind.FP32, 2).forward(FOUR_BIT, kept=tmp_path / "packed.safetensors")
    assert not list(tmp_path.iterdir())


@built
@pytest.mark.parametrize("damage", ["cut short", "other shapes", "not a file", "no room"])
def test_packed_weights_that_do_not_fit_are_packed_anew(tmp_path: Path, damage: str) -> None:
    kept = tmp_path / "packed.safetensors"
    kernels = NativeKernels(Kind.Q4, 2)
    whole = kernels.forward(FOUR_BIT, kept=kept)
    if damage == "cut short":
        kept.write_bytes(kept.read_bytes()[:-1000])
    elif damage == "other shapes":
        kernels.forward(four_bit(tiny_decoder(config=replace(CONFIG, intermediate_size=256))), kept=kept)
    elif damage == "not a file":
        kept.unlink()
        kept.mkdir()
    else:
        kept = tmp_path / "packed.safetensors" / "below a file"
    again = kernels.forward(FOUR_BIT, kept=kept)
    for name, linear in whole.linears.items():
        assert torch.equal(again.linears[name].bytes_B(), linear.bytes_B())


@built
@pytest.mark.parametrize(
    ("name", "held"),
    [("Q4_K", Held(Kind.FP32, True)), ("Q6_K", Held(Kind.FP32, True)), ("IQ4_NL", Held(Kind.INT8, True))],
)
def test_what_of_a_gguf_has_no_block_of_its_own_is_computed_as_it_was_dequantised(name: str, held: Held) -> None:
    """Any bytes are blocks; in these the scales, half floats, are ones."""
    how = GGMLQuantizationType[name]
    _, size = GGML_QUANT_SIZES[how]
    at = {"Q4_K": slice(0, 4), "Q6_K": slice(size - 2, size), "IQ4_NL": slice(0, 2)}[name]
    blocks = np.random.default_rng(5).integers(0, 256, (64, 256 // GGML_QUANT_SIZES[how][0], size), np.uint8)
    blocks[..., at] = np.array([1.0, 0.7], np.float16)[: len(range(*at.indices(size))) // 2].view(np.uint8)
    w_OI = torch.from_numpy(dequantize(blocks.reshape(64, -1), how))
    linears = PackedLinears.of({"q": w_OI}, None, threads=1)
    assert linears["q"].held == held
    if held.kind is Kind.FP32:
        assert PackedLinears.of({"q": w_OI}, Kind.INT8, threads=1)["q"].held == Held(Kind.INT8, False)
    with pytest.raises(SettingsError, match="this base has none"):
        PackedLinears.of({"q": w_OI}, Kind.Q4, threads=1)


@built
def test_every_linear_of_the_real_base_is_held_to_the_bit(base: Base) -> None:
    """Its file has the linears in Q4_1 and the embedding, which is the head, in Q8_0."""
    held = held_by(NativeKernels(Kind.Q4, 1).forward(base.decoder))
    assert len(held) == 4 * base.config.num_layers + 1
    assert held.pop("head") == Held(Kind.INT8, exact=True)
    assert set(held.values()) == {Held(Kind.Q4, exact=True)}

    def check(w_OI: Tensor) -> Tensor:
        kind = Kind.INT8 if w_OI.shape[0] == base.config.vocab_size else Kind.Q4
        np.testing.assert_array_equal(unpacked(kind, packed(kind, w_OI)[0], *w_OI.shape), w_OI.numpy())
        return w_OI

    base.decoder.weights.map_linears(check)


@built
def test_weights_without_levels_are_rounded_and_said_to_be() -> None:
    w_OI = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 96), np.float32))
    data, lossy = packed(Kind.INT8, w_OI)
    assert lossy == 40 * 3
    np.testing.assert_allclose(unpacked(Kind.INT8, data, 40, 96), w_OI, atol=0.02)
    assert packed(Kind.Q4, w_OI)[1]
    assert packed(Kind.BF16, w_OI)[1] == 40 * 3
    assert packed(Kind.BF16, w_OI.bfloat16().float())[1] == 0
    assert packed(Kind.FP32, w_OI)[1] == 0


@built
def test_auto_is_the_smallest_that_rounds_no_weight(base: Base) -> None:
    plain = tiny_decoder()
    short = Decoder(CONFIG, plain.weights.map_linears(lambda w_OI: w_OI.bfloat16().float()))
    for decoder, kinds in (
        (plain, {Kind.FP32}),
        (short, {Kind.BF16}),
        (FOUR_BIT, {Kind.FP32}),  # its head has no levels
        (Decoder(CONFIG, plain.weights.map_linears(as_q4_1)), {Kind.Q4}),
        (base.decoder, {Kind.Q4, Kind.INT8}),  # its head is in Q8_0
    ):
        chosen = held_by(NativeKernels(None, threads=2).forward(decoder)).values()
        assert {held.kind for held in chosen} == kinds
        assert all(held.exact for held in chosen)
    exact, same = (Bench(NativeKernels(kind, 2), short).whole(IDS, 0).logits_RV for kind in (Kind.FP32, Kind.BF16))
    assert torch.equal(exact, same)


@built
def test_q4_holds_as_int8_what_is_not_in_four_bits() -> None:
    plain = tiny_decoder()
    first = replace(plain.weights.layers[0], down_OI=as_q4_1(plain.weights.layers[0].down_OI))
    mixed = Decoder(CONFIG, replace(plain.weights, layers=(first, *plain.weights.layers[1:])))
    held = held_by(NativeKernels(Kind.Q4, 1).forward(mixed))
    assert held.pop("layers.0.down") == Held(Kind.Q4, exact=True)
    assert set(held.values()) == {Held(Kind.INT8, exact=False)}
    assert len(held) == 4 * CONFIG.num_layers
    with pytest.raises(SettingsError, match=r"q4 keeps 4-bit blocks .* this base has none"):
        NativeKernels(Kind.Q4, 1).forward(plain)


@built
@pytest.mark.parametrize(("kind", "bound"), [(Kind.BF16, 0.003), (Kind.INT8, 0.01), (Kind.Q4, 0.01)])
def test_low_precision_is_close_to_fp32(kind: Kind, bound: float) -> None:
    """One product alone: no layer, only the embedding, a norm and the head."""
    config = replace(CONFIG, num_layers=0, hidden_size=512)
    plain = tiny_decoder(config=config)
    head_VH = as_q4_1(plain.weights.head_VH) if kind is Kind.Q4 else plain.weights.head_VH
    decoder = Decoder(config, replace(plain.weights, head_VH=head_VH))
    spans = [Span(0, 90, 90, range(1, 9))]
    exact, close = (
        NativeKernels(each, threads=2).forward(decoder)(IDS, range(90), range(90), NO_KV, spans, [])
        for each in (Kind.FP32, kind)
    )
    error = (close.logits_RV - exact.logits_RV).pow(2).mean().sqrt() / exact.logits_RV.pow(2).mean().sqrt()
    assert 0 < error < bound
    assert torch.equal(close.states_TH, exact.states_TH)  # the states do not go through a linear


@built
@pytest.mark.parametrize(("kind", "bound"), [(Kind.BF16, 0.02), (Kind.Q4, 0.05)])
def test_a_whole_decoder_in_low_precision_is_close_to_fp32(kind: Kind, bound: float) -> None:
    decoder = four_bit(tiny_decoder())
    exact, close = (Bench(NativeKernels(each, 2), decoder).whole(IDS, 0).logits_RV for each in (Kind.FP32, kind))
    assert (close - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt() < bound


@built
def test_q4_counts_as_int8_does_to_the_bit() -> None:
    """Both hold the file's own codes and multiply them in the same order."""
    decoder = four_bit(tiny_decoder())
    eight, four = (Bench(NativeKernels(kind, 2), decoder).whole(IDS, 1) for kind in (Kind.INT8, Kind.Q4))
    assert torch.equal(eight.logits_RV, four.logits_RV)


NO_KV = Pages(replace(CONFIG, num_layers=0), 9, 16, F32, CPU)
FOUR_BIT = four_bit(tiny_decoder())
companies = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2, 3]), st.integers(1, 20), st.integers(0, 12)), max_size=4)


@built
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(list(Kind)),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    companies,
    st.integers(1, 3),
)
def test_a_sequence_is_bit_equal_alone_and_in_company(
    kind: Kind, worn: int | None, cuts: list[int], company: list[tuple[int | None, int, int]], threads: int
) -> None:
    """Cut into any steps, beside any others, before or after them, on any number of threads."""
    length = min(sum(cuts), len(IDS))
    alone = Bench(NativeKernels(kind, 1), FOUR_BIT).whole(IDS[:length], worn)
    bench, at = Bench(NativeKernels(kind, threads), FOUR_BIT), 0
    while at < length:
        stop = min(at + cuts.pop(0), length)
        ids: list[int] = []
        spans: list[Span] = []
        for number, (_, rows, seen) in enumerate(company):
            spans.append(Span(len(ids), len(ids) + rows, seen + rows, [10 + 3 * number + page for page in range(3)]))
            ids += range(rows)
        start = len(ids)
        spans.append(Span(start, start + stop - at, stop, range(1, 9)))
        got = bench.step(ids + IDS[at:stop], spans, [each for each, *_ in company] + [worn])
        assert torch.equal(got.states_TH[start:], alone.states_TH[at:stop])
        assert torch.equal(got.logits_RV[start:], alone.logits_RV[at:stop])
        assert got.totals_R[start:] == alone.totals_R[at:stop]
        at = stop


@built
@pytest.mark.parametrize("kind", list(Kind))
def test_a_step_that_wants_no_logits_computes_its_states(kind: Kind) -> None:
    spans = [Span(0, 8, 8, [1])]
    none, all_of_them = (
        NativeKernels(kind, 2).forward(FOUR_BIT)(IDS[:8], range(8), wanted, Pages(CONFIG, 2, 16, F32, CPU), spans, [])
        for wanted in ((), range(8))
    )
    assert none.logits_RV.shape[0] == 0
    assert torch.equal(none.states_TH, all_of_them.states_TH)


@built
@pytest.mark.parametrize("vocabulary", [1, 15, 16, 77, 258])
def test_logits_are_summed_up_as_torch_does(vocabulary: int) -> None:
    rows, spans = range(len(IDS)), [Span(0, len(IDS), len(IDS), range(1, 9))]
    decoder = tiny_decoder()
    ours, theirs = (
        kernels.forward(decoder, vocabulary)(IDS, rows, rows, Pages(CONFIG, 9, 16, F32, CPU), spans, [])
        for kernels in (NativeKernels(threads=2), TorchKernels())
    )
    assert ours.logits_RV.shape == (len(IDS), vocabulary)
    assert ours.best_R == ours.logits_RV.argmax(dim=-1).tolist() == theirs.best_R
    again = summed_up(ours.states_TH, ours.logits_RV)
    np.testing.assert_allclose(ours.totals_R, again.totals_R, atol=1e-6, rtol=1e-6)
    assert ours.finite_T == again.finite_T == [True] * len(IDS)


@built
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kernels", [NativeKernels(threads=2), TorchKernels()], ids=["native", "torch"])
def test_what_is_not_finite_is_said_of_its_row_alone(kernels: Kernels, value: float) -> None:
    config = replace(CONFIG, num_layers=0)
    plain = tiny_decoder(config=config)
    embed_VH, head_VH = plain.weights.embed_VH.clone(), plain.weights.head_VH.clone()
    embed_VH[3, 0] = value
    decoder = Decoder(config, replace(plain.weights, embed_VH=embed_VH, head_VH=head_VH))
    got = kernels.forward(decoder)([2, 3, 4], range(3), range(3), NO_KV, [Span(0, 3, 3, [1])], [])
    assert got.finite_T == [True, False, True]
    assert [np.isnan(total) for total in got.totals_R] == [False, True, False]
    head_VH[7] = value
    got = kernels.forward(decoder)([2, 4], range(2), range(2), NO_KV, [Span(0, 2, 2, [1])], [])
    assert got.finite_T == [True, True]
    assert np.isnan(got.totals_R).all()


@built
def test_half_precision_adapters_are_kept_in_half_and_count_the_same() -> None:
    rounded = {
        key: tuple(array.astype(np.float16).astype(np.float32) for array in pair)
        for key, pair in tiny_adapter(1).tensors.items()
    }
    adapter = TinyAdapter("half", rounded)  # type: ignore[arg-type]
    parcel = NativeKernels(threads=1).pack(CONFIG, adapter, page_bytes(CONFIG, 16, F32), F32)
    assert {piece.dtype for piece in parcel.pieces} == {torch.float16}
    ours, theirs = (Bench(kernels, adapters=[adapter]) for kernels in (NativeKernels(threads=1), TorchKernels()))
    torch.testing.assert_close(ours.whole(IDS, 0).logits_RV, theirs.whole(IDS, 0).logits_RV, atol=1e-4, rtol=1e-5)


def test_an_adapter_with_nan_is_refused() -> None:
    tensors = dict(tiny_adapter(1).tensors)
    tensors[1, "up_proj"][0][0, 0] = np.nan
    with pytest.raises(NumericError, match="layer 1, up_proj"):
        NativeKernels(threads=1).pack(CONFIG, TinyAdapter("bad", tensors), page_bytes(CONFIG, 16, F32), F32)


def test_a_recorded_program_is_the_decoder_in_order_and_reuses_its_buffers() -> None:
    recorded = record(tiny_decoder())
    layer = [Op.NORM, Op.LINEAR, Op.HEADS, Op.ATTEND, Op.LINEAR, Op.ADD]
    layer += [Op.NORM, Op.LINEAR, Op.SILU_MUL, Op.LINEAR, Op.ADD]
    assert [one.op for one in recorded.code] == [Op.EMBED, *layer, *layer, Op.NORM]
    assert len(recorded.widths) <= 7
    deeper = record(tiny_decoder(config=replace(CONFIG, num_layers=9)))
    assert deeper.widths == recorded.widths


# ------------------------------------------------------------------------------------------------------ choosing
def test_a_library_for_another_machine_leaves_the_work_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_native.so").write_bytes(b"\x7fELF of another processor")
    monkeypatch.setattr(abi, "LIBRARY", tmp_path / "_native.so")
    abi.library.cache_clear()
    try:
        assert type(best_kernels(tiny_decoder(), EngineSettings())) is TorchKernels
        for dtype in ("bf16", "int8", "q4"):
            with pytest.raises(SettingsError, match=rf"{dtype} needs the native kernels, and .* not built"):
                best_kernels(tiny_decoder(), EngineSettings(dtype=dtype))
    finally:
        abi.library.cache_clear()


@pytest.fixture
def compile_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Compiles a library of these builds, or of this source, and lets it be the one that is loaded."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(abi, "LIBRARY", tmp_path / "_native.so")

    def compile_library(builds: dict[str, str] | None = None, source: str = "") -> None:
        if builds is not None:
            hatch_build().compile_kernels(ROOT, abi.LIBRARY, builds)
        else:
            (tmp_path / "library.c").write_text(source)
            said = [*compiler.split(), "-x", "c", "-shared", "-fPIC", "-o", str(abi.LIBRARY), tmp_path / "library.c"]
            subprocess.run(said, check=True)
        abi.library.cache_clear()

    yield compile_library
    monkeypatch.undo()
    abi.library.cache_clear()


def hatch_build() -> Any:
    """The hook that a build of the package runs, without hatchling, which only builds have."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, interface.__name__, interface)
        return SimpleNamespace(**runpy.run_path(str(ROOT / "hatch_build.py")))


def test_a_library_with_no_build_for_this_machine_leaves_the_work_to_torch(
    compile_library: Callable[..., None],
) -> None:
    compile_library({})
    assert abi.LIBRARY.exists()
    assert abi.library() is None
    assert abi.instruction_set() is None
    assert type(best_kernels(tiny_decoder(), EngineSettings())) is TorchKernels


@pytest.mark.parametrize(("version", "taken"), [("PLURAL_ABI + 1", False), ("PLURAL_ABI", True)])
def test_a_library_of_another_interface_leaves_the_work_to_torch(
    compile_library: Callable[..., None], version: str, taken: bool
) -> None:
    """One that was left behind by another version of Plural. Whatever it offers is not called."""
    names = ("weight_bytes", "pack", "int8_rate", "program_new", "program_free", "program_run")
    rest = " ".join(f"void plural_{name}(void) {{}}" for name in names)
    version = version.replace("PLURAL_ABI", str(abi.ABI))
    compile_library(
        source=f'int plural_abi(void) {{ return {version}; }} const char *plural_isa(void) {{ return "avx2"; }} {rest}'
    )
    assert (abi.library() is not None) is taken
    if not taken:
        assert type(best_kernels(tiny_decoder(), EngineSettings())) is TorchKernels


def test_the_header_and_python_speak_of_one_interface() -> None:
    header = (ROOT / "plural/engine/kernels/native/plural_kernels.h").read_text()
    assert f"#define PLURAL_ABI {abi.ABI}\n" in header


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86")
@pytest.mark.parametrize("build", ["avx2", "avx512vnni"])
def test_a_build_runs_only_where_all_is_that_it_was_compiled_for(build: str) -> None:
    """A virtual machine may hide any of it: what the compiler may use (F16C, BMI, ...), dispatch.cpp asks for."""
    compiler = next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")

    def macros(flags: str) -> set[str]:
        command = [compiler, *flags.split(), "-dM", "-E", "-x", "c++", os.devnull]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    allowed = " ".join(macros(hatch_build().X86[build]) - macros("-march=x86-64"))
    named = re.findall(r"__((?:S?SSE|AVX|BMI|FMA|F16C|LZCNT|MOVBE|POPCNT|LAHF)\w*)__", allowed)
    features = {name.lower().replace("sse4_", "sse4.") for name in named}
    assert {"avx2", "f16c", "bmi2", "lzcnt", "movbe"} <= features
    source = (ROOT / "plural/engine/kernels/native/dispatch.cpp").read_text()
    asks = set(re.findall(r'(?<=cpu_supports\(")[^"]+|\w+(?= = c\b)', source))
    assert features <= asks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["portable", "avx2"])
def test_the_other_builds_compute_what_torch_does(name: str, compile_library: Callable[..., None]) -> None:
    """The portable one is what every processor gets that is no x86: here it is compiled for x86's oldest registers."""
    builds = hatch_build()
    compile_library({name: {**builds.X86, **builds.OTHERS}[name]})
    if abi.library() is None:
        pytest.skip(f"this machine does not run {name}")
    assert abi.instruction_set() == name
    for worn in (None, 0, 1, 2, 3):
        test_fp32_equals_torch(worn)
    test_every_feature_of_the_family_equals_torch()
    test_q4_counts_as_int8_does_to_the_bit()
    for kind in (Kind.BF16, Kind.INT8, Kind.Q4):
        test_low_precision_is_close_to_fp32(kind, 0.01)
    for kind, quantised in ((Kind.Q4, as_q4_1), (Kind.BF16, lambda w_OI: w_OI.bfloat16().float())):
        w_OI = quantised(torch.from_numpy(np.random.default_rng(3).standard_normal((40, 96), np.float32)))
        assert packed(kind, w_OI)[1] == 0
    for kind in Kind:
        whole = Bench(NativeKernels(kind, 1), FOUR_BIT).whole(IDS, 1)
        cut = Bench(NativeKernels(kind, 2), FOUR_BIT)
        parts = [
            cut.step(IDS[at:stop], [Span(0, stop - at, stop, range(1, 9))], [1])
            for at, stop in ((0, 1), (1, 38), (38, 90))
        ]
        assert torch.equal(torch.cat([part.logits_RV for part in parts]), whole.logits_RV)


@built
def test_a_decoder_with_odd_sizes_is_left_to_torch() -> None:
    decoder = tiny_decoder(config=replace(CONFIG, intermediate_size=100))
    assert type(best_kernels(decoder, EngineSettings())) is TorchKernels
    assert type(best_kernels(tiny_decoder(), EngineSettings())) is NativeKernels


@built
@pytest.mark.parametrize("dtype", ["auto", "fp32", "bf16", "int8", "q4"])
def test_the_setting_says_how_linears_are_held(dtype: str) -> None:
    kernels = best_kernels(FOUR_BIT, EngineSettings(dtype=dtype))
    assert isinstance(kernels, NativeKernels)
    assert kernels.kind is (None if dtype == "auto" else Kind[dtype.upper()])

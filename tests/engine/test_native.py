"""The native kernels against torch's, and against themselves in any company, on any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plural.engine import EngineSettings
from plural.engine.kernels import native
from plural.engine.kernels.choice import best_kernels
from plural.engine.kernels.interface import Kernels, KVPages, Segment, Span
from plural.engine.kernels.native import Kind, NativeKernels
from plural.engine.kernels.program import Op, record
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.errors import NumericError, SettingsError
from plural.models.decoder import Decoder

from .tiny import CONFIG, TinyAdapter, tiny_adapter, tiny_decoder

CPU = torch.device("cpu")
built = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built for this machine")
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
        self.kv: KVPages = kernels.new_pages(decoder.config, 40, 16, torch.float32, CPU)
        self.packed = [kernels.pack(decoder.config, adapter, torch.float32, CPU) for adapter in adapters]

    def step(self, ids: Sequence[int], spans: Sequence[Span], worn: Sequence[int | None]) -> tuple[Tensor, Tensor]:
        """`worn` says for each span which adapter its rows wear."""
        positions = [at for s in spans for at in range(s.length - (s.stop - s.start), s.length)]
        segments = [
            Segment(s.start, s.stop, self.packed[w], 0.5 + w) for s, w in zip(spans, worn, strict=True) if w is not None
        ]
        with torch.inference_mode():
            return self.forward(ids, positions, range(len(ids)), self.kv, spans, segments)

    def whole(self, ids: Sequence[int], worn: int | None) -> tuple[Tensor, Tensor]:
        return self.step(ids, [Span(0, len(ids), len(ids), range(1, 9))], [worn])


@built
@pytest.mark.parametrize("worn", [None, 0, 1, 2, 3])
def test_fp32_equals_torch(worn: int | None) -> None:
    ours, theirs = (Bench(kernels).whole(IDS, worn) for kernels in (NativeKernels(threads=2), TorchKernels()))
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)


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
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-5)


@built
def test_a_tied_head_is_packed_from_the_embedding() -> None:
    plain = tiny_decoder()
    decoder = Decoder(CONFIG, replace(plain.weights, head_VH=plain.weights.embed_VH))
    ours, theirs = (Bench(kernels, decoder).whole(IDS, 0) for kernels in (NativeKernels(threads=2), TorchKernels()))
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-5)


@built
def test_int8_is_close_to_fp32() -> None:
    """One product alone: no layer, only the embedding, a norm and the head."""
    config = replace(CONFIG, num_layers=0, hidden_size=512)
    decoder = tiny_decoder(config=config)
    spans = [Span(0, 90, 90, range(1, 9))]
    exact, close = (
        NativeKernels(kind, threads=2).forward(decoder)(IDS, range(90), range(90), KV0, spans, []) for kind in Kind
    )
    error = (close[1] - exact[1]).pow(2).mean().sqrt() / exact[1].pow(2).mean().sqrt()
    assert error < 0.01
    assert torch.equal(close[0], exact[0])  # the states do not go through a linear


KV0 = KVPages((torch.zeros((1, 1, 1, 16)),), (torch.zeros((1, 1, 1, 16)),), 16)
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
    states, logits = Bench(NativeKernels(kind, 1)).whole(IDS[:length], worn)
    bench, at = Bench(NativeKernels(kind, threads)), 0
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
        assert torch.equal(got[0][start:], states[at:stop])
        assert torch.equal(got[1][start:], logits[at:stop])
        at = stop


@built
def test_half_precision_adapters_are_kept_in_half_and_count_the_same() -> None:
    rounded = {
        key: tuple(array.astype(np.float16).astype(np.float32) for array in pair)
        for key, pair in tiny_adapter(1).tensors.items()
    }
    adapter = TinyAdapter("half", rounded)  # type: ignore[arg-type]
    packed = NativeKernels(threads=1).pack(CONFIG, adapter, torch.float32, CPU)
    assert {array.dtype for array in packed.arrays} == {np.dtype(np.float16)}
    ours, theirs = (Bench(kernels) for kernels in (NativeKernels(threads=1), TorchKernels()))
    ours.packed[0] = packed
    theirs.packed[0] = TorchKernels().pack(CONFIG, adapter, torch.float32, CPU)
    torch.testing.assert_close(ours.whole(IDS, 0)[1], theirs.whole(IDS, 0)[1], atol=1e-4, rtol=1e-5)


def test_an_adapter_with_nan_is_refused() -> None:
    tensors = dict(tiny_adapter(1).tensors)
    tensors[1, "up_proj"][0][0, 0] = np.nan
    with pytest.raises(NumericError, match="layer 1, up_proj"):
        NativeKernels(threads=1).pack(CONFIG, TinyAdapter("bad", tensors), torch.float32, CPU)


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
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "_native.so")
    native.library.cache_clear()
    try:
        assert type(best_kernels(tiny_decoder(), EngineSettings())) is TorchKernels
        with pytest.raises(SettingsError, match=r"int8 needs the native kernels, and .* not built"):
            best_kernels(tiny_decoder(), EngineSettings(dtype="int8"))
    finally:
        native.library.cache_clear()


@built
def test_a_decoder_with_odd_sizes_is_left_to_torch() -> None:
    decoder = tiny_decoder(config=replace(CONFIG, intermediate_size=100))
    assert type(best_kernels(decoder, EngineSettings())) is TorchKernels
    assert type(best_kernels(tiny_decoder(), EngineSettings())) is NativeKernels

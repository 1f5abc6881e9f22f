"""Kernels for a GPU, in Triton, and steps as CUDA graphs.

A decoder of 135M parameters is some six hundred small kernels a step, and to launch one costs the host more than to run
it costs the GPU. So what makes one step another is a `Frame` of integers on the device, and a step whose sizes are met
the second time is captured: from then on it is one copy, one launch, and the head's few.

Linears are cuBLAS's, in fp32 (torch's default is without TF32) or bf16; all else is fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from plural.engine.kernels import triton_ops as ops
from plural.engine.kernels.frame import LORA_ROWS, Frame, Sizes, Tiles, cut, sizes
from plural.engine.kernels.interface import AdapterWeights, Result, Segment, Span
from plural.engine.kernels.pages import ALIGN, Pages, Parcel, Piece, ranks_in_a_page
from plural.engine.kernels.torch_kernels import finite
from plural.models.config import GROUPS, MODULES, DecoderConfig, Group
from plural.models.decoder import Decoder
from plural.models.ops import Angles, TorchOps

# Inputs of a LoRA are multiplied in so many pieces, beside each other.
_PIECES = 4
# So many steps of different sizes are kept, captured or about to be.
_KEPT = 96


# -------------------------------------------------------------------------------------------------------- adapters
@dataclass(frozen=True, slots=True)
class TritonAdapter:
    """Where its tables lie in the memory, in units of ALIGN bytes, and the largest rank in each. There is more than one
    where a module's ranks do not fit in a page: what they add is added up."""

    tables: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some ranks of a module: two pieces of a parcel, for one line of a table."""

    table: int
    line: int
    rank: int


def _parcel(config: DecoderConfig, weights: AdapterWeights, page_bytes: int) -> Parcel:
    """First the tables, which are filled in when it is known where the rest lies; then a as rank x in and b as
    rank x out, with the adapter's scale in it."""
    pieces: list[Piece] = []
    parts: list[_Part] = []
    for (layer, module), (a_RI, b_OR) in weights.tensors.items():
        finite(weights, layer, module)
        room = ranks_in_a_page(page_bytes, max(a_RI.shape[1], len(b_OR)) * 4)
        scaled_RO = b_OR.T.astype(np.float32) * np.float32(weights.scale_of(module, layer))
        for table, first in enumerate(range(0, len(a_RI), room)):
            ranks = slice(first, first + room)
            pieces += (Piece(a_RI[ranks], torch.float32), Piece(scaled_RO[ranks], torch.float32))
            parts.append(_Part(table, layer * len(MODULES) + MODULES.index(module), len(a_RI[ranks])))
    empty = np.zeros((config.num_layers * len(MODULES), 4), np.int64)
    tables = [Piece(empty, torch.int64)] * (max((part.table for part in parts), default=-1) + 1)
    return Parcel.of([*tables, *pieces], page_bytes, tuple(parts))


# --------------------------------------------------------------------------------------------------------- kernels
class TritonKernels(TorchOps):
    """Implements `Kernels`; `half`: linears are held in bf16, but for the head, whose logits say what is drawn."""

    def __init__(self, *, half: bool = False) -> None:
        self.half = half

    def pack(self, config: DecoderConfig, weights: AdapterWeights, page_bytes: int, dtype: torch.dtype) -> Parcel:
        return _parcel(config, weights, page_bytes)

    def place(self, parcel: Parcel, memory: Pages, pages: Sequence[int]) -> TritonAdapter:
        """Page by page: an adapter has hundreds of pieces, and each copy to the device takes its time."""
        parts: tuple[_Part, ...] = parcel.handle
        start = [pages[page] * memory.page_bytes + at for page, at in parcel.places]
        first = len(parcel.pieces) - 2 * len(parts)  # after the tables
        tables = [np.zeros(piece.array.shape, np.int64) for piece in parcel.pieces[:first]]
        for number, part in enumerate(parts):
            a, b = start[first + 2 * number : first + 2 * number + 2]
            tables[part.table][part.line] = (a // 4, b // 4, part.rank, 0)
        written = np.zeros((parcel.pages, memory.page_bytes), np.uint8)
        arrays = [*tables, *(piece.array for piece in parcel.pieces[first:])]
        for array, piece, (page, at) in zip(arrays, parcel.pieces, parcel.places, strict=True):
            there = written[page, at : at + piece.bytes].view(np.int64 if array.dtype == np.int64 else np.float32)
            there.reshape(array.shape)[...] = array
        for page, line in zip(pages, written, strict=True):
            memory.memory[page].copy_(torch.from_numpy(line))
        widest = [int(table[:, 2].max()) for table in tables]
        return TritonAdapter(tuple((at // ALIGN, rank) for at, rank in zip(start, widest, strict=False)))

    def moved(self, packed: TritonAdapter, memory: Pages, to: Mapping[int, int]) -> TritonAdapter:
        """Its tables lie in its pages, and say where the rest does."""
        lines = memory.kv.shape[1] * len(MODULES)
        pages_P = torch.zeros(len(memory.memory), dtype=torch.int64)
        pages_P[list(to)] = torch.tensor(list(to.values()))
        tables: list[tuple[int, int]] = []
        for at, rank in packed.tables:
            page, start = divmod(at * ALIGN, memory.page_bytes)
            table_L4 = memory.view(to[page], start, (lines, 4), torch.int64)
            moved_L4 = table_L4.cpu()  # on a CPU the same memory
            floats, used = memory.page_bytes // 4, moved_L4[:, 2] > 0
            where_U2 = moved_L4[used, :2]
            moved_L4[used, :2] = pages_P[where_U2 // floats] * floats + where_U2 % floats
            table_L4.copy_(moved_L4)
            tables.append(((to[page] * memory.page_bytes + start) // ALIGN, rank))
        return TritonAdapter(tuple(tables))

    def forward(self, decoder: Decoder, vocabulary: int | None = None, kept: Path | None = None) -> TritonForward:
        weights = decoder.weights
        if self.half:
            weights = replace(weights.map_linears(lambda w_OI: w_OI.bfloat16()), head_VH=weights.head_VH)
        return TritonForward(Decoder(decoder.config, weights, self), vocabulary or decoder.config.vocab_size)

    # ------------------------------------------------------------------------------------------ what a decoder calls
    def embed(self, table_VH: Tensor, ids_T: Tensor) -> Tensor:
        return F.embedding(ids_T, table_VH)

    def angles(self, cos_PD: Tensor, sin_PD: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Angles:
        """The tables themselves: rows are looked up where queries and keys are rotated."""
        return cos_PD, sin_PD

    def linear(self, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        return F.linear(x_TI.to(w_OI.dtype), w_OI, None if bias_O is None else bias_O.to(w_OI.dtype))

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        rows, width = x_TH.shape
        y_TH = torch.empty_like(x_TH)
        ops.rms_norm[(rows,)](x_TH, weight_H, y_TH, eps, WIDTH=width, BLOCK=triton.next_power_of_2(width))
        return y_TH

    def heads(
        self, config: DecoderConfig, qkv_TO: Tensor, q_norm_D: Tensor | None, k_norm_D: Tensor | None, angles: Angles
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Only shown as heads: attention normalises and rotates them as it writes keys and values into their pages."""
        c = config
        split = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
        q_TND, k_TKD, v_TKD = (part.unflatten(1, (-1, c.head_dim)) for part in qkv_TO.split(split, dim=1))
        return q_TND, k_TKD, v_TKD

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor:
        rows, width = len(gate_up_TI2), gate_up_TI2.shape[1] // 2
        y_TI = gate_up_TI2.new_empty((rows, width))
        block = min(1024, triton.next_power_of_2(width))
        ops.silu_mul[(rows, triton.cdiv(width, block))](gate_up_TI2, y_TI, WIDTH=width, BLOCK=block)
        return y_TI


class _Attention:
    """Writes the step's keys and values, then attends: two launches a layer."""

    def __init__(self, decoder: Decoder, memory: Pages, frame: Frame) -> None:
        self._decoder, self._memory, self._frame = decoder, memory, frame

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        """`k_TKD` and `v_TKD` lie behind `q_TND` in the same rows."""
        config, weights = self._decoder.config, self._decoder.weights.layers[layer]
        rows, heads, width = q_TND.shape
        kv, frame = self._memory.kv, self._frame
        shape: dict[str, Any] = {
            "HEADS": heads,
            "KV_HEADS": config.num_kv_heads,
            "WIDTH": width,
            "PAGE": self._memory.page_size,
            "PAGE_STRIDE": kv.stride(0),
        }
        rotated_TND = q_TND.new_empty(q_TND.shape, dtype=torch.float32)
        normed = weights.q_norm_D is not None and weights.k_norm_D is not None
        ops.rotate_and_write[(rows, heads + 2 * config.num_kv_heads)](
            q_TND,
            weights.q_norm_D if normed else weights.input_norm_H,
            weights.k_norm_D if normed else weights.input_norm_H,
            self._decoder.cos_PD,
            self._decoder.sin_PD,
            frame["positions"],
            frame["pages"],
            rotated_TND,
            kv,
            layer,
            config.rms_eps,
            NORMED=normed,
            HALF=triton.next_power_of_2(width // 2),
            num_warps=1,
            **shape,
        )
        out_TND = torch.empty_like(q_TND, memory_format=torch.contiguous_format)
        ops.attend[(frame.sizes.rows, config.num_kv_heads)](
            rotated_TND,
            kv,
            frame["attention"],
            frame["tables"],
            out_TND,
            layer,
            width**-0.5,
            BLOCK_D=max(16, triton.next_power_of_2(width)),
            BLOCK_M=frame.sizes.heads,
            BLOCK_N=32,
            **shape,
        )
        return out_TND


class _Lora:
    """Two launches for a group of linears, whoever wears what."""

    def __init__(self, config: DecoderConfig, memory: Pages, frame: Frame) -> None:
        whole_B = memory.memory.view(-1)
        self._floats, self._longs = whole_B.view(torch.float32), whole_B.view(torch.int64)
        self._frame = frame
        self._low_PTR = self._floats.new_empty((_PIECES, frame.sizes.rows, frame.sizes.low))
        self._outputs = {group: [config.out_features(module) for module in GROUPS[group]] for group in GROUPS}

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        tiles, parts, outputs = self._frame["lora"], self._frame["parts"], self._outputs[group]
        count, block = self._frame.sizes.lora_tiles, 64
        entry = layer * len(MODULES) + MODULES.index(GROUPS[group][0])
        common = (self._floats, self._longs, tiles, parts, entry, *self._low_PTR.shape[1:])
        inputs = x_TI.shape[1]
        ops.shrink[(count, len(outputs), _PIECES)](
            x_TI,
            self._low_PTR,
            *common,
            INPUTS=inputs,
            PIECE=triton.cdiv(inputs, 64 * _PIECES) * 64,
            BLOCK_M=LORA_ROWS,
            BLOCK_K=64,
            BLOCK_R=16,
        )
        blocks = triton.cdiv(max(outputs), block)
        first, second, third = (*outputs, 0, 0)[:3]
        ops.expand[(count, len(outputs) * blocks)](
            self._low_PTR,
            y_TO,
            *common,
            OUT_0=first,
            OUT_1=second,
            OUT_2=third,
            PIECES=_PIECES,
            BLOCKS=blocks,
            BLOCK_M=LORA_ROWS,
            BLOCK_N=block,
            BLOCK_R=16,
        )
        return y_TO


# ----------------------------------------------------------------------------------------------------------- steps
class _Step:
    """All steps of one size: the frame that says which, and, on a GPU from the second one on, their captured graph."""

    def __init__(self, decoder: Decoder, memory: Pages, sizes: Sizes, pool: Any) -> None:
        self.frame = Frame(sizes, decoder.device)
        self._decoder, self._memory, self._pool = decoder, memory, pool
        self._met = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._states_TH = torch.empty(0)

    def run(self) -> Tensor:
        """The states of all rows, the padding's among them; overwritten by the next run of any step."""
        if self._graph is None and self._met and self._pool is not None:
            self._graph = torch.cuda.CUDAGraph()
            # The loader's thread copies adapters meanwhile, which is no part of this.
            with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
                self._states_TH = self._compute()
        self._met = True
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._states_TH

    def _compute(self) -> Tensor:
        decoder, frame = self._decoder, self.frame
        delta = _Lora(decoder.config, self._memory, frame) if frame.sizes.low else None
        attend = _Attention(decoder, self._memory, frame)
        return decoder.hidden(frame["ids"], frame["positions"], attend, delta)


class TritonForward:
    """`__call__` is not to be called by two threads at once. A result's logits stay until the next call."""

    def __init__(self, decoder: Decoder, vocabulary: int) -> None:
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._group = decoder.config.num_heads // decoder.config.num_kv_heads
        on_gpu = decoder.device.type == "cuda"
        self._device = torch.cuda.device(decoder.device) if on_gpu else contextlib.nullcontext()
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._steps: dict[Sizes, _Step] = {}
        self._memory: Pages | None = None

    def __call__(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        memory: Pages,
        spans: Sequence[Span],
        segments: Sequence[Segment],
    ) -> Result:
        tiles = cut(spans, segments, self._group)
        with self._device:
            step = self._step(len(ids), tiles, memory)
            step.frame.fill(ids, positions, wanted, spans, tiles, memory.page_size)
            states_TH = step.run()[: len(ids)]
            return self._summed_up(states_TH, step.frame["wanted"][: len(wanted)])

    def _step(self, rows: int, tiles: Tiles, memory: Pages) -> _Step:
        if memory is not self._memory:
            self._steps.clear()  # a graph knows its memory by address
            self._memory = memory
        size = sizes(rows, tiles)
        if size not in self._steps:
            if len(self._steps) == _KEPT:
                del self._steps[next(iter(self._steps))]
            self._steps[size] = _Step(self._decoder, memory, size, self._pool)
        return self._steps[size]

    def _summed_up(self, states_TH: Tensor, rows_R: Tensor) -> Result:
        """Of what was computed only these few numbers go to the host, in one copy, for which it waits."""
        (rows, width), count = states_TH.shape, len(rows_R)
        said = torch.empty(3 * count + rows, dtype=torch.int32, device=states_TH.device)
        ops.finite[(rows,)](states_TH, said, 3 * count, WIDTH=width, BLOCK=triton.next_power_of_2(width))
        logits_RV = self._decoder.logits(states_TH.index_select(0, rows_R))[:, : self._vocabulary]
        if count:
            block = min(4096, triton.next_power_of_2(self._vocabulary))
            ops.summarise[(count,)](
                logits_RV, said, logits_RV.stride(0), self._vocabulary, count, BLOCK=block, num_warps=8
            )
        states_TH = states_TH.clone()  # the next step writes over them, and who embeds gathers several steps'
        said_N = said.cpu().numpy()
        totals_R, best_R, logit_R = said_N[: 3 * count].reshape(3, count)
        return Result(
            states_TH,
            (said_N[3 * count :] != 0).tolist(),
            logits_RV,
            totals_R.view(np.float32).tolist(),
            best_R.tolist(),
            logit_R.view(np.float32).tolist(),
        )

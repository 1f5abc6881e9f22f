"""The native kernels: a whole step in one call, on the CPU.

Where the library is missing or does not fit the machine, the engine computes with torch.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from ctypes import c_int32
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plural.engine.kernels import abi
from plural.engine.kernels.abi import BLOCK, PANEL, library
from plural.engine.kernels.interface import AdapterWeights, Packed, Result, Segment, Span
from plural.engine.kernels.packing import CODED, Kind, PackedLinear, PackedLinears
from plural.engine.kernels.pages import Pages, Parcel, Piece, ranks_in_a_page
from plural.engine.kernels.program import Instruction, Op, Recorded, record
from plural.engine.kernels.torch_kernels import TorchKernels, finite
from plural.errors import MachineError
from plural.models.config import GROUPS, MODULES, DecoderConfig
from plural.models.decoder import Decoder


def why_not(decoder: Decoder) -> str | None:
    """Why the native kernels cannot run this decoder; None when they can."""
    config = decoder.config
    if library() is None:
        return "the native kernels are not built for this machine"
    if decoder.device.type != "cpu" or decoder.dtype != torch.float32:
        return f"the weights are {decoder.dtype} on {decoder.device}, not fp32 on a CPU"
    sizes = {module: (config.in_features(module), config.out_features(module)) for module in MODULES}
    for module, (inputs, outputs) in sizes.items():
        if inputs % BLOCK or outputs % PANEL:
            return f"{module} has {inputs} inputs and {outputs} outputs, not multiples of {BLOCK} and {PANEL}"
    if config.head_dim % PANEL:
        return f"heads are {config.head_dim} wide, not a multiple of {PANEL}"
    return None


# -------------------------------------------------------------------------------------------------------- adapters
@dataclass(frozen=True)
class NativeAdapter:
    """Tables of all modules of all layers. There is more than one where a module's ranks do not fit in a page: what
    they add is added up."""

    tables: tuple[Any, ...]


@dataclass(frozen=True)
class _Part:
    """Some ranks of a module, in two pieces of a parcel, and what of their entry in a table is known by now."""

    table: int
    index: int
    entry: dict[str, Any]


def _parcel(config: DecoderConfig, weights: AdapterWeights, page_bytes: int) -> Parcel:
    """a as rank x in and b as rank x out. What fp16 holds without loss is fp16, mostly as it lies on the disk: half of
    the memory to read, and the same values."""
    columns = {module: part.start for group in GROUPS for module, part in config.slices(group).items()}
    pieces: list[Piece] = []
    parts: list[_Part] = []
    for (layer, module), (a_RI, b_OR) in weights.tensors.items():
        finite(weights, layer, module)
        half = all(_fits_half(array) for array in (a_RI, b_OR))
        dtype = torch.float16 if half else torch.float32
        room = ranks_in_a_page(page_bytes, max(a_RI.shape[1], len(b_OR)) * dtype.itemsize)
        for table, first in enumerate(range(0, len(a_RI), room)):
            a_PI, b_PO = a_RI[first : first + room], b_OR[:, first : first + room].T
            pieces += (Piece(a_PI, dtype), Piece(b_PO, dtype))
            entry = {
                "rank": len(a_PI),
                "half": half,
                "column": columns[module],
                "out": len(b_OR),
                "scale": weights.scale_of(module, layer),
            }
            parts.append(_Part(table, layer * len(MODULES) + MODULES.index(module), entry))
    return Parcel.of(pieces, page_bytes, (config.num_layers * len(MODULES), tuple(parts)))


def _fits_half(array: np.ndarray) -> bool:
    if array.dtype == np.float16:
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(np.float16), array)


# --------------------------------------------------------------------------------------------------------- kernels
class NativeKernels(TorchKernels):
    """Implements `Kernels` for decoders that `why_not` has nothing against. In a page a KV head's keys lie as
    [head_dim][token], values as [token][head_dim]: the 16 tokens that are scored together lie side by side."""

    def __init__(self, kind: Kind | None = Kind.FP32, threads: int | None = None) -> None:
        self.kind = kind
        self.threads = threads or torch.get_num_threads()

    def pack(self, config: DecoderConfig, weights: AdapterWeights, page_bytes: int, dtype: torch.dtype) -> Parcel:
        return _parcel(config, weights, page_bytes)

    def place(self, parcel: Parcel, memory: Pages, pages: Sequence[int]) -> NativeAdapter:
        entries, parts = parcel.handle
        laid = itertools.starmap(memory.address, parcel.lay(memory, pages))
        tables = tuple((abi.Module * entries)() for _ in range(max(part.table for part in parts) + 1))
        for part in parts:
            tables[part.table][part.index] = abi.Module(a=next(laid), b=next(laid), **part.entry)
        return NativeAdapter(tables)

    def moved(self, packed: Packed, memory: Pages, to: Mapping[int, int]) -> NativeAdapter:
        tables = tuple(type(table).from_buffer_copy(table) for table in packed.tables)
        for module in (module for table in tables for module in table if module.rank):
            for matrix in ("a", "b"):
                page, start = memory.locate(getattr(module, matrix))
                setattr(module, matrix, memory.address(to[page], start))
        return NativeAdapter(tables)

    def forward(self, decoder: Decoder, vocabulary: int | None = None, kept: Path | None = None) -> NativeForward:
        recorded = record(decoder)
        linears = {name_of(one): one.first for one in recorded.code if one.op is Op.LINEAR and one.first is not None}
        linears["head"] = decoder.weights.head_VH
        packed = PackedLinears.load(kept, linears) if kept else None
        if packed is None:
            packed = PackedLinears.of(linears, self.kind, self.threads)
            if kept and any(
                linear.held.kind in CODED for linear in packed.values()
            ):  # finding codes is what takes time
                packed.store(kept)
        return NativeForward(decoder, recorded, packed, self.threads, vocabulary or decoder.config.vocab_size)


def name_of(linear: Instruction) -> str:
    group = next(group for group, modules in GROUPS.items() if MODULES[linear.module] in modules)
    return f"layers.{linear.layer}.{group}"


class NativeForward:
    """A recorded decoder with its packed weights. `__call__` is not to be called by two threads at once.

    `linears` says of each how it is held, by its name; `weight_bytes` is what all of them take, and what a step reads.
    """

    def __init__(
        self, decoder: Decoder, recorded: Recorded, linears: PackedLinears, threads: int, vocabulary: int
    ) -> None:
        native = library()
        assert native is not None  # why_not was asked
        self._native = native
        self._threads = threads
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._recorded = recorded
        self._alive: list[Any] = []  # what C points to
        self.linears = linears
        self._code = (abi.Instruction * len(recorded.code))(*map(self._instruction, recorded.code))
        self._head = self._weight(linears["head"])
        self._program: int | None = None
        self._page_size = 0

    def __del__(self) -> None:
        if getattr(self, "_program", None):
            self._native.plural_program_free(self._program)

    @property
    def weight_bytes(self) -> int:
        return sum(linear.size for linear in self.linears.values())

    def _weight(self, linear: PackedLinear) -> abi.Weight:
        weight = abi.Weight(linear.data, linear.held.kind, linear.inputs, linear.outputs)
        self._alive.append(weight)
        return weight

    def _instruction(self, one: Instruction) -> abi.Instruction:
        made = abi.Instruction(one.op, one.to.buffer, layer=one.layer, module=one.module, modules=one.modules)
        made.a, made.b = (value.buffer if value is not None else -1 for value in (one.a, one.b))
        if one.op is Op.LINEAR:
            made.first = ctypes.addressof(self._weight(self.linears[name_of(one)]))
        else:
            made.first = self._pointer(one.first)
        made.second = self._pointer(one.second)
        return made

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._alive.append(tensor.contiguous())
        return self._alive[-1].data_ptr()  # type: ignore[no-any-return]

    def _start(self, page_size: int) -> int:
        decoder, config = self._decoder, self._decoder.config
        shape = abi.Shape(
            hidden=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab=self._vocabulary,
            page_size=page_size,
            modules_per_layer=len(MODULES),
            eps=config.rms_eps,
            scale=config.head_dim**-0.5,
            cos_PD=self._pointer(decoder.cos_PD),
            sin_PD=self._pointer(decoder.sin_PD),
        )
        widths = (c_int32 * len(self._recorded.widths))(*self._recorded.widths)
        program = self._native.plural_program_new(
            self._code, len(self._code), widths, len(widths), self._recorded.states, self._head, shape, self._threads
        )
        if not program:
            raise MachineError("There is no memory for the native kernels' program.", hint="Free some memory.")
        self._page_size = page_size
        return int(program)

    def __call__(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        memory: Pages,
        spans: Sequence[Span],
        segments: Sequence[Segment],
    ) -> Result:
        if self._program is None:
            self._program = self._start(memory.page_size)
        assert memory.page_size == self._page_size  # an engine has one pool
        config = self._decoder.config
        states_TH = torch.empty((len(ids), config.hidden_size))
        logits_RV = torch.empty((len(wanted), config.vocab_size))
        finite_T = np.empty(len(ids), np.bool_)
        totals_R, best_R = np.empty(len(wanted), np.float32), np.empty(len(wanted), np.int32)
        ids_T, positions_T, wanted_R = (np.array(each, np.int64) for each in (ids, positions, wanted))
        pages = np.array([page for span in spans for page in span.pages], np.int32)
        starts = np.cumsum([0, *(len(span.pages) for span in spans[:-1])])
        spans_S4 = np.array([(s.start, s.stop, s.length, at) for s, at in zip(spans, starts, strict=True)], np.int32)
        parts = [(segment, table) for segment in segments for table in segment.packed.tables]
        worn = (abi.Segment * len(parts))(
            *(abi.Segment(s.start, s.stop, s.scale, 0, ctypes.addressof(t)) for s, t in parts)
        )
        step = abi.Step(
            rows=len(ids),
            spans_count=len(spans),
            segments_count=len(parts),
            wanted_count=len(wanted),
            page_floats=memory.page_bytes // 4,
            ids=ids_T.ctypes.data,
            positions=positions_T.ctypes.data,
            wanted=wanted_R.ctypes.data,
            spans=spans_S4.ctypes.data,
            pages=pages.ctypes.data,
            segments=ctypes.addressof(worn),
            memory=memory.memory.data_ptr(),
            states=states_TH.data_ptr(),
            logits=logits_RV.data_ptr(),
            finite=finite_T.ctypes.data,
            totals=totals_R.ctypes.data,
            best=best_R.ctypes.data,
        )
        if self._native.plural_program_run(self._program, step):
            raise MachineError(f"There is no memory for a step of {len(ids)} tokens.", hint="Lower step_tokens.")
        return Result(
            states_TH, finite_T.tolist(), logits_RV[:, : self._vocabulary], totals_R.tolist(), best_R.tolist()
        )

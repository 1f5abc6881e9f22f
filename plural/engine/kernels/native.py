"""The door to the native kernels (native/plural_kernels.h): a whole step in one call, on the CPU.

The library is compiled when Plural is installed (hatch_build.py). Where it is missing or does not fit the machine, the
engine computes with torch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plural.engine.kernels.interface import AdapterWeights, Result, Segment, Span
from plural.engine.kernels.pages import Pages, Parcel, Piece, ranks_in_a_page
from plural.engine.kernels.program import Op, record
from plural.engine.kernels.torch_kernels import TorchKernels, finite
from plural.errors import MachineError, SettingsError
from plural.models.config import GROUPS, MODULES, DecoderConfig
from plural.models.decoder import Decoder

LIBRARY = Path(__file__).with_name("_native.so")
ABI = 4
PANEL = 16  # outputs that are packed together
VECTOR, BLOCK = 16, 32


class Kind(IntEnum):
    """How weights are held: as numbers (FP32, BF16), or as codes of 256 (INT8) or 16 levels (Q4), every 32 inputs of an
    output with a scale and a minimum of their own, which are multiplied by inputs in 8 bits.

    A block that was quantised to no more levels before, by a GGUF's Q8_0 or Q4_1 say, keeps its codes and its scale.
    """

    FP32 = 0
    INT8 = 1
    BF16 = 2
    Q4 = 3


@dataclass(frozen=True)
class Held:
    """How one linear is held. `exact`: its weights are, to the bit, those of the base."""

    kind: Kind
    exact: bool


# ------------------------------------------------------------------------------------------------- the C interface
class _Weight(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("kind", c_int32), ("inputs", c_int32), ("outputs", c_int32), ("unused", c_int32)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("op", "to", "a", "b", "layer", "module", "modules", "unused")),
        ("first", c_void_p),
        ("second", c_void_p),
    ]


class _Shape(ctypes.Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                "hidden",
                "heads",
                "kv_heads",
                "head_dim",
                "vocab",
                "page_size",
                "modules_per_layer",
                "unused",
            )
        ),
        ("eps", c_float),
        ("scale", c_float),
        ("cos_PD", c_void_p),
        ("sin_PD", c_void_p),
    ]


class _Module(ctypes.Structure):
    _fields_ = [
        ("a", c_void_p),
        ("b", c_void_p),
        ("rank", c_int32),
        ("half", c_int32),
        ("column", c_int32),
        ("out", c_int32),
        ("scale", c_float),
        ("unused", c_int32),
    ]


class _Segment(ctypes.Structure):
    _fields_ = [("start", c_int32), ("stop", c_int32), ("scale", c_float), ("unused", c_int32), ("modules", c_void_p)]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "spans_count", "segments_count", "wanted_count", "page_floats")),
        *(
            (name, c_void_p)
            for name in (
                "ids",
                "positions",
                "wanted",
                "spans",
                "pages",
                "segments",
                "memory",
                "states",
                "logits",
                "finite",
                "totals",
                "best",
            )
        ),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none for this machine."""
    if not LIBRARY.exists():
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    loaded.plural_isa.restype = c_char_p
    if loaded.plural_abi() != ABI or loaded.plural_isa() is None:
        return None
    loaded.plural_weight_bytes.restype = c_size_t
    loaded.plural_weight_bytes.argtypes = [c_int32] * 3
    loaded.plural_pack.restype = c_int64
    loaded.plural_pack.argtypes = [c_int32, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p]
    loaded.plural_int8_rate.restype = c_int64
    loaded.plural_int8_rate.argtypes = [c_int64]
    loaded.plural_program_new.restype = c_void_p
    loaded.plural_program_new.argtypes = [
        *(c_void_p, c_int32, c_void_p, c_int32, c_int32),
        *(POINTER(_Weight), POINTER(_Shape), c_int32),
    ]
    loaded.plural_program_free.restype = None
    loaded.plural_program_free.argtypes = [c_void_p]
    loaded.plural_program_run.restype = c_int32
    loaded.plural_program_run.argtypes = [c_void_p, POINTER(_Step)]
    return loaded


def instruction_set() -> str | None:
    """The instruction set that the native kernels use here; None where there are no native kernels."""
    found = library()
    return found.plural_isa().decode() if found else None


def why_not(decoder: Decoder) -> str | None:
    """Why the native kernels cannot run this decoder; None when they can."""
    config = decoder.config
    if library() is None:
        return "the native kernels are not built for this machine"
    if decoder.device.type != "cpu" or decoder.dtype != torch.float32:
        return f"the weights are {decoder.dtype} on {decoder.device}, not fp32 on a CPU"
    sizes = {module: (config.in_features(module), config.out_features(module)) for module in MODULES}
    for module, (inputs, outputs) in sizes.items():
        if inputs % BLOCK or outputs % VECTOR:
            return f"{module} has {inputs} inputs and {outputs} outputs, not multiples of {BLOCK} and {VECTOR}"
    if config.head_dim % VECTOR:
        return f"heads are {config.head_dim} wide, not a multiple of {VECTOR}"
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
        laid = iter(parcel.lay(memory, pages))
        tables = tuple((_Module * entries)() for _ in range(max(part.table for part in parts) + 1))
        for part in parts:
            a, b = next(laid).data_ptr(), next(laid).data_ptr()
            tables[part.table][part.index] = _Module(a=a, b=b, **part.entry)
        return NativeAdapter(tables)

    def forward(self, decoder: Decoder, vocabulary: int | None = None) -> NativeForward:
        vocabulary = vocabulary or decoder.config.vocab_size
        if self.kind is not None:
            return NativeForward(decoder, self.kind, self.threads, vocabulary)
        for kind in (Kind.Q4, Kind.BF16):
            try:
                return NativeForward(decoder, kind, self.threads, vocabulary, exactly=True)
            except _RoundedError:
                pass
        return NativeForward(decoder, Kind.FP32, self.threads, vocabulary)


class _RoundedError(Exception):
    """A kind of weights does not hold a linear to the bit."""


class _Room:
    """Memory for packed weights, in blocks so large that NumPy asks Linux to back them with huge pages: every decode
    step reads all of it, and small pages cost a look into the page table each."""

    _BLOCK = 64 << 20

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._at = self._end = 0

    def take(self, size: int) -> int:
        """The address of `size` bytes, aligned to a cache line; they live as long as this room."""
        at = -(-self._at // 64) * 64
        if at + size > self._end:
            block = np.empty(max(size + 64, self._BLOCK), np.uint8)
            self._blocks.append(block)
            self._end = block.ctypes.data + block.nbytes
            at = -(-block.ctypes.data // 64) * 64
        self._at = at + size
        return at

    def give_back(self, address: int) -> None:
        """Undoes the last `take`, which returned `address`."""
        self._at = address


class NativeForward:
    """A recorded decoder with its packed weights. `__call__` is not to be called by two threads at once.

    `held` says of every linear how it is held, by its name; `weight_bytes` is what all of them take, and what a step
    reads. Q4 holds what it can as it is, and the others, like a head in Q8_0, as INT8. Raises SettingsError when it
    could hold none. With `exactly`, nothing is rounded: _RoundedError when it would have to be.
    """

    def __init__(self, decoder: Decoder, kind: Kind, threads: int, vocabulary: int, *, exactly: bool = False) -> None:
        native = library()
        assert native is not None  # why_not was asked
        self._native = native
        self._kind = kind
        self._exactly = exactly
        self._threads = threads
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._recorded = record(decoder)
        self._alive: list[Any] = []  # what C points to
        self._room = _Room()
        self.held: dict[str, Held] = {}
        self.weight_bytes = 0
        with ThreadPoolExecutor(threads) as self._packers:
            self._code = (_Instruction * len(self._recorded.code))(*map(self._instruction, self._recorded.code))
            self._head = self._packed("head", decoder.weights.head_VH)
        if kind is Kind.Q4 and not exactly and all(held.kind is not Kind.Q4 for held in self.held.values()):
            raise SettingsError(
                "dtype q4 keeps 4-bit blocks as the base's file has them, and this base has none.",
                hint="Use int8, or a GGUF in Q4_1 or Q4_0.",
            )
        self._program: int | None = None
        self._page_size = 0

    def __del__(self) -> None:
        if getattr(self, "_program", None):
            self._native.plural_program_free(self._program)

    def _packed(self, name: str, w_OI: Tensor) -> _Weight:
        outputs, inputs = w_OI.shape
        for kind in (Kind.Q4, Kind.INT8) if self._kind is Kind.Q4 else (self._kind,):
            size = self._native.plural_weight_bytes(kind, inputs, outputs)
            data = self._room.take(size)
            lossy = self._pack(kind, w_OI, data)
            if kind is Kind.Q4 and lossy:
                self._room.give_back(data)
            else:
                break
        if lossy and self._exactly:
            raise _RoundedError(name)
        self.held[name] = Held(kind, exact=not lossy)
        self.weight_bytes += size
        weight = _Weight(data, kind, inputs, outputs)
        self._alive.append(weight)
        return weight

    def _pack(self, kind: Kind, w_OI: Tensor, to: int) -> int:
        """How many blocks are not held to the bit. Each thread packs some of the panels of outputs."""
        outputs, inputs = w_OI.shape
        own = -(-outputs // (PANEL * self._threads)) * PANEL

        def pack(first: int) -> int:
            part_OI = w_OI[first : first + own]
            at = to + self._native.plural_weight_bytes(kind, inputs, first)
            stride_out, stride_in = part_OI.stride()
            pointer = part_OI.data_ptr()
            return int(self._native.plural_pack(kind, pointer, inputs, len(part_OI), stride_in, stride_out, at))

        return sum(self._packers.map(pack, range(0, outputs, own)))

    def _instruction(self, one: Any) -> _Instruction:
        made = _Instruction(one.op, one.to.buffer, layer=one.layer, module=one.module, modules=one.modules)
        made.a, made.b = (value.buffer if value is not None else -1 for value in (one.a, one.b))
        if one.op is Op.LINEAR:
            group = next(group for group, modules in GROUPS.items() if MODULES[one.module] in modules)
            made.first = ctypes.addressof(self._packed(f"layers.{one.layer}.{group}", one.first))
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
        shape = _Shape(
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
        worn = (_Segment * len(parts))(*(_Segment(s.start, s.stop, s.scale, 0, ctypes.addressof(t)) for s, t in parts))
        step = _Step(
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

"""The door to the native kernels (native/plural_kernels.h): a whole step in one call, on the CPU.

The library is compiled when Plural is installed (hatch_build.py). Where it is missing or does not fit the machine, the
engine computes with torch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plural.engine.kernels.interface import AdapterWeights, Forward, KVPages, Segment, Span
from plural.engine.kernels.program import Op, record
from plural.engine.kernels.torch_kernels import TorchKernels, finite
from plural.errors import MachineError
from plural.models.config import GROUPS, MODULES, DecoderConfig
from plural.models.decoder import Decoder

LIBRARY = Path(__file__).with_name("_native.so")
ABI = 1
VECTOR, BLOCK = 16, 32


class Kind(IntEnum):
    """How weights are held. U8: 256 levels between the smallest and the largest of 32 inputs of an output."""

    FP32 = 0
    INT8 = 1


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
        *((name, c_int64) for name in ("rows", "spans_count", "segments_count", "wanted_count", "pages_held")),
        *(
            (name, c_void_p)
            for name in (
                "ids",
                "positions",
                "wanted",
                "spans",
                "pages",
                "segments",
                "keys",
                "values",
                "states",
                "logits",
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
    loaded.plural_pack.restype = None
    loaded.plural_pack.argtypes = [c_int32, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p]
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
    """The table of all modules of all layers, and the arrays that it points to."""

    modules: Any
    arrays: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, config: DecoderConfig, weights: AdapterWeights) -> NativeAdapter:
        modules = (_Module * (config.num_layers * len(MODULES)))()
        columns = {module: part.start for group in GROUPS for module, part in config.slices(group).items()}
        arrays: list[np.ndarray] = []
        for (layer, module), (a_RI, b_OR) in weights.tensors.items():
            finite(weights, layer, module)
            pair: list[np.ndarray] = [np.ascontiguousarray(a_RI, np.float32), np.ascontiguousarray(b_OR.T, np.float32)]
            halves = [array.astype(np.float16) for array in pair]
            half = all(np.array_equal(small, array) for small, array in zip(halves, pair, strict=True))
            if half:  # as it lies on the disk, mostly: half of the memory to read, and the same values
                pair = halves
            arrays += pair
            modules[layer * len(MODULES) + MODULES.index(module)] = _Module(
                a=pair[0].ctypes.data,
                b=pair[1].ctypes.data,
                rank=len(a_RI),
                half=half,
                column=columns[module],
                out=len(b_OR),
                scale=weights.scale_of(module, layer),
            )
        return cls(modules, tuple(arrays))


# --------------------------------------------------------------------------------------------------------- kernels
class NativeKernels(TorchKernels):
    """Implements `Kernels` for decoders that `why_not` has nothing against. Pages are torch's, in another layout."""

    def __init__(self, kind: Kind = Kind.FP32, threads: int | None = None) -> None:
        self.kind = kind
        self.threads = threads or torch.get_num_threads()

    def new_pages(
        self, config: DecoderConfig, count: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVPages:
        """keys_KPDS and values_KPSD: the 16 tokens that are scored together lie side by side."""
        plain = super().new_pages(config, count, page_size, dtype, device)
        turned = (config.num_kv_heads, count + 1, config.head_dim, page_size)
        return KVPages(tuple(keys.view(turned) for keys in plain.keys), plain.values, page_size)

    def pack(
        self, config: DecoderConfig, weights: AdapterWeights, dtype: torch.dtype, device: torch.device
    ) -> NativeAdapter:
        return NativeAdapter.of(config, weights)

    def forward(self, decoder: Decoder) -> Forward:
        return _Forward(decoder, self.kind, self.threads)


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


class _Forward:
    """A recorded decoder with its packed weights. `__call__` is not to be called by two threads at once."""

    def __init__(self, decoder: Decoder, kind: Kind, threads: int) -> None:
        native = library()
        assert native is not None  # why_not was asked
        self._native = native
        self._kind = kind
        self._threads = threads
        self._decoder = decoder
        self._recorded = record(decoder)
        self._alive: list[Any] = []  # what C points to
        self._room = _Room()
        self._head = self._packed(decoder.weights.head_VH)
        self._code = (_Instruction * len(self._recorded.code))(*map(self._instruction, self._recorded.code))
        self._program: int | None = None
        self._page_size = 0

    def __del__(self) -> None:
        if getattr(self, "_program", None):
            self._native.plural_program_free(self._program)

    def _packed(self, w_OI: Tensor) -> _Weight:
        outputs, inputs = w_OI.shape
        data = self._room.take(self._native.plural_weight_bytes(self._kind, inputs, outputs))
        stride_out, stride_in = w_OI.stride()
        self._native.plural_pack(self._kind, w_OI.data_ptr(), inputs, outputs, stride_in, stride_out, data)
        weight = _Weight(data, self._kind, inputs, outputs)
        self._alive.append(weight)
        return weight

    def _instruction(self, one: Any) -> _Instruction:
        made = _Instruction(one.op, one.to.buffer, layer=one.layer, module=one.module, modules=one.modules)
        made.a, made.b = (value.buffer if value is not None else -1 for value in (one.a, one.b))
        if one.op is Op.LINEAR:
            made.first = ctypes.addressof(self._packed(one.first))
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
            vocab=config.vocab_size,
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
        kv: KVPages,
        spans: Sequence[Span],
        segments: Sequence[Segment],
    ) -> tuple[Tensor, Tensor]:
        if self._program is None:
            self._program = self._start(kv.page_size)
        assert kv.page_size == self._page_size  # an engine has one pool
        config = self._decoder.config
        states_TH = torch.empty((len(ids), config.hidden_size))
        logits_RV = torch.empty((len(wanted), config.vocab_size))
        ids_T, positions_T, wanted_R = (np.array(each, np.int64) for each in (ids, positions, wanted))
        pages = np.array([page for span in spans for page in span.pages], np.int32)
        starts = np.cumsum([0, *(len(span.pages) for span in spans[:-1])])
        spans_S4 = np.array([(s.start, s.stop, s.length, at) for s, at in zip(spans, starts, strict=True)], np.int32)
        worn = (_Segment * len(segments))(
            *(_Segment(s.start, s.stop, s.scale, 0, ctypes.addressof(s.packed.modules)) for s in segments)
        )
        keys, values = ((c_void_p * len(pool))(*(t.data_ptr() for t in pool)) for pool in (kv.keys, kv.values))
        step = _Step(
            rows=len(ids),
            spans_count=len(spans),
            segments_count=len(segments),
            wanted_count=len(wanted),
            pages_held=kv.keys[0].shape[1],
            ids=ids_T.ctypes.data,
            positions=positions_T.ctypes.data,
            wanted=wanted_R.ctypes.data,
            spans=spans_S4.ctypes.data,
            pages=pages.ctypes.data,
            segments=ctypes.addressof(worn),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            states=states_TH.data_ptr(),
            logits=logits_RV.data_ptr(),
        )
        if self._native.plural_program_run(self._program, step):
            raise MachineError(f"There is no memory for a step of {len(ids)} tokens.", hint="Lower step_tokens.")
        return states_TH, logits_RV

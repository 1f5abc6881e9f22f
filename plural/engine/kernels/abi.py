"""The C interface of the native kernels (native/plural_kernels.h), as Python sees it.

The library is compiled when Plural is installed (hatch_build.py).
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

LIBRARY = Path(__file__).with_name("_native.so")
ABI = 4
PANEL = 16  # outputs that are packed together
BLOCK = 32  # inputs that share a scale and a minimum


class Weight(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("kind", c_int32), ("inputs", c_int32), ("outputs", c_int32), ("unused", c_int32)]


class Instruction(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("op", "to", "a", "b", "layer", "module", "modules", "unused")),
        ("first", c_void_p),
        ("second", c_void_p),
    ]


class Shape(ctypes.Structure):
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


class Module(ctypes.Structure):
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


class Segment(ctypes.Structure):
    _fields_ = [("start", c_int32), ("stop", c_int32), ("scale", c_float), ("unused", c_int32), ("modules", c_void_p)]


class Step(ctypes.Structure):
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
        *(POINTER(Weight), POINTER(Shape), c_int32),
    ]
    loaded.plural_program_free.restype = None
    loaded.plural_program_free.argtypes = [c_void_p]
    loaded.plural_program_run.restype = c_int32
    loaded.plural_program_run.argtypes = [c_void_p, POINTER(Step)]
    return loaded


def instruction_set() -> str | None:
    """The instruction set that the native kernels use here; None where there are no native kernels."""
    found = library()
    return found.plural_isa().decode() if found else None

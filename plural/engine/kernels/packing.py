"""The linears of a decoder in the forms that the native kernels multiply, packed once and kept for the next start."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from plural.engine.kernels.abi import ABI, PANEL, library
from plural.errors import SettingsError

_log = logging.getLogger(__name__)


class Kind(IntEnum):
    """How weights are held: as numbers (FP32, BF16), or as codes of 256 (INT8) or 16 levels (Q4), every 32 inputs of an
    output with a scale and a minimum of their own, which are multiplied by inputs in 8 bits.

    A block that was quantised to no more levels before, by a GGUF's Q8_0 or Q4_1 say, keeps its codes and its scale.
    """

    FP32 = 0
    INT8 = 1
    BF16 = 2
    Q4 = 3


CODED = (Kind.INT8, Kind.Q4)


@dataclass(frozen=True)
class Held:
    """How one linear is held. `exact`: its weights are, to the bit, those of the base."""

    kind: Kind
    exact: bool


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


@dataclass(frozen=True)
class PackedLinear:
    """`size` bytes at the address `data`."""

    data: int
    size: int
    inputs: int
    outputs: int
    held: Held

    def bytes_B(self) -> Tensor:  # noqa: N802
        """The packed bytes themselves, not a copy."""
        return torch.from_numpy(np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.data)))


class PackedLinears(Mapping[str, PackedLinear]):
    """All linears by name. What they point to lives as long as this."""

    def __init__(self) -> None:
        self._room = _Room()
        self._linears: dict[str, PackedLinear] = {}

    def __getitem__(self, name: str) -> PackedLinear:
        return self._linears[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._linears)

    def __len__(self) -> int:
        return len(self._linears)

    @classmethod
    def of(cls, linears: Mapping[str, Tensor], kind: Kind | None, threads: int) -> PackedLinears:
        """Packs w_OI by name. Without a `kind`, in the smallest one that rounds no weight.

        Q4 holds what it can as it is, and the others, like a head in Q8_0, as INT8. Raises SettingsError when it could
        hold none.
        """
        if kind is None:
            for each in (Kind.Q4, Kind.BF16):
                with contextlib.suppress(_RoundedError):
                    return cls._packed(linears, each, threads, exactly=True)
            kind = Kind.FP32
        made = cls._packed(linears, kind, threads, exactly=False)
        if kind is Kind.Q4 and all(linear.held.kind is not Kind.Q4 for linear in made.values()):
            raise SettingsError(
                "dtype q4 keeps 4-bit blocks as the base's file has them, and this base has none.",
                hint="Use int8, or a GGUF in Q4_1 or Q4_0.",
            )
        return made

    @classmethod
    def _packed(cls, linears: Mapping[str, Tensor], kind: Kind, threads: int, *, exactly: bool) -> PackedLinears:
        made = cls()
        with ThreadPoolExecutor(threads) as packers:
            for name, w_OI in linears.items():
                linear = made._pack(w_OI, kind, packers, threads)
                if exactly and not linear.held.exact:
                    raise _RoundedError(name)
                made._linears[name] = linear
        return made

    def _pack(self, w_OI: Tensor, kind: Kind, packers: ThreadPoolExecutor, threads: int) -> PackedLinear:
        """Each thread packs some of the panels of outputs."""
        native = library()
        assert native is not None  # who packs has kernels
        outputs, inputs = w_OI.shape
        own = -(-outputs // (PANEL * threads)) * PANEL
        size = int(native.plural_weight_bytes(kind, inputs, outputs))
        to = self._room.take(size)

        def pack(first: int) -> int:
            part_OI = w_OI[first : first + own]
            at = to + native.plural_weight_bytes(kind, inputs, first)
            stride_out, stride_in = part_OI.stride()
            return int(native.plural_pack(kind, part_OI.data_ptr(), inputs, len(part_OI), stride_in, stride_out, at))

        lossy = sum(packers.map(pack, range(0, outputs, own)))
        if kind is Kind.Q4 and lossy:
            self._room.give_back(to)
            return self._pack(w_OI, Kind.INT8, packers, threads)
        return PackedLinear(to, size, inputs, outputs, Held(kind, exact=not lossy))

    # ------------------------------------------------------------------------------------------------ the next start
    def store(self, path: Path) -> None:
        """Writes them for `load`, whole or not at all. A disk that refuses costs the next start its packing."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        held = {name: [int(linear.held.kind), linear.held.exact] for name, linear in self.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            packed = {name: linear.bytes_B() for name, linear in self.items()}
            safetensors.torch.save_file(packed, partial, {"abi": str(ABI), "held": json.dumps(held)})
            partial.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            _log.warning("the packed weights are not kept for the next start: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink()

    @classmethod
    def load(cls, path: Path, linears: Mapping[str, Tensor]) -> PackedLinears | None:
        """What `store` wrote of linears of these names and shapes; None where there is no such thing."""
        native = library()
        assert native is not None
        made = cls()
        try:
            with safetensors.safe_open(path, "pt") as file:
                said = file.metadata() or {}
                held = json.loads(said["held"])
                if said["abi"] != str(ABI) or held.keys() != linears.keys():
                    return None
                for name, w_OI in linears.items():
                    outputs, inputs = w_OI.shape
                    kind, exact = held[name]
                    packed_B = file.get_tensor(name)
                    size = int(native.plural_weight_bytes(kind, inputs, outputs))
                    if packed_B.dtype != torch.uint8 or packed_B.shape != (size,):
                        return None
                    at = made._room.take(size)
                    ctypes.memmove(at, packed_B.data_ptr(), size)
                    made._linears[name] = PackedLinear(at, size, inputs, outputs, Held(Kind(kind), exact))
        except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError):
            return None
        return made

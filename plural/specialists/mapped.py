"""A file of tensors (safetensors) that is mapped, not read: nothing of it is copied until somebody copies it."""

from __future__ import annotations

import json
import math
import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from plural.errors import SpecialistError
from plural.specialists.adapter import Array

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_AT_ONCE = 1 << 16  # of its numbers that are looked at: larger temporary arrays are new pages of memory every time


class _Entry(NamedTuple):
    """Where a tensor lies, in bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class MappedTensors:
    """`content` is the file's bytes. A file that is replaced by another of its name stays as it is here; one that is
    written to does not, which `check` finds out. Raises OSError, and SpecialistError for what is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._was = self._stamp()
        if not self._was[0]:
            raise self._damaged("it is empty")
        self.content = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)  # torch wants memory that may be written to

    def check(self) -> None:
        """To be called after a look at the tensors: raises SpecialistError when the file was written to since it was
        opened, and gives back the memory that the look took. The next one finds them as before."""
        if self._stamp() != self._was:
            raise SpecialistError(
                f"{self._path} was changed while it was read.", hint="Replace a file, do not edit it."
            )
        self.content.madvise(mmap.MADV_DONTNEED)

    def tensors(self) -> dict[str, Array]:
        """Views of the file by name; bfloat16 as fp32, which is a copy. Raises SpecialistError for a file that is
        damaged, other types, and NaN or infinity."""
        entries = self._entries()
        arrays = {name: self._array(entry) for name, entry in entries.items()}
        if not self._known_finite(entries):
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise SpecialistError(
                        f"{self._path}: {name} holds NaN or infinity.",
                        hint="The training diverged or the file is damaged.",
                    )
        return arrays

    # ------------------------------------------------------------------------------------------------------ inside
    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _damaged(self, what: str) -> SpecialistError:
        return SpecialistError(f"{self._path} is damaged or cut off: {what}.", hint="Fetch or train it again.")

    def _entries(self) -> dict[str, _Entry]:
        """What the header says, which must be of all bytes that follow it, one tensor after another."""
        begin = 8 + int.from_bytes(self.content[:8], "little")
        if begin > len(self.content):
            raise self._damaged(f"its header ends at {begin}, the file at {len(self.content)}")
        try:
            header = json.loads(self.content[8:begin])
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is no JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is no object")
        found = {name: self._entry(name, said, begin) for name, said in header.items() if name != "__metadata__"}
        end = begin
        for name, entry in sorted(found.items(), key=lambda one: one[1][2:]):
            if entry.start != end:
                raise self._damaged(f"{name} begins at {entry.start}, and {end} comes next")
            end = entry.stop
        if end != len(self.content):
            raise self._damaged(f"its tensors end at {end}, the file at {len(self.content)}")
        return found

    def _entry(self, name: str, said: object, begin: int) -> _Entry:
        fields: Mapping[str, Any] = said if isinstance(said, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            raise self._damaged(f"{name} is said to be {said!s:.80}")
        if dtype not in _DTYPES:
            raise SpecialistError(f"{self._path}: {name} is stored as {dtype}.", hint="Supported: F32, F16, BF16.")
        start, stop = offsets
        if stop - start != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
            raise self._damaged(f"{name} has {stop - start} bytes, and is {dtype} of shape {shape}")
        return _Entry(dtype, tuple(shape), begin + start, begin + stop)

    def _array(self, entry: _Entry) -> Array:
        there: Any = np.ndarray(entry.shape, _DTYPES[entry.dtype], self.content, entry.start)
        if entry.dtype == "BF16":  # the upper half of an fp32
            there = (there.astype(np.uint32) << 16).view(np.float32)
        return there  # type: ignore[no-any-return]

    def _known_finite(self, entries: Mapping[str, _Entry]) -> bool:
        """Of a file of half floats alone, from its bits, many at once: an exponent of all ones is NaN or infinity."""
        if not entries or any(entry.dtype != "F16" for entry in entries.values()):
            return False
        begin = min(entry.start for entry in entries.values())
        bits = np.ndarray(((len(self.content) - begin) // 2,), "<u2", self.content, begin)
        parts = (bits[at : at + _AT_ONCE] for at in range(0, len(bits), _AT_ONCE))
        return all((part & 0x7C00).max() < 0x7C00 for part in parts)


def _are_sizes(said: Any) -> TypeGuard[list[int]]:
    return isinstance(said, list) and all(type(each) is int and each >= 0 for each in said)

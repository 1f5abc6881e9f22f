"""The one block of memory that an engine works in, cut into pages, after S-LoRA's unified paging (arXiv 2311.03285).

A page holds the keys and values of `page_size` tokens in all layers, or a piece of an adapter. Whose it is, the page
pool knows; this is only the memory.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plural.errors import PoolError
from plural.models.config import DecoderConfig

# What lies in a page begins at a multiple of this: a cache line, and what torch's products want for speed.
ALIGN = 64
_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.int64: np.int64}  # bfloat16 it has not


def page_bytes(config: DecoderConfig, page_size: int, dtype: torch.dtype) -> int:
    """Keys and values of `page_size` tokens in all layers."""
    return page_size * config.num_layers * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize


def row_bytes(config: DecoderConfig) -> int:
    """What a step takes for each of its tokens: logits, and what its layers write for the next ones. All fp32."""
    return 4 * (config.vocab_size + 4 * (config.hidden_size + config.intermediate_size))


def held_bytes(device: torch.device) -> int:
    """What this process holds on the device now; on a CPU its resident set, or the largest that it was where the system
    does not tell more."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Pages:
    """`count` pages, numbered from 1, and page 0, which is all zeros and nobody's. A page is zeros when it is new.

    `kv` shows them as keys and values, (pages, layers, 2, KV heads, ...) in the kernels' own layout.
    """

    def __init__(
        self, config: DecoderConfig, count: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_size = page_size
        self.page_bytes = page_bytes(config, page_size, dtype)
        size = (count + 1) * self.page_bytes
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] | None = None  # the same memory, where NumPy reaches it
        if device.type == "cpu":
            memory = np.zeros(size + ALIGN, np.uint8)  # Linux gives it when a page is first written
            start = -memory.ctypes.data % ALIGN
            self._bytes = memory[start : start + size]
            whole = torch.from_numpy(self._bytes)
        else:
            whole = torch.zeros(size, dtype=torch.uint8, device=device)
        self.memory = whole.view(count + 1, self.page_bytes)
        self._start = self.memory.data_ptr()
        shape = (count + 1, config.num_layers, 2, config.num_kv_heads, page_size, config.head_dim)
        self.kv = whole.view(dtype).view(shape)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies page to page, for each (from, to)."""
        for source, target in pairs:
            self.memory[target].copy_(self.memory[source])

    def clear(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.memory[page].zero_()

    def view(self, page: int, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor that lies in a page from byte `start` on."""
        size = math.prod(shape) * dtype.itemsize
        return self.memory[page, start : start + size].view(dtype).view(*shape)

    def address(self, page: int, start: int) -> int:
        """Of byte `start` of a page."""
        return self._start + page * self.page_bytes + start

    def locate(self, address: int) -> tuple[int, int]:
        """The page, and which byte of it. The other way round than `address`."""
        return divmod(address - self._start, self.page_bytes)

    def write(self, page: int, start: int, piece: Piece) -> None:
        """Copies an array into a page, from byte `start` on."""
        array, kind = piece.array, _NUMPY.get(piece.dtype)
        if self._bytes is None or kind is None:
            self.view(page, start, array.shape, piece.dtype).copy_(torch.from_numpy(np.array(array)))
            return
        at = page * self.page_bytes + start
        there = self._bytes[at : at + piece.bytes].view(kind).reshape(array.shape)
        np.copyto(there, array, casting="same_kind")  # on this thread alone


class KeptPages:
    """What lay in some pages, in a file without a name: the memory that the process may hold has no room for it.

    Raises OSError when the disk has none, either.
    """

    def __init__(self, memory: Pages, pages: Sequence[int]) -> None:
        self.pages = tuple(pages)
        self._memory = memory
        self._file = tempfile.TemporaryFile(prefix="plural-")  # noqa: SIM115 - closed with the last reference to this
        weakref.finalize(self, self._file.close)
        for page in pages:
            self._file.write(memory.memory[page].cpu().numpy().data)

    def lay(self, pages: Sequence[int]) -> dict[int, int]:
        """Copies it into as many pages, and says where each one went."""
        line = np.empty(self._memory.page_bytes, np.uint8)
        self._file.seek(0)
        for page in pages:
            there = self._memory.memory[page]
            if there.device.type == "cpu":
                self._file.readinto(there.numpy().data)
            else:
                self._file.readinto(line.data)
                there.copy_(torch.from_numpy(line))
        return dict(zip(self.pages, pages, strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """An array, and the type it has in a page."""

    array: np.ndarray[Any, Any]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.array.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Parcel:
    """An adapter that is ready to be laid into `pages` pages: its pieces, each with its (page of these, byte in it).

    `handle` is the kernels' own note of which piece is what. The pieces may lie in a file: `check` raises when they are
    no longer what was read.
    """

    pieces: tuple[Piece, ...]
    places: tuple[tuple[int, int], ...]
    pages: int
    handle: Any
    check: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, pieces: Sequence[Piece], page_bytes: int, handle: Any) -> Parcel:
        """One piece lies after another, none in two pages. Each must fit in one."""
        places: list[tuple[int, int]] = []
        page = at = 0
        for piece in pieces:
            assert piece.bytes <= page_bytes
            if at + piece.bytes > page_bytes:
                page, at = page + 1, 0
            places.append((page, at))
            at = -(-(at + piece.bytes) // ALIGN) * ALIGN
        return cls(tuple(pieces), tuple(places), page + 1, handle)

    def lay(self, memory: Pages, pages: Sequence[int]) -> list[tuple[int, int]]:
        """Copies the pieces into `pages`, and says where each begins: its page and the byte in it."""
        laid = [(pages[page], start) for page, start in self.places]
        for piece, where in zip(self.pieces, laid, strict=True):
            memory.write(*where, piece)
        return laid


def ranks_in_a_page(page_bytes: int, rank_bytes: int, step: int = 1) -> int:
    """How many ranks of an array, a multiple of `step`, fit in a page. Raises PoolError if not one does."""
    ranks = page_bytes // rank_bytes // step * step
    if not ranks:
        raise PoolError(
            f"One rank of an adapter takes {rank_bytes} bytes, a page has {page_bytes}.", hint="Raise page_size."
        )
    return ranks

"""What a step is made of, as one buffer of integers: made on the host, copied to the device in one piece.

Its sections have room for more than the step has. Rows that it has not are padding: they lie on no page and in no tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plural.engine.kernels.interface import Segment, Span

# Sections begin at multiples of so many numbers: Triton compiles a kernel anew for pointers of another alignment.
ALIGN = 16
# Rows of one LoRA tile.
LORA_ROWS = 16
# Rows times query heads of one attention tile: of steps in which every sequence has one row, and of others.
NARROW, WIDE = 16, 32


def roomy(count: int, least: int = 1) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ..., `least` at least."""
    power = 1 << (max(count, least) - 1).bit_length()
    return power * 3 // 4 if power >= 4 and max(count, least) <= power * 3 // 4 else power


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a frame has room for. Steps of equal sizes are one launch after another of equal grids: one captured graph.

    `low` is the columns of the low-rank states, 0 where nobody wears an adapter, `heads` the NARROW or WIDE of its
    attention tiles.
    """

    rows: int
    lora_tiles: int
    parts: int
    low: int
    tables: int
    heads: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Attention and LoRA tiles of a step, its parts, and the page tables that they point into: see triton_ops."""

    attention: list[tuple[int, int, int, int]]
    lora: list[tuple[int, int, int, int]]
    parts: list[tuple[int, int, int, int]]
    low: int
    tables: list[int]
    heads: int


def cut(spans: Sequence[Span], segments: Sequence[Segment], group: int) -> Tiles:
    """`group` query heads share a KV head."""
    heads = NARROW if all(span.stop - span.start == 1 for span in spans) else WIDE
    per_tile = max(heads, group) // group
    attention: list[tuple[int, int, int, int]] = []
    tables: list[int] = []
    for span in spans:
        for start in range(span.start, span.stop, per_tile):
            stop = min(start + per_tile, span.stop)
            attention.append((start, stop - start, span.length - (span.stop - stop), len(tables)))
        tables += span.pages
    lora: list[tuple[int, int, int, int]] = []
    parts: list[tuple[int, int, int, int]] = []
    low = 0
    for start, stop, worn in _dressed(segments):
        first, column = len(parts), 0
        for segment in worn:
            bits = int(np.float32(segment.scale).view(np.int32))
            for table, room in segment.packed.tables:
                parts.append((table, bits, column, room))
                column += 3 * room
        low = max(low, column)
        tiles = range(start, stop, LORA_ROWS)
        lora += ((row, min(LORA_ROWS, stop - row), first, len(parts)) for row in tiles)
    return Tiles(attention, lora, parts, low, tables, heads)


def _dressed(segments: Sequence[Segment]) -> list[tuple[int, int, list[Segment]]]:
    """Rows (start, stop) that all wear the same segments, and these in their order."""
    begin: dict[int, list[int]] = {}
    end: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        if segment.start < segment.stop:
            begin.setdefault(segment.start, []).append(number)
            end.setdefault(segment.stop, []).append(number)
    found: list[tuple[int, int, list[Segment]]] = []
    active: set[int] = set()
    before = 0
    for row in sorted(begin.keys() | end.keys()):
        if active:
            found.append((before, row, [segments[number] for number in sorted(active)]))
        active.difference_update(end.get(row, ()))
        active.update(begin.get(row, ()))
        before = row
    return found


def sizes(rows: int, tiles: Tiles) -> Sizes:
    """Few different ones, so that what was captured is met again."""
    room = roomy(rows)
    if not tiles.low:
        return Sizes(room, 0, 0, 0, roomy(len(tiles.tables), 64 * min(room, 64)), tiles.heads)
    lora = room if room <= 64 else roomy(len(tiles.lora), 64)
    low = 1 << (max(tiles.low, 64) - 1).bit_length()
    return Sizes(
        room, lora, roomy(len(tiles.parts), lora), low, roomy(len(tiles.tables), 64 * min(room, 64)), tiles.heads
    )


class Frame:
    """One buffer on the host and one on the device, and its sections there: int32, named by what they hold.

    `wanted` has the rows whose logits are asked for; of it, as of `tables`, only the beginning is written.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes = sizes
        lengths = {
            "ids": sizes.rows,
            "positions": sizes.rows,
            "pages": sizes.rows,
            "wanted": sizes.rows,
            "attention": sizes.rows * 4,
            "lora": sizes.lora_tiles * 4,
            "parts": sizes.parts * 4,
            "tables": sizes.tables,
        }
        lengths = {name: -(-length // ALIGN) * ALIGN for name, length in lengths.items()}
        total = sum(lengths.values())
        self._host = torch.zeros(total, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = torch.zeros(total, dtype=torch.int32, device=device)
        self._written: dict[str, np.ndarray] = {}
        self._sections: dict[str, Tensor] = {}
        at = 0
        for name, length in lengths.items():
            self._written[name] = self._host[at : at + length].numpy()
            self._sections[name] = self._device[at : at + length]
            at += length

    def __getitem__(self, name: str) -> Tensor:
        return self._sections[name]

    def fill(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        spans: Sequence[Span],
        tiles: Tiles,
        page_size: int,
    ) -> None:
        """The copy is asynchronous: the next `fill` must wait for what the step computed."""
        pages = [page for s in spans for page in _pages(s, page_size)]
        for name, values in (("ids", ids), ("positions", positions)):
            self._put(name, values, 0)
        self._put("pages", pages, -1)
        self._put("wanted", wanted, 0)
        for name, fours in (("attention", tiles.attention), ("lora", tiles.lora), ("parts", tiles.parts)):
            self._put(name, np.array(fours, np.int32).ravel(), 0)
        used = len(tiles.tables)
        self._written["tables"][:used] = tiles.tables
        end = len(self._host) - len(self._written["tables"]) + used
        self._device[:end].copy_(self._host[:end], non_blocking=True)

    def _put(self, name: str, values: Sequence[int] | np.ndarray, padding: int) -> None:
        section = self._written[name]
        section[: len(values)] = values
        section[len(values) :] = padding


def _pages(span: Span, page_size: int) -> list[int]:
    """Of each row of the span, its page."""
    first = span.length - (span.stop - span.start)
    if first + 1 == span.length:
        return [span.pages[first // page_size]]
    return [span.pages[position // page_size] for position in range(first, span.length)]

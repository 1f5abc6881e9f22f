"""Runs one batch through the decoder. Holds the pages' memory; knows nothing of requests' lives."""

from __future__ import annotations

from collections.abc import Callable

from plural.engine.batch import Batch
from plural.engine.kernels.interface import Forward, Packed, Result, Segment
from plural.engine.kernels.pages import Pages


class Runner:
    """`packed` are the adapters that can be worn, by digest."""

    def __init__(self, forward: Forward, memory: Pages, packed: Callable[[str], Packed]) -> None:
        self.forward = forward
        self.memory = memory
        self.packed = packed

    def run(self, batch: Batch) -> Result:
        segments = [Segment(start, stop, self.packed(ref.digest), ref.scale) for ref, start, stop in batch.worn]
        rows = [wanted.row for wanted in batch.wanted]
        return self.forward(batch.ids, batch.positions, rows, self.memory, batch.spans, segments)

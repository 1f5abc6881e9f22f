"""Runs one batch through the decoder. Holds the pages' memory; knows nothing of requests' lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from plural.engine.batch import Batch
from plural.engine.kernels.interface import Forward, Packed, Segment
from plural.engine.kernels.pages import Pages


@dataclass(frozen=True, slots=True)
class Result:
    """`logits_RV` has one fp32 row for each wanted row of the batch, in order; `states_TH` all rows' final states."""

    logits_RV: Tensor
    states_TH: Tensor


class Runner:
    """`packed` are the adapters that can be worn, by digest."""

    def __init__(self, forward: Forward, memory: Pages, packed: Callable[[str], Packed]) -> None:
        self.forward = forward
        self.memory = memory
        self.packed = packed

    def run(self, batch: Batch) -> Result:
        segments = [Segment(start, stop, self.packed(ref.digest), ref.scale) for ref, start, stop in batch.worn]
        rows = [wanted.row for wanted in batch.wanted]
        states_TH, logits_RV = self.forward(batch.ids, batch.positions, rows, self.memory, batch.spans, segments)
        return Result(logits_RV, states_TH)

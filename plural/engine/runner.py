"""Runs one batch through the decoder. Holds the KV pool; knows nothing of requests' lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from plural.engine.adapter_pool import AdapterPool
from plural.engine.batch import Batch
from plural.engine.kernels.interface import Kernels, Packed, Segment
from plural.engine.settings import EngineSettings
from plural.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Result:
    """`logits_RV` has one fp32 row for each wanted row of the batch, in order; `states_TH` all rows' final states."""

    logits_RV: Tensor
    states_TH: Tensor


class Runner:
    def __init__(
        self, decoder: Decoder, kernels: Kernels, adapters: AdapterPool[Packed], settings: EngineSettings
    ) -> None:
        self.forward = kernels.forward(decoder)
        self.kernels = kernels
        self.adapters = adapters
        self.kv = kernels.new_pages(
            decoder.config, settings.num_pages, settings.page_size, decoder.dtype, decoder.device
        )

    def run(self, batch: Batch) -> Result:
        segments = [Segment(start, stop, self.adapters[ref.digest], ref.scale) for ref, start, stop in batch.worn]
        rows = [wanted.row for wanted in batch.wanted]
        states_TH, logits_RV = self.forward(batch.ids, batch.positions, rows, self.kv, batch.spans, segments)
        return Result(logits_RV, states_TH)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.kernels.copy_pages(self.kv, pairs)

    def clear_pages(self, pages: Sequence[int]) -> None:
        self.kernels.clear_pages(self.kv, pages)

"""Runs one batch through the decoder. Holds the KV pool; knows nothing of requests' lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
        self.decoder = Decoder(decoder.config, decoder.weights, kernels)
        self.kernels = kernels
        self.adapters = adapters
        self.kv = kernels.new_pages(
            decoder.config, settings.num_pages, settings.page_size, decoder.dtype, decoder.device
        )

    def run(self, batch: Batch) -> Result:
        device = self.decoder.device
        segments = [Segment(start, stop, self.adapters[ref.digest], ref.scale) for ref, start, stop in batch.worn]
        attend, delta = self.kernels.bind(self.kv, batch.spans, segments)
        ids_T = torch.tensor(batch.ids, device=device)
        positions_T = torch.tensor(batch.positions, device=device)
        states_TH = self.decoder.hidden(ids_T, positions_T, attend, delta)
        rows_R = torch.tensor([wanted.row for wanted in batch.wanted], dtype=torch.long, device=device)
        if not batch.wanted:
            return Result(states_TH.new_empty((0, self.decoder.config.vocab_size), dtype=torch.float32), states_TH)
        return Result(self.decoder.logits(states_TH[rows_R]).float(), states_TH)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.kernels.copy_pages(self.kv, pairs)

    def clear_pages(self, pages: Sequence[int]) -> None:
        self.kernels.clear_pages(self.kv, pages)

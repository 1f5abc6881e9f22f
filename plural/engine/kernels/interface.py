"""What the engine asks of a machine: the decoder's arithmetic, paged attention, and LoRA for any mix of adapters.

Kernels promise that a row's result does not depend on the other rows of the call, on their number, or on how its
sequence was cut into steps: that is what makes a request's output its own. The native kernels keep it to the bit,
torch's up to the rounding of its attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from plural.engine.kernels.pages import Pages, Parcel
from plural.models.config import DecoderConfig
from plural.models.decoder import Decoder

# The kernels' own form of an adapter in pages: made by `place`, handed back in a Segment, looked into by nobody else.
Packed: TypeAlias = Any


class AdapterWeights(Protocol):
    """LoRA weights as data: `tensors[layer, module]` is (a_RI, b_OR), fp16 or fp32; modules may be absent, ranks
    differ."""

    @property
    def digest(self) -> str: ...

    @property
    def tensors(self) -> Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray]]: ...

    def scale_of(self, module: str, layer: int | None = None) -> float:
        """What b @ a is multiplied by: alpha / r, or what rsLoRA makes of them."""
        ...

    def check(self) -> None:
        """The tensors may lie in a file that is mapped: to be called after each look at them. Raises SpecialistError
        when it was written to meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Rows start..stop-1 of a step are the newest tokens of one sequence, which has `length` tokens with them.

    `pages` is its block table: token t lies in pages[t // page_size] at t % page_size.
    """

    start: int
    stop: int
    length: int
    pages: Sequence[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows start..stop-1 wear an adapter, its contribution multiplied by `scale`. Rows in no segment wear none, rows in
    several wear all of them, added in the segments' order."""

    start: int
    stop: int
    packed: Packed
    scale: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a step computed: the final states of all rows T, and fp32 logits of the wanted rows R over the vocabulary.

    `finite_T` says which states are finite. `totals_R` are the logarithms of the sums of the logits' exponentials (a
    log-probability is a logit less its row's total), NaN where a logit is not finite; `best_R` the likeliest tokens,
    the first of equals. Where the logits lie on another device, `best_logit_R` are those of the likeliest tokens, and
    `bring` copies the rows that are to be looked into.
    """

    states_TH: Tensor
    finite_T: Sequence[bool]
    logits_RV: Tensor
    totals_R: Sequence[float]
    best_R: Sequence[int]
    best_logit_R: Sequence[float] = ()
    _brought: dict[int, np.ndarray] = field(default_factory=dict)

    def bring(self, rows: Sequence[int]) -> None:
        """Copies these rows of logits to the host, all in one."""
        missing = [row for row in rows if row not in self._brought]
        if missing and self.logits_RV.device.type != "cpu":
            self._brought.update(zip(missing, self.logits_RV[missing].cpu().numpy(), strict=True))

    def logits(self, at: Sequence[tuple[int, int]]) -> list[float]:
        """The logits at (row, token), read in one."""
        if not at:
            return []
        rows, tokens = zip(*at, strict=True)
        found: list[float] = self.logits_RV[torch.tensor(rows), torch.tensor(tokens)].tolist()
        return found

    def on_host(self, row: int) -> np.ndarray:
        """A row of logits, for reading."""
        if self.logits_RV.device.type == "cpu":
            logits_V: np.ndarray = self.logits_RV[row].numpy()
            return logits_V
        self.bring([row])
        return self._brought[row]


class Forward(Protocol):
    """A decoder on these kernels."""

    def __call__(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        memory: Pages,
        spans: Sequence[Span],
        segments: Sequence[Segment],
    ) -> Result:
        """One step over flat rows, with logits of the `wanted` ones.

        `spans` are in the order of their rows, and every row is in one. Whatever lies in a span's pages must be finite:
        what is masked adds exactly zero.
        """
        ...


class Kernels(Protocol):
    """One machine's kernels."""

    def pack(self, config: DecoderConfig, weights: AdapterWeights, page_bytes: int, dtype: torch.dtype) -> Parcel:
        """An adapter made ready for pages of `page_bytes`. May be called from any thread.

        Raises NumericError on NaN or infinity, PoolError when not even one rank fits in a page.
        """
        ...

    def place(self, parcel: Parcel, memory: Pages, pages: Sequence[int]) -> Packed:
        """Copies a parcel into the adapter's pages. May be called from any thread, while steps run in other pages."""
        ...

    def moved(self, packed: Packed, memory: Pages, to: Mapping[int, int]) -> Packed:
        """The same adapter, whose pages' bytes were copied: `to` says of each page that it had into which one. May be
        called from any thread."""
        ...

    def forward(self, decoder: Decoder, vocabulary: int | None = None, kept: Path | None = None) -> Forward:
        """The decoder's forward pass. Called once for an engine: weights are brought into the kernels' form here.

        Logits are those of the first `vocabulary` tokens, where a base's head has more outputs than there are tokens.
        Kernels whose form takes time to make keep it in the file `kept` for the next start, and read it from there: the
        caller names it after all that the form depends on.
        """
        ...

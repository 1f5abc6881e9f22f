"""What the engine asks of a machine: the decoder's arithmetic, paged attention, and LoRA for any mix of adapters.

Kernels promise that a row's result does not depend on the other rows of the call, on their number, or on how its
sequence was cut into steps: that is what makes a request's output its own. The native kernels keep it to the bit,
torch's up to the rounding of its attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from plural.models.config import DecoderConfig
from plural.models.decoder import Decoder

# The kernels' own form of an adapter: made by `pack`, handed back in a Segment, looked into by nobody else.
Packed: TypeAlias = Any


class AdapterWeights(Protocol):
    """LoRA weights as data: `tensors[layer, module]` is (a_RI, b_OR) in fp32; modules may be absent, ranks differ."""

    @property
    def digest(self) -> str: ...

    @property
    def tensors(self) -> Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray]]: ...

    def scale_of(self, module: str, layer: int | None = None) -> float:
        """What b @ a is multiplied by: alpha / r, or what rsLoRA makes of them."""
        ...


@dataclass(frozen=True, slots=True)
class KVPages:
    """The pool: for every layer a tensor of keys and one of values, (KV heads, pages, ...) in the kernels' own layout.

    Page 0 is all zeros and nobody's. Whatever lies in a page is finite, so that what is masked adds exactly zero.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    page_size: int


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
    """Rows start..stop-1 wear one adapter, its contribution multiplied by `scale`. Rows in no segment wear none."""

    start: int
    stop: int
    packed: Packed
    scale: float


class Forward(Protocol):
    """A decoder on these kernels."""

    def __call__(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        kv: KVPages,
        spans: Sequence[Span],
        segments: Sequence[Segment],
    ) -> tuple[Tensor, Tensor]:
        """One step over flat rows T: the rows' final states_TH, and logits_RV in fp32 of the `wanted` rows R.

        `spans` and `segments` are in the order of their rows, and every row is in one span.
        """
        ...


class Kernels(Protocol):
    """One machine's kernels."""

    def new_pages(
        self, config: DecoderConfig, count: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVPages:
        """A pool of `count` pages and the null page, all zeros."""
        ...

    def copy_pages(self, kv: KVPages, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies page to page, for each (from, to)."""
        ...

    def clear_pages(self, kv: KVPages, pages: Sequence[int]) -> None:
        """Makes the pages zero."""
        ...

    def pack(self, config: DecoderConfig, weights: AdapterWeights, dtype: torch.dtype, device: torch.device) -> Packed:
        """An adapter in the form `bind` takes. Raises NumericError on NaN or infinity."""
        ...

    def forward(self, decoder: Decoder) -> Forward:
        """The decoder's forward pass. Called once for an engine: weights are brought into the kernels' form here."""
        ...

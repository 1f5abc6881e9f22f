"""Plain causal attention over whole sequences that lie packed in one row: for training and as the tests' reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from plural.errors import SettingsError


class PackedAttend:
    """The decoder's `Attend` for sequences of the given lengths, one after another in T. Holds nothing, so it has a
    gradient and can be used for every layer; memory for scores is that of the longest sequence alone.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths or min(lengths) < 1:
            raise SettingsError(f"lengths is {list(lengths)!r}; every packed sequence has at least 1 token.")
        self.lengths = list(lengths)

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """positions_T that belong to the packed row: every sequence counts from 0."""
        return torch.cat([torch.arange(length, device=device) for length in self.lengths])

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        del layer  # every layer attends alike
        shared = q_TND.shape[1] // k_TKD.shape[1]
        k_TND, v_TND = (x_TKD.repeat_interleave(shared, dim=1) for x_TKD in (k_TKD, v_TKD))
        rows = zip(*(x_TND.split(self.lengths) for x_TND in (q_TND, k_TND, v_TND)), strict=True)
        return torch.cat([self._one(*(x_SND.transpose(0, 1) for x_SND in row)).transpose(0, 1) for row in rows])

    def _one(self, q_NSD: Tensor, k_NSD: Tensor, v_NSD: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q_NSD[None], k_NSD[None], v_NSD[None], is_causal=True)[0]

"""The arithmetic of a decoder behind one small interface, and its plain torch form (the reference).

Weights of linears are output-major, `w_OI`, as files and transformers have them: the reference adds its terms in the
order in which transformers does, and kernels that want another layout make their own. What is not here (adding two
states) a decoder writes as tensor arithmetic, and an implementation that records instead of computing gives it values
that can do that.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from plural.models.config import DecoderConfig

Angles: TypeAlias = tuple[Tensor, Tensor]  # cos_TD, sin_TD


class Ops(Protocol):
    def embed(self, table_VH: Tensor, ids_T: Tensor) -> Tensor: ...

    def angles(self, cos_PD: Tensor, sin_PD: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Angles: ...

    def linear(self, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor: ...

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor: ...

    def heads(
        self, config: DecoderConfig, qkv_TO: Tensor, q_norm_D: Tensor | None, k_norm_D: Tensor | None, angles: Angles
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q_TND, k_TKD and v_TKD: split, normalised where the architecture does that, q and k rotated."""
        ...

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor: ...


class TorchOps:
    """Differentiable, any device and dtype."""

    def embed(self, table_VH: Tensor, ids_T: Tensor) -> Tensor:
        return table_VH[ids_T]

    def angles(self, cos_PD: Tensor, sin_PD: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Angles:
        return cos_PD[positions_T].to(dtype), sin_PD[positions_T].to(dtype)

    def linear(self, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        return F.linear(x_TI, w_OI, bias_O)

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x32 = x_TH.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x_TH.dtype) * weight_H

    def heads(
        self, config: DecoderConfig, qkv_TO: Tensor, q_norm_D: Tensor | None, k_norm_D: Tensor | None, angles: Angles
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = config
        split = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
        q_TND, k_TKD, v_TKD = (part.unflatten(1, (-1, c.head_dim)) for part in qkv_TO.split(split, dim=1))
        if q_norm_D is not None and k_norm_D is not None:
            q_TND = self.rms_norm(q_TND, q_norm_D, c.rms_eps)
            k_TKD = self.rms_norm(k_TKD, k_norm_D, c.rms_eps)
        return _rotated(q_TND, *angles), _rotated(k_TKD, *angles), v_TKD

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor:
        gate, up = gate_up_TI2.chunk(2, dim=-1)
        return F.silu(gate) * up


def _rotated(x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotates halves (the Hugging Face layout: dimension i pairs with i + D/2)."""
    first, second = x_TND.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return x_TND * cos_TD[:, None, :] + rotated * sin_TD[:, None, :]

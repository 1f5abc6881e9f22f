"""The arithmetic of a decoder behind one small interface, and its plain torch form (the reference).

Weights of linears are stored input-major, `w_IO`, so that a row of `x_TI @ w_IO` reads them in order.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Ops(Protocol):
    def linear(self, x_TI: Tensor, w_IO: Tensor, bias_O: Tensor | None = None) -> Tensor: ...

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor: ...

    def rope(self, x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor: ...

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor: ...


class TorchOps:
    """Differentiable, any device and dtype."""

    def linear(self, x_TI: Tensor, w_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
        return torch.mm(x_TI, w_IO) if bias_O is None else torch.addmm(bias_O, x_TI, w_IO)

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x32 = x_TH.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x_TH.dtype) * weight_H

    def rope(self, x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """Rotates halves (the Hugging Face layout: dimension i pairs with i + D/2)."""
        first, second = x_TND.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
        return x_TND * cos_TD[:, None, :] + rotated * sin_TD[:, None, :]

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor:
        gate, up = gate_up_TI2.chunk(2, dim=-1)
        return F.silu(gate) * up

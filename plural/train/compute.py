"""The arithmetic of training: what is saved for the backward pass is little, and frozen weights get no gradient.

In bf16 only the frozen linears are multiplied in bf16; the residual stream, norms, LoRA and the optimiser stay in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from plural.models.decoder import Decoder
from plural.models.ops import TorchOps

Compute = Literal["fp32", "bf16"]


def choose_compute(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Compute:
    """ "auto" is bf16 where the machine multiplies it faster: matrix tiles (AMX) on a CPU, tensor cores on a GPU."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _has_amx() else "fp32"


def _has_amx() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text()


def training_decoder(decoder: Decoder, compute: Compute) -> Decoder:
    """The same decoder with the operations of training and, in bf16, a bf16 copy of its linears."""
    weights = decoder.weights if compute == "fp32" else decoder.weights.map_linears(Tensor.bfloat16)
    return Decoder(decoder.config, weights, TrainOps())


class TrainOps(TorchOps):
    def linear(self, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        y_TO: Tensor = _FrozenLinear.apply(x_TI, w_OI)  # type: ignore[no-untyped-call]
        return y_TO if bias_O is None else y_TO + bias_O

    def rms_norm(self, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        return _RmsNorm.apply(x_TH, weight_H, eps)  # type: ignore[no-untyped-call, no-any-return]

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor:
        return _SiluMul.apply(gate_up_TI2)  # type: ignore[no-untyped-call, no-any-return]


class _FrozenLinear(torch.autograd.Function):
    """x @ w.T in the dtype of `w`, returned in the dtype of `x`. Saves nothing of the size of the tokens."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, w_OI: Tensor) -> Tensor:
        ctx.w_OI = w_OI
        return F.linear(x_TI.to(w_OI.dtype), w_OI).to(x_TI.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor, None]:
        w_OI: Tensor = ctx.w_OI
        return torch.mm(grad_TO.to(w_OI.dtype), w_OI).to(grad_TO.dtype), None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        scale_T1 = torch.rsqrt(x_TH.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x_TH, scale_T1)
        ctx.weight_H = weight_H
        return x_TH * scale_T1 * weight_H

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[Tensor, None, None]:
        x_TH, scale_T1 = ctx.saved_tensors
        inner_TH = grad_TH * ctx.weight_H
        # d/dx of x * s(x): s * (g - x * mean(g * x) * s^2).
        pull_T1 = (inner_TH * x_TH).mean(-1, keepdim=True) * scale_T1.pow(2)
        return inner_TH.addcmul_(x_TH, pull_T1, value=-1).mul_(scale_T1), None, None


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_TI2: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up_TI2)
        gate, up = gate_up_TI2.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TI: Tensor) -> Tensor:
        (gate_up_TI2,) = ctx.saved_tensors
        gate, up = gate_up_TI2.chunk(2, dim=-1)
        grad_TI2 = torch.empty_like(gate_up_TI2)
        grad_gate, grad_up = grad_TI2.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        torch.mul(gate, sigmoid, out=grad_up)
        # silu' = sigmoid + silu * (1 - sigmoid)
        sigmoid.addcmul_(grad_up, 1 - sigmoid)
        torch.mul(sigmoid, up, out=grad_gate)
        grad_gate.mul_(grad_TI)
        grad_up.mul_(grad_TI)
        return grad_TI2

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

from plural.models.config import DecoderConfig
from plural.models.decoder import Decoder
from plural.models.ops import Angles, TorchOps

Compute = Literal["fp32", "bf16"]
# Logits of so many tokens exist at once: 24 MB for a vocabulary of 49,152.
_HEAD_ROWS = 128


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

    def heads(
        self, config: DecoderConfig, qkv_TO: Tensor, q_norm_D: Tensor | None, k_norm_D: Tensor | None, angles: Angles
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = config
        split = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
        q_TND, k_TKD, v_TKD = (part.unflatten(1, (-1, c.head_dim)) for part in qkv_TO.split(split, dim=1))
        if q_norm_D is not None and k_norm_D is not None:
            q_TND = self.rms_norm(q_TND, q_norm_D, c.rms_eps)
            k_TKD = self.rms_norm(k_TKD, k_norm_D, c.rms_eps)
        cos_TD, sin_TD = angles
        return _rotate(q_TND, cos_TD, sin_TD), _rotate(k_TKD, cos_TD, sin_TD), v_TKD

    def silu_mul(self, gate_up_TI2: Tensor) -> Tensor:
        return _SiluMul.apply(gate_up_TI2)  # type: ignore[no-untyped-call, no-any-return]


def answer_losses(x_TH: Tensor, at_A: Tensor, head_VH: Tensor, following_A: Tensor) -> Tensor:
    """loss_A, in nats, of the tokens that follow the places `at_A`, each once.

    Logits exist for a few tokens at a time, and their gradient is worked out while they do.
    """
    return _AnswerLosses.apply(x_TH, at_A, head_VH, following_A)  # type: ignore[no-untyped-call, no-any-return]


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
        norm_T1 = torch.linalg.vector_norm(x_TH, dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TH.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TH, scale_T1)
        ctx.weight_H = weight_H
        y_TH: Tensor = (x_TH * scale_T1).mul_(weight_H)
        return y_TH

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


def _rotate(x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    return _Rotate.apply(x_TND, cos_TD, sin_TD)  # type: ignore[no-untyped-call, no-any-return]


class _Rotate(torch.autograd.Function):
    """Rotary positions: halves rotated by the angle, and the gradient back by it. Saves nothing but the angles."""

    @staticmethod
    def forward(ctx: Any, x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.cos_TD, ctx.sin_TD = cos_TD, sin_TD
        return _rotated(x_TND, cos_TD, sin_TD, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TND: Tensor) -> tuple[Tensor, None, None]:
        return _rotated(grad_TND, ctx.cos_TD, ctx.sin_TD, -1), None, None


def _rotated(x_TND: Tensor, cos_TD: Tensor, sin_TD: Tensor, way: int) -> Tensor:
    first, second = x_TND.chunk(2, dim=-1)
    out_TND = x_TND * cos_TD[:, None]
    out_first, out_second = out_TND.chunk(2, dim=-1)
    sin_T1D2 = sin_TD[:, None, : first.shape[-1]]  # both halves of the table are the same
    out_first.addcmul_(second, sin_T1D2, value=-way)
    out_second.addcmul_(first, sin_T1D2, value=way)
    return out_TND


class _AnswerLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, at_A: Tensor, head_VH: Tensor, following_A: Tensor) -> Tensor:
        loss_A = torch.empty(len(at_A), device=x_TH.device)
        grad_AH = torch.empty(len(at_A), x_TH.shape[1], device=x_TH.device) if ctx.needs_input_grad[0] else None
        for start in range(0, len(at_A), _HEAD_ROWS):
            part = slice(start, start + _HEAD_ROWS)
            x_BH = x_TH.index_select(0, at_A[part])
            log_BV = torch.log_softmax(F.linear(x_BH.to(head_VH.dtype), head_VH).float(), -1)
            following_B1 = following_A[part, None]
            loss_A[part] = -log_BV.gather(1, following_B1)[:, 0]
            if grad_AH is not None:
                grad_BV = log_BV.exp_()
                grad_BV.scatter_add_(1, following_B1, grad_BV.new_full(following_B1.shape, -1))
                grad_AH[part] = torch.mm(grad_BV.to(head_VH.dtype), head_VH).float()
        if grad_AH is not None:
            ctx.save_for_backward(grad_AH, at_A)
            ctx.tokens = len(x_TH)
        return loss_A

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_A: Tensor) -> tuple[Tensor | None, ...]:
        grad_AH, at_A = ctx.saved_tensors
        grad_TH = grad_AH.new_zeros(ctx.tokens, grad_AH.shape[1])
        return grad_TH.index_copy_(0, at_A, grad_AH * grad_A[:, None]), None, None, None

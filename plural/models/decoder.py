"""The one decoder: Llama, SmolLM2, Mistral, Qwen2/2.5 and Qwen3, for serving and for training.

Tokens of all sequences lie in one flat row T; what tells them apart (the cache, the adapters) is handed in:
`attend` owns keys and values, `delta` adds what adapters add. There is no prefill and no decode here, only tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from plural.models.config import GROUPS, DecoderConfig, Group
from plural.models.ops import Ops, TorchOps
from plural.models.rope import rope_table


class Attend(Protocol):
    """Causal attention of one layer over everything each token's sequence has read, this step's tokens included."""

    def __call__(self, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        """Returns out_TND; the scale 1/sqrt(D) is applied here."""
        ...


class Delta(Protocol):
    """LoRA of one fused group: returns `y_TO` with each row's adapter's contribution for `x_TI` added."""

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LayerWeights:
    """Linears are output-major (w_OI), as in the files, and fused by group; `None` where the architecture has none."""

    input_norm_H: Tensor
    qkv_OI: Tensor
    o_OI: Tensor
    post_norm_H: Tensor
    gate_up_OI: Tensor
    down_OI: Tensor
    qkv_bias_O: Tensor | None = None
    o_bias_O: Tensor | None = None
    gate_up_bias_O: Tensor | None = None
    down_bias_O: Tensor | None = None
    q_norm_D: Tensor | None = None
    k_norm_D: Tensor | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """`head_VH` is the output head; a tied head is the embedding itself."""

    embed_VH: Tensor
    layers: tuple[LayerWeights, ...]
    norm_H: Tensor
    head_VH: Tensor

    def map_linears(self, change: Callable[[Tensor], Tensor]) -> DecoderWeights:
        """Other linears, the head among them; the embedding stays, even where the head was tied to it."""
        names = [f"{group}_OI" for group in GROUPS]
        layers = tuple(
            replace(layer, **{name: change(getattr(layer, name)) for name in names}) for layer in self.layers
        )
        return replace(self, layers=layers, head_VH=change(self.head_VH))


class Decoder:
    """Frozen weights and how to run them. Holds no state between calls."""

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, ops: Ops | None = None) -> None:
        self.config = config
        self.weights = weights
        self.ops: Ops = ops or TorchOps()
        device = weights.embed_VH.device
        self.cos_PD, self.sin_PD = (t.to(device) for t in rope_table(config))

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.norm_H.dtype

    @property
    def device(self) -> torch.device:
        return self.weights.norm_H.device

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: Attend, delta: Delta | None = None) -> Tensor:
        """The last layer's states after the final norm, x_TH, for flat tokens with their positions."""
        ops, eps = self.ops, self.config.rms_eps
        angles = ops.angles(self.cos_PD, self.sin_PD, positions_T, self.dtype)
        x_TH = ops.embed(self.weights.embed_VH, ids_T)
        for i, w in enumerate(self.weights.layers):
            h_TH = ops.rms_norm(x_TH, w.input_norm_H, eps)
            qkv_TO = self._linear(i, "qkv", h_TH, w.qkv_OI, w.qkv_bias_O, delta)
            q_TND, k_TKD, v_TKD = ops.heads(self.config, qkv_TO, w.q_norm_D, w.k_norm_D, angles)
            mixed_TI = attend(i, q_TND, k_TKD, v_TKD).flatten(1)
            x_TH = x_TH + self._linear(i, "o", mixed_TI, w.o_OI, w.o_bias_O, delta)
            h_TH = ops.rms_norm(x_TH, w.post_norm_H, eps)
            gate_up_TO = self._linear(i, "gate_up", h_TH, w.gate_up_OI, w.gate_up_bias_O, delta)
            x_TH = x_TH + self._linear(i, "down", ops.silu_mul(gate_up_TO), w.down_OI, w.down_bias_O, delta)
        return ops.rms_norm(x_TH, self.weights.norm_H, eps)

    def logits(self, x_TH: Tensor) -> Tensor:
        """y_TV. Ask only for the rows that are needed: the head is a fifth of a small model's work."""
        return self.ops.linear(x_TH, self.weights.head_VH)

    def _linear(
        self, layer: int, group: Group, x_TI: Tensor, w_OI: Tensor, bias_O: Tensor | None, delta: Delta | None
    ) -> Tensor:
        y_TO = self.ops.linear(x_TI, w_OI, bias_O)
        return y_TO if delta is None else delta(layer, group, x_TI, y_TO)

"""The LoRA that is trained, as the decoder's `Delta`. The modules of a fused group share one product with x."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plural.models.config import GROUPS, DecoderConfig, Group
from plural.specialists import AdapterConfig, AdapterWeights


class _GroupLora:
    """One group of one layer: `a_SI` holds the A of its modules under each other, `b` a (slice, b_OR) for each."""

    def __init__(self, modules: tuple[str, ...], a_SI: Tensor, b: list[tuple[slice, Tensor]]) -> None:
        self.modules = modules
        self.a_SI = a_SI
        self.b = b


class Lora:
    """Weights in fp32 on the decoder's device, A drawn by the seed as PEFT draws it, B zero."""

    def __init__(self, config: DecoderConfig, adapter: AdapterConfig, *, seed: int, device: torch.device) -> None:
        self.adapter = adapter
        self.scale = adapter.scale_of(0, adapter.targets[0])
        self._groups: dict[tuple[int, Group], _GroupLora] = {}
        draw = torch.Generator().manual_seed(seed)
        rank = adapter.rank
        for layer in range(config.num_layers):
            for group, members in GROUPS.items():
                modules = tuple(module for module in members if module in adapter.targets)
                if not modules:
                    continue
                inputs = config.in_features(modules[0])
                bound = 1 / math.sqrt(inputs)
                a_SI = torch.empty(len(modules) * rank, inputs).uniform_(-bound, bound, generator=draw)
                slices = config.slices(group)
                self._groups[layer, group] = _GroupLora(
                    modules,
                    a_SI.to(device).requires_grad_(),
                    [
                        (
                            slices[module],
                            torch.zeros(config.out_features(module), rank, device=device, requires_grad=True),
                        )
                        for module in modules
                    ],
                )

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor, acts_T1: Tensor | None = None) -> Tensor:
        """`acts_T1` is 1 for the tokens it acts on and 0 for others; None means all."""
        held = self._groups.get((layer, group))
        if held is None:
            return y_TO
        slices, b = zip(*held.b, strict=True)
        return _AddLora.apply(x_TI, y_TO, acts_T1, held.a_SI, slices, self.scale, *b)  # type: ignore[no-untyped-call, no-any-return]

    def parameters(self) -> list[Tensor]:
        return [tensor for _, tensor in self.named()]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every trained tensor, in an order that does not change."""
        for (layer, group), held in self._groups.items():
            yield f"{layer}.{group}.a", held.a_SI
            for module, (_, b_OR) in zip(held.modules, held.b, strict=True):
                yield f"{layer}.{group}.{module}.b", b_OR

    def snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.named()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        for name, tensor in self.named():
            tensor.copy_(snapshot[name])

    def weights(self) -> AdapterWeights:
        """As they stand, without a digest: that comes with the files."""
        rank = self.adapter.rank
        tensors: dict[tuple[int, str], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        for (layer, _), held in self._groups.items():
            for i, (module, (_, b_OR)) in enumerate(zip(held.modules, held.b, strict=True)):
                a_RI = held.a_SI[i * rank : (i + 1) * rank]
                tensors[layer, module] = (_numpy(a_RI), _numpy(b_OR))
        return AdapterWeights("", self.adapter, tensors)

    @torch.no_grad()
    def load(self, weights: AdapterWeights) -> None:
        """Takes the values of an adapter of the same rank and targets, which is then trained further."""
        rank = self.adapter.rank
        for (layer, _), held in self._groups.items():
            for i, (module, (_, b_OR)) in enumerate(zip(held.modules, held.b, strict=True)):
                a, b = weights.tensors[layer, module]
                held.a_SI[i * rank : (i + 1) * rank].copy_(torch.from_numpy(a))
                b_OR.copy_(torch.from_numpy(b))


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy().copy()


class _AddLora(torch.autograd.Function):
    """y += scale * x @ A.T @ B.T for the modules of a group, in place: nobody else needs the y that goes in."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        y_TO: Tensor,
        acts_T1: Tensor | None,
        a_SI: Tensor,
        slices: tuple[slice, ...],
        scale: float,
        *b: Tensor,
    ) -> Tensor:
        h_TS = torch.mm(x_TI, a_SI.T)
        if acts_T1 is not None:
            h_TS *= acts_T1
        rank = a_SI.shape[0] // len(b)
        for i, (where, b_OR) in enumerate(zip(slices, b, strict=True)):
            y_TO[:, where].addmm_(h_TS[:, i * rank : (i + 1) * rank], b_OR.T, alpha=scale)
        ctx.mark_dirty(y_TO)
        ctx.save_for_backward(x_TI, h_TS, a_SI, *b)
        ctx.slices, ctx.scale, ctx.rank, ctx.acts_T1 = slices, scale, rank, acts_T1
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, h_TS, a_SI, *b = ctx.saved_tensors
        rank, scale = ctx.rank, ctx.scale
        grad_h_TS = torch.empty_like(h_TS)
        grad_b: list[Tensor] = []
        for i, (where, b_OR) in enumerate(zip(ctx.slices, b, strict=True)):
            part = slice(i * rank, (i + 1) * rank)
            grad_b.append(torch.mm(grad_TO[:, where].T, h_TS[:, part]).mul_(scale))
            grad_h_TS[:, part] = torch.mm(grad_TO[:, where], b_OR).mul_(scale)
        if ctx.acts_T1 is not None:
            grad_h_TS *= ctx.acts_T1
        grad_a_SI = torch.mm(grad_h_TS.T, x_TI)
        grad_x_TI = torch.mm(grad_h_TS, a_SI) if ctx.needs_input_grad[0] else None
        return grad_x_TI, grad_TO, None, grad_a_SI, None, None, *grad_b

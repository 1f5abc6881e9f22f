"""The LoRAs that are trained, as the decoder's `Delta`: each acts on its own segment of a pass's tokens.

A specialist's weights lie in one flat tensor and their gradient in another: its norm, its clipping and the optimiser's
step are one operation each, and the backward pass writes the gradient in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plural.models.config import GROUPS, DecoderConfig, Group
from plural.specialists import AdapterConfig, AdapterWeights


@dataclass(frozen=True)
class _Module:
    """B of one module, its gradient, and where its outputs lie in the group's."""

    name: str
    where: slice
    b_OR: Tensor
    grad_OR: Tensor

    def of(self, y_TO: Tensor) -> Tensor:
        return y_TO.narrow(1, self.where.start, self.where.stop - self.where.start)


@dataclass(frozen=True)
class _GroupLora:
    """One group of one layer: `a_SI` holds the A of its modules under each other, which share one product with x."""

    rank: int
    a_SI: Tensor
    grad_SI: Tensor
    modules: tuple[_Module, ...]


class Lora:
    """Weights in fp32 on the decoder's device, A drawn by the seed as PEFT draws it, B zero."""

    def __init__(self, config: DecoderConfig, adapter: AdapterConfig, *, seed: int, device: torch.device) -> None:
        self.adapter = adapter
        self.rank = adapter.rank
        self.scale = adapter.scale_of(0, adapter.targets[0])
        layout = _layout(config, adapter)
        size = sum(math.prod(shape) for group in layout for shape in group.shapes)
        self.flat = torch.nn.Parameter(torch.zeros(size, device=device))
        self.flat.grad = torch.zeros(size, device=device)
        self.stale = True  # the gradient is of an earlier step: the next pass writes it, those after add to it
        self.groups: dict[tuple[int, Group], _GroupLora] = {}
        draw = torch.Generator().manual_seed(seed)
        at = 0
        for one in layout:
            views: list[tuple[Tensor, Tensor]] = []
            for shape in one.shapes:
                part = slice(at, at + math.prod(shape))
                views.append((self.flat.detach()[part].view(shape), self.flat.grad[part].view(shape)))
                at = part.stop
            (a_SI, grad_SI), *rest = views
            bound = 1 / math.sqrt(a_SI.shape[1])
            a_SI.copy_(torch.empty(a_SI.shape).uniform_(-bound, bound, generator=draw))
            slices = config.slices(one.group)
            modules = [_Module(m, slices[m], *view) for m, view in zip(one.modules, rest, strict=True)]
            self.groups[one.layer, one.group] = _GroupLora(self.rank, a_SI, grad_SI, tuple(modules))

    @torch.no_grad()
    def set(self, flat: Tensor) -> None:
        self.flat.copy_(flat)

    def weights(self) -> AdapterWeights:
        """As they stand, without a digest: that comes with the files."""
        rank = self.rank
        tensors: dict[tuple[int, str], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        for (layer, _), held in self.groups.items():
            for i, module in enumerate(held.modules):
                a_RI = held.a_SI[i * rank : (i + 1) * rank]
                tensors[layer, module.name] = (_numpy(a_RI), _numpy(module.b_OR))
        return AdapterWeights("", self.adapter, tensors)

    def load(self, weights: AdapterWeights) -> None:
        """Takes the values of an adapter of the same rank and targets, which is then trained further."""
        rank = self.rank
        for (layer, _), held in self.groups.items():
            for i, module in enumerate(held.modules):
                a, b = weights.tensors[layer, module.name]
                held.a_SI[i * rank : (i + 1) * rank].copy_(torch.from_numpy(a))
                module.b_OR.copy_(torch.from_numpy(b))


@dataclass(frozen=True)
class _Layout:
    """The tensors of a group in the order in which they lie in the flat one: A, then every B."""

    layer: int
    group: Group
    modules: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]


def _layout(config: DecoderConfig, adapter: AdapterConfig) -> list[_Layout]:
    made: list[_Layout] = []
    for layer in range(config.num_layers):
        for group, members in GROUPS.items():
            modules = tuple(module for module in members if module in adapter.targets)
            if modules:
                a = (len(modules) * adapter.rank, config.in_features(modules[0]))
                bs = [(config.out_features(module), adapter.rank) for module in modules]
                made.append(_Layout(layer, group, modules, (a, *bs)))
    return made


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy().copy()


@dataclass(frozen=True, slots=True)
class _Acting:
    """A LoRA of one group and the number of the segment that it acts on."""

    held: _GroupLora
    segment: int
    scale: float
    stale: bool


class SegmentedDelta:
    """Adds to each segment of a pass's tokens, one of so many behind the other, what its LoRA makes of them."""

    def __init__(self, segments: Sequence[tuple[Lora, int]]) -> None:
        self._loras = [lora for lora, _ in segments]
        self._lengths = [length for _, length in segments]
        # The gradients are no outputs of the graph. This is what makes the first trained layer a part of it.
        self._anchor = torch.zeros(0, requires_grad=True)

    def __call__(self, layer: int, group: Group, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        acting = [
            _Acting(held, i, lora.scale, lora.stale)
            for i, lora in enumerate(self._loras)
            if (held := lora.groups.get((layer, group))) is not None
        ]
        if not acting:
            return y_TO
        return _AddLoras.apply(self._anchor, x_TI, y_TO, acting, self._lengths)  # type: ignore[no-untyped-call, no-any-return]


class _AddLoras(torch.autograd.Function):
    """y += scale * x @ A.T @ B.T for every segment, in place: nobody else needs the y that goes in.

    Views are taken by split and narrow, all at once or cheaply: with many small segments they are what takes the time.
    """

    @staticmethod
    def forward(
        ctx: Any, _anchor: Tensor, x_TI: Tensor, y_TO: Tensor, acting: list[_Acting], lengths: list[int]
    ) -> Tensor:
        hidden: list[Tensor] = []
        x_parts, y_parts = x_TI.split(lengths), y_TO.split(lengths)
        for one in acting:
            held, y_SO = one.held, y_parts[one.segment]
            h_TS = torch.mm(x_parts[one.segment], held.a_SI.T)
            for module, h_TR in zip(held.modules, h_TS.split(held.rank, 1), strict=True):
                module.of(y_SO).addmm_(h_TR, module.b_OR.T, alpha=one.scale)
            hidden.append(h_TS)
        ctx.mark_dirty(y_TO)
        ctx.save_for_backward(x_TI, *hidden)
        ctx.acting, ctx.lengths = acting, lengths
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, *hidden = ctx.saved_tensors
        _, wants_x, wants_y, *_ = ctx.needs_input_grad
        everywhere = len(ctx.acting) == len(ctx.lengths)
        grad_x_TI = (torch.empty_like if everywhere else torch.zeros_like)(x_TI) if wants_x else None
        x_parts, grad_parts = x_TI.split(ctx.lengths), grad_TO.split(ctx.lengths)
        grad_x_parts = () if grad_x_TI is None else grad_x_TI.split(ctx.lengths)
        for one, h_TS in zip(ctx.acting, hidden, strict=True):
            held, grad_SO, kept = one.held, grad_parts[one.segment], 0 if one.stale else 1
            grad_h_TS = torch.empty_like(h_TS)
            of_modules = zip(held.modules, h_TS.split(held.rank, 1), grad_h_TS.split(held.rank, 1), strict=True)
            for module, h_TR, grad_h_TR in of_modules:
                grad_TM = module.of(grad_SO)
                module.grad_OR.addmm_(grad_TM.T, h_TR, beta=kept, alpha=one.scale)
                torch.mm(grad_TM, module.b_OR, out=grad_h_TR)
            grad_h_TS.mul_(one.scale)
            held.grad_SI.addmm_(grad_h_TS.T, x_parts[one.segment], beta=kept)
            if grad_x_parts:
                torch.mm(grad_h_TS, held.a_SI, out=grad_x_parts[one.segment])
        return None, grad_x_TI, grad_TO if wants_y else None, None, None

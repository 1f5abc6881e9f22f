"""Several adapters, each at its scale, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plural.specialists.adapter import AdapterConfig, AdapterWeights


def combined(members: Sequence[tuple[AdapterWeights, float]]) -> AdapterWeights:
    """What all of them add up to: their A beneath each other and their B, times scale, beside each other. Its rank is
    the sum of theirs, and where one does not act its part is zero. It has no digest before it is written.
    """
    places = sorted({place for weights, _ in members for place in weights.tensors})
    rank = sum(_widest(weights) for weights, _ in members)
    tensors = {}
    for layer, module in places:
        a_RI, b_OR = next(w.tensors[layer, module] for w, _ in members if (layer, module) in w.tensors)
        down = np.zeros((rank, a_RI.shape[1]), np.float32)
        up = np.zeros((b_OR.shape[0], rank), np.float32)
        at = 0
        for weights, scale in members:
            if (layer, module) in weights.tensors:
                a, b = weights.tensors[layer, module]
                down[at : at + len(a)] = a
                up[:, at : at + len(a)] = b.astype(np.float32) * (scale * weights.config.scale_of(layer, module))
            at += _widest(weights)
        tensors[layer, module] = down, up
    # Every place by its layer: PEFT's short targets would promise weights in all layers.
    modules = {module for _, module in places}
    layers = {layer for layer, _ in places}
    whole = len(places) == len(modules) * len(layers) and layers == set(range(len(layers)))
    targets = modules if whole else {f"layers.{layer}.{_parent(module)}.{module}" for layer, module in places}
    return AdapterWeights("", AdapterConfig(rank, float(rank), tuple(sorted(targets))), tensors)


def _widest(weights: AdapterWeights) -> int:
    return max(len(a) for a, _ in weights.tensors.values())


def _parent(module: str) -> str:
    return "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"

"""Adapters for a base of two small layers, and what a training hands to the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plural.specialists import AdapterConfig, AdapterWeights, Card, adapter_digest, write_adapter

MODULES = {
    "q_proj": (16, 16),
    "k_proj": (16, 8),
    "v_proj": (16, 8),
    "o_proj": (16, 16),
    "gate_proj": (16, 24),
    "up_proj": (16, 24),
    "down_proj": (24, 16),
}
BASE = "sha256:" + "b" * 64


def random_weights(config: AdapterConfig, seed: int = 0) -> AdapterWeights:
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for module, (inputs, outputs) in MODULES.items():
            if config.covers(layer, module):
                rank = config.rank_of(layer, module)
                a_RI = draw.normal(size=(rank, inputs)).astype(np.float32)
                tensors[layer, module] = (a_RI, draw.normal(size=(outputs, rank)).astype(np.float32))
    return AdapterWeights("", config, tensors)


def make_staged(path: Path, *, seed: int = 0, name: str = "clerk", **card: object) -> Path:
    """What a training hands to the library: an adapter and its card."""
    write_adapter(path, random_weights(AdapterConfig(2, 4, ("v_proj",)), seed), base_name="tiny")
    fields = {
        "name": name,
        "digest": adapter_digest(path),
        "base": BASE,
        "base_name": "tiny",
        "purpose": "Files papers.",
    }
    (path / "specialist.json").write_text(Card.model_validate({**fields, **card}).to_json())
    return path

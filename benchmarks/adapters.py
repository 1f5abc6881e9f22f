"""Random adapters, alone in memory or as PEFT directories on disk: the benchmarks ask how fast, not how well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from plural.models.base import Base
from plural.models.config import MODULES, DecoderConfig
from plural.specialists.adapter import AdapterConfig, AdapterWeights
from plural.specialists.peft_files import read_adapter, write_adapter

RANK = 16


def random_adapter(config: DecoderConfig, seed: int, rank: int, spread: float = 0.01) -> AdapterWeights:
    """Every linear of every layer, at scale 1. The values are exact in fp16, so that a file holds the same adapter."""
    chance = np.random.default_rng(seed)

    def halves(rows: int, columns: int) -> np.ndarray:
        return (chance.standard_normal((rows, columns), np.float32) * spread).astype(np.float16).astype(np.float32)

    tensors = {
        (layer, module): (halves(rank, config.in_features(module)), halves(config.out_features(module), rank))
        for layer in range(config.num_layers)
        for module in MODULES
    }
    return AdapterWeights(f"random-{seed}", AdapterConfig(rank, float(rank), MODULES), tensors)


def write_adapters(base: Base, folder: Path, count: int, rank: int, spread: float) -> list[Path]:
    """`count` random adapters as PEFT directories under `folder`."""
    paths = [folder / f"adapter-{seed}" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_adapter(path, random_adapter(base.config, seed, rank, spread), base_name=base.name)
    return paths


class Shelf:
    """Adapters read from disk when they are asked for, `paths` again and again under the digests "0", "1", ...

    S-LoRA's benchmark does the same: thousands of adapters are copies of a few, and nothing can know it.
    """

    def __init__(self, base: Base, paths: list[Path]) -> None:
        self._shape, self._paths = base.shape, paths
        self.reads = 0

    def __call__(self, digest: str) -> AdapterWeights:
        self.reads += 1
        return replace(read_adapter(self._paths[int(digest) % len(self._paths)], self._shape), digest=digest)

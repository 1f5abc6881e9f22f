"""Times one decode step of the real base: torch's kernels, native fp32, native int8, side by side.

    python benchmarks/step.py                      rows 1, 8, 32; 0, 1 and 8 adapters of rank 16 on every linear
    python benchmarks/step.py --rounds 50 --context 512

Every cell is the median and the best of `--rounds` steps, the kinds taking turns, so that a slow moment of the machine
meets all of them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from plural.engine.kernels.interface import Kernels, Segment, Span
from plural.engine.kernels.native import Kind, NativeKernels, instruction_set
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.models.base import load_base
from plural.models.config import MODULES, DecoderConfig

PAGE = 16


@dataclass(frozen=True)
class RandomAdapter:
    digest: str
    tensors: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]

    def scale_of(self, module: str, layer: int | None = None) -> float:
        del module, layer
        return 1.0


def random_adapter(config: DecoderConfig, seed: int, rank: int) -> RandomAdapter:
    chance = np.random.default_rng(seed)

    def halves(rows: int, columns: int) -> np.ndarray:
        return (chance.standard_normal((rows, columns), np.float32) * 0.01).astype(np.float16).astype(np.float32)

    tensors = {
        (layer, module): (halves(rank, config.in_features(module)), halves(config.out_features(module), rank))
        for layer in range(config.num_layers)
        for module in MODULES
    }
    return RandomAdapter(f"random-{seed}", tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--context", type=int, default=128, help="tokens that every row has read")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base()
    config, cpu = base.config, torch.device("cpu")
    kinds: dict[str, Kernels] = {"torch fp32": TorchKernels()}
    if instruction_set():
        kinds |= {f"native {kind.name.lower()}": NativeKernels(kind, given.threads) for kind in Kind}
    adapters = [random_adapter(config, seed, given.rank) for seed in range(8)]
    held = -(-given.context // PAGE)

    def stepper(kernels: Kernels) -> Callable[[int, int], None]:
        forward = kernels.forward(base.decoder)
        kv = kernels.new_pages(config, 32 * held, PAGE, torch.float32, cpu)
        packed = [kernels.pack(config, adapter, torch.float32, cpu) for adapter in adapters]

        def step(rows: int, worn: int) -> None:
            spans = [Span(r, r + 1, given.context, range(1 + r * held, 1 + (r + 1) * held)) for r in range(rows)]
            cuts = [rows * i // max(worn, 1) for i in range(worn + 1)]
            segments = [Segment(cuts[i], cuts[i + 1], packed[i], 1.0) for i in range(worn)]
            with torch.inference_mode():
                forward([1000 + r for r in range(rows)], [given.context - 1] * rows, range(rows), kv, spans, segments)

        return step

    steppers = {name: stepper(kernels) for name, kernels in kinds.items()}
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for rows, worn in ((1, 0), (1, 1), (8, 0), (8, 1), (8, 8), (32, 0), (32, 1), (32, 8)):
        taken: dict[str, list[float]] = {name: [] for name in steppers}
        for _ in range(given.rounds):
            for name, step in steppers.items():
                start = time.perf_counter()
                step(rows, worn)
                taken[name].append((time.perf_counter() - start) * 1e3)
        table[f"{rows} rows, {worn} adapters"] = {
            name: (statistics.median(each), min(each)) for name, each in taken.items()
        }
    print(f"{base.name}, {given.threads} threads, {instruction_set() or 'no native kernels'}; ms a step: median (best)")
    print(f"{'':22}" + "".join(f"{name:>22}" for name in steppers))
    for case, cells in table.items():
        print(f"{case:22}" + "".join(f"{f'{median:.2f} ({best:.2f})':>22}" for median, best in cells.values()))
    print(json.dumps({"benchmark": "step", "threads": given.threads, "context": given.context, "ms": table}))


if __name__ == "__main__":
    main()

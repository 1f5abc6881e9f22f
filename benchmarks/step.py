"""Times one decode step of the real base: torch's kernels and the native ones with every kind of weights.

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

import numpy as np
import torch
from adapters import random_adapter

from plural.engine.kernels.abi import instruction_set
from plural.engine.kernels.interface import Kernels, Segment, Span
from plural.engine.kernels.native import NativeKernels
from plural.engine.kernels.packing import Kind
from plural.engine.kernels.pages import Pages, page_bytes
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.models.base import load_base

PAGE = 16


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
        parcels = [
            kernels.pack(config, one, page_bytes(config, PAGE, torch.float32), torch.float32) for one in adapters
        ]
        first = np.cumsum([1 + 32 * held, *(parcel.pages for parcel in parcels)])
        memory = Pages(config, int(first[-1]), PAGE, torch.float32, cpu)
        packed = [
            kernels.place(parcel, memory, range(at, at + parcel.pages))
            for parcel, at in zip(parcels, first, strict=False)
        ]

        def step(rows: int, worn: int) -> None:
            spans = [Span(r, r + 1, given.context, range(1 + r * held, 1 + (r + 1) * held)) for r in range(rows)]
            cuts = [rows * i // max(worn, 1) for i in range(worn + 1)]
            segments = [Segment(cuts[i], cuts[i + 1], packed[i], 1.0) for i in range(worn)]
            with torch.inference_mode():
                forward(
                    [1000 + r for r in range(rows)], [given.context - 1] * rows, range(rows), memory, spans, segments
                )

        return step

    steppers = {name: stepper(kernels) for name, kernels in kinds.items()}
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for rows, worn in ((1, 0), (1, 1), (8, 0), (8, 1), (8, 8), (32, 0), (32, 1), (32, 8)):
        taken: dict[str, list[float]] = {name: [] for name in steppers}
        for _ in range(given.rounds):
            for name, step in steppers.items():
                time.sleep(0.02)  # torch's threads look for more work for a while after a step
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

"""How near the linears of the real base come to what this machine can do: memory's speed, and the fastest products.

    python benchmarks/roofline.py                     1 and 32 rows, every kind of weights
    python benchmarks/roofline.py --threads 1 --rounds 50

A step runs all linears and the head, nothing else. The limits are measured in the same run: reading a large array,
fp32 products of large matrices, int8 products of what lies in registers. A step's limit is the longer of reading its
weights once and doing its arithmetic. Every time is the best of `--rounds`, taken in turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from plural.engine.kernels.abi import instruction_set, library
from plural.engine.kernels.interface import Span
from plural.engine.kernels.native import NativeForward, NativeKernels
from plural.engine.kernels.packing import Kind
from plural.engine.kernels.pages import Pages
from plural.errors import SettingsError
from plural.models.base import load_base
from plural.models.decoder import Attend, Decoder, Delta

ROWS = (1, 32)
CODED = (Kind.INT8, Kind.Q4)


class Linears(Decoder):
    """All linears of a decoder one after another: as much to read and to multiply, and nothing in between."""

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: Attend, delta: Delta | None = None) -> Tensor:
        del positions_T, attend
        first = self.weights.layers[0]
        x_TH = self.ops.embed(self.weights.embed_VH, ids_T)
        wide_TI = self.ops.silu_mul(self.ops.linear(x_TH, first.gate_up_OI))
        for i, w in enumerate(self.weights.layers):
            self._linear(i, "qkv", x_TH, w.qkv_OI, w.qkv_bias_O, delta)
            self._linear(i, "o", x_TH, w.o_OI, w.o_bias_O, delta)
            self._linear(i, "gate_up", x_TH, w.gate_up_OI, w.gate_up_bias_O, delta)
            x_TH = self._linear(i, "down", wide_TI, w.down_OI, w.down_bias_O, delta)
        return x_TH


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def limits(threads: int, rounds: int) -> dict[str, float]:
    """Bytes a second, and multiplications and additions a second in fp32 and in int8: the best of each.

    Measured in pieces of a millisecond or so, which a busy machine leaves alone now and then.
    """
    native = library()
    assert native is not None
    pieces = torch.ones(1 << 27).split(1 << 22)  # together beyond the caches
    square = torch.ones(512, 512)
    with ThreadPoolExecutor(threads) as pool:

        def products() -> int:
            return sum(pool.map(native.plural_int8_rate, [200_000] * threads))

        done = {"bytes": pieces[0].nbytes, "fp32": 2 * 512**3, "int8": products()}
        best = dict.fromkeys(done, float("inf"))
        for _ in range(rounds):
            for piece in pieces:
                works: dict[str, Callable[[], Any]] = {"bytes": piece.sum, "fp32": lambda: square @ square}
                for name, work in (works | {"int8": products}).items():
                    best[name] = min(best[name], seconds(work))
    return {name: done[name] / best[name] for name in done}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if instruction_set() is None:
        sys.exit("The native kernels are not built for this machine: there is nothing to measure.")
    base = load_base()
    decoder = Linears(base.config, base.decoder.weights)
    forwards: dict[Kind, NativeForward] = {}
    for kind in Kind:
        try:
            forwards[kind] = NativeKernels(kind, given.threads).forward(decoder)
        except SettingsError as error:
            print(f"{kind.name.lower()} is left out: {error}")
    memory = Pages(base.config, 1, 16, torch.float32, torch.device("cpu"))
    best = {(kind, rows): float("inf") for kind in forwards for rows in ROWS}
    for _ in range(given.rounds):
        for kind, rows in best:
            spans = [Span(row, row + 1, 1, [1]) for row in range(rows)]
            taken = seconds(lambda: forwards[kind]([1] * rows, [0] * rows, range(rows), memory, spans, []))  # noqa: B023
            best[kind, rows] = min(best[kind, rows], taken)
    machine = limits(given.threads, given.rounds)
    weights = [w for layer in base.decoder.weights.layers for w in (layer.qkv_OI, layer.o_OI, layer.gate_up_OI)]
    weights += [layer.down_OI for layer in base.decoder.weights.layers]
    weights += [base.decoder.weights.head_VH, base.decoder.weights.layers[0].gate_up_OI]
    products = 2 * sum(w.numel() for w in weights)
    print(f"{base.name}, {given.threads} threads, {instruction_set()}")
    print(f"read {machine['bytes'] / 1e9:.1f} GB/s, fp32 {machine['fp32'] / 1e9:.0f} and ", end="")
    print(f"int8 {machine['int8'] / 1e9:.0f} Gop/s at most")
    table = []
    print(f"{'weights':8}{'rows':>6}{'ms':>10}{'GB/s':>9}{'of it':>8}{'Gop/s':>9}{'of it':>8}{'of the limit':>15}")
    for (kind, rows), taken in best.items():
        peak = machine["int8" if kind in CODED else "fp32"]
        reading, computing = forwards[kind].weight_bytes / machine["bytes"], products * rows / peak
        row = {"weights": kind.name.lower(), "rows": rows, "ms": taken * 1e3, "of_memory": reading / taken}
        row |= {"of_products": computing / taken, "of_limit": max(reading, computing) / taken}
        table.append(row)
        print(f"{row['weights']:8}{rows:6}{taken * 1e3:10.2f}{forwards[kind].weight_bytes / taken / 1e9:9.1f}", end="")
        print(f"{row['of_memory']:8.0%}{products * rows / taken / 1e9:9.0f}{row['of_products']:8.0%}", end="")
        print(f"{row['of_limit']:15.0%}")
    held = {kind.name.lower(): tally(forward) for kind, forward in forwards.items()}
    for name, linears in held.items():
        print(f"{name}: " + ", ".join(f"{count} {how}" for how, count in linears.items()))
    print(
        json.dumps({"benchmark": "roofline", "threads": given.threads, "limits": machine, "rows": table, "held": held})
    )


def tally(forward: NativeForward) -> dict[str, int]:
    """How the linears are held, and how many in each way."""
    return dict(
        Counter(
            f"{one.held.kind.name.lower()} {'exactly' if one.held.exact else 'rounded'}"
            for one in forward.linears.values()
        )
    )


if __name__ == "__main__":
    main()

"""What adapters cost: an engine's step of 16 rows with K distinct adapters over the same step with the base alone.

    python benchmarks/tax.py                       K = 1 and 8, rank 16 on every linear; base requests beside them
    python benchmarks/tax.py --rounds 2 --tokens 4 --dtype fp32

`loaded` is the base alone in an engine that has all the adapters resident. Kinds take turns, and only decode steps
count, so that a slow moment of the machine meets all of them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time

import torch
from adapters import RANK, random_adapter
from workload import Call, ask, random_prompt

from plural.engine import Engine, EngineSettings
from plural.models.base import Base, load_base

ROWS = 16


async def decode_steps(engine: Engine, calls: list[Call]) -> list[float]:
    """Seconds of every step in which each call computed its one token. The engine has no thread: it steps here."""
    asking = [asyncio.create_task(ask(engine, call)) for call in calls]
    taken, worked = [], True
    while not all(task.done() for task in asking):
        await asyncio.sleep(0 if worked else 0.001)  # an adapter is on its way: its thread must come to run
        before, start = engine.stats().computed, time.perf_counter()
        worked = engine.step()
        spent = time.perf_counter() - start
        if engine.stats().computed - before == len(calls):
            taken.append(spent)
    return taken


def measure(base: Base, dtype: str, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Of every kind the median and the best step, in milliseconds."""
    adapters = {one.digest: one for one in (random_adapter(base.config, s, given.rank) for s in range(max(given.k)))}
    settings = EngineSettings(dtype=dtype, threads=given.threads, max_running=ROWS)
    bare, busy = (Engine(base.decoder, base.tokenizer, adapters.__getitem__, settings, start=False) for _ in range(2))
    dice = random.Random(0)

    def calls(worn: int, tokens: int) -> list[Call]:
        """Rows of one adapter lie beside each other or not, as they do in life: by turns."""
        digests = list(adapters)
        return [
            Call(
                random_prompt(dice, given.context, base.tokenizer.vocab_size),
                tokens,
                digests[row % worn] if worn else None,
            )
            for row in range(ROWS)
        ]

    asyncio.run(decode_steps(busy, calls(len(adapters), 2)))
    kinds = {"base": (bare, 0), "loaded": (busy, 0)} | {f"K = {k}": (busy, k) for k in given.k}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(given.rounds):
        for kind, (engine, worn) in kinds.items():
            taken[kind] += asyncio.run(decode_steps(engine, calls(worn, given.tokens)))
    assert len(busy.stats().adapters) >= len(adapters)
    for engine in (bare, busy):
        engine.close()
    return {kind: (statistics.median(each) * 1e3, min(each) * 1e3) for kind, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16, help="that every row draws in a round")
    parser.add_argument("--context", type=int, default=100, help="tokens of every prompt")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 8], choices=range(1, ROWS + 1), metavar="1..16")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base()
    tables = {dtype: measure(base, dtype, given) for dtype in given.dtype}
    print(f"{base.name}, {ROWS} rows, rank {given.rank}, {given.threads} threads; over the base alone: median (best)")
    kinds = list(next(iter(tables.values())))
    print(f"{'':8}{'base, ms a step':>22}" + "".join(f"{kind:>18}" for kind in kinds[1:]))
    for dtype, steps in tables.items():
        median, best = steps["base"]
        ratios = [f"{steps[kind][0] / median:.3f} ({steps[kind][1] / best:.3f})" for kind in kinds[1:]]
        print(f"{dtype:8}{f'{median:.2f} ({best:.2f})':>22}" + "".join(f"{ratio:>18}" for ratio in ratios))
    asked = {"rows": ROWS, "rank": given.rank, "threads": given.threads}
    print(json.dumps({"benchmark": "tax", **asked, "ms": tables}))


if __name__ == "__main__":
    main()

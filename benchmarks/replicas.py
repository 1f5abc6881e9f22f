"""Two replicas on two cores against one with two threads, behind Ray Serve: throughput, and loads of adapters.

    python benchmarks/replicas.py                    48 specialists by Zipf's law, 120 requests, 32 at a time; needs Ray

All have the same cores and, in sum, the same memory for keys, values and adapters. The same requests are sent to one
replica with two threads, to two with one thread each where a request goes to its specialist, and to two where it goes
wherever less waits. Before it counts, twice as many requests fill the memory. How many adapters are loaded again
depends on it: with little memory an adapter has gone before it is asked for again, wherever it was. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from typing import Any

from fleet import load_of, popularity
from fleet_measure import SPECIALISTS, Shelf, ray_here, replicas, shelf
from workload import Call, together

from plural.scale.engine import ClusterEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--memory", type=float, default=2.0, help="GB of one of two replicas; one alone has the double")
    parser.add_argument("--slack", type=int, help="by how many requests a specialist's replica may be ahead")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with shelf() as stock, ray_here():
        made = {name: _measured(stock, given, **kind) for name, kind in _kinds(given).items()}
    one = made["one, two threads"]
    print(f"  {'':<22}{'tokens/s':>10}{'of one':>8}{'loads':>8}{'pages each':>12}")
    for name, told in made.items():
        share = told["throughput"] / one["throughput"]
        print(f"  {name:<22}{told['throughput']:>10.0f}{share:>8.2f}{told['loads']:>8}{told['pages']:>12}")
    near, anywhere = made["two, affinity"], made["two, anywhere"]
    ratio = near["throughput"] / one["throughput"]
    loads = near["loads"] / max(1, anywhere["loads"])
    print(f"two against one: {ratio:.2f} in throughput; loads with affinity: {loads:.2f} of those without")
    print(json.dumps({"benchmark": "replicas", "throughput": ratio, "loads": loads, "of": made}))


def _kinds(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    two = {"count": 2, "threads": 1, "memory": f"{given.memory}GB", "slack": given.slack}
    both = 2 * given.memory - 0.35  # what a process holds besides weights and pages is there once only
    return {
        "one, two threads": two | {"count": 1, "threads": 2, "memory": f"{both}GB", "busy": 64},
        "two, affinity": two,
        "two, anywhere": two | {"affinity": False},
    }


def _measured(stock: Shelf, given: argparse.Namespace, *, count: int, **kind: Any) -> dict[str, Any]:
    """`throughput` in drawn tokens a second, the median of the rounds; `loads` of all rounds together."""
    shares = popularity(SPECIALISTS)
    rates = []
    with replicas(stock, count, **kind) as engine:
        asyncio.run(_all(engine, _calls(stock, 2 * given.requests, shares, 99), given.in_flight))
        before = engine.look()
        for seed in range(given.rounds):
            calls = _calls(stock, given.requests, shares, seed)
            seconds = asyncio.run(_all(engine, calls, given.in_flight))
            rates.append(sum(call.tokens for call in calls) / seconds)
        after = engine.look()
    return {
        "throughput": statistics.median(rates),
        "rounds": rates,
        "loads": after.loaded - before.loaded,
        "pages": after.pages // count,
    }


def _calls(stock: Shelf, count: int, shares: Any, seed: int) -> list[Call]:
    dice = random.Random(seed)
    return [stock.call(ask, dice) for ask in load_of(1.0, count, shares, seed=seed)]


async def _all(engine: ClusterEngine, calls: list[Call], in_flight: int) -> float:
    seconds, _ = await together(engine, calls, in_flight)  # type: ignore[arg-type]
    return seconds


if __name__ == "__main__":
    main()

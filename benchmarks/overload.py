"""Overload: requests arrive at 1.25 of what the engine can answer; with deadlines against first come, first served.

    python benchmarks/overload.py                  8 specialists of unequal popularity, cv 1 and 8, 120 s each
    python benchmarks/overload.py --duration 10 --slo 1 --inputs 8 32 --outputs 4 8 --cv 8

The capacity is measured first and again at the end: on a machine that others use the load may not have been what it
says. Attainment is the share of all requests whose first token came within the SLO; `worst` is that of the specialist
that was served worst; `at best` is what is left for anybody who answers all requests alike at that load: the capacity's
requests from the first arrival to the SLO after the last one. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch
from adapters import RANK, random_adapter
from workload import Call, Service, as_they_arrive, capacity, measure, slora_calls

from plural import sync
from plural.engine import Engine, EngineSettings
from plural.models.base import Base, load_base


def main() -> None:
    given = _options()
    torch.set_num_threads(given.threads)
    base = load_base()
    first = measure_capacity(base, given)
    rate = given.load * first
    print(f"{base.name}, {given.dtype}, {given.threads} threads; {given.specialists} specialists of rank {given.rank}")
    print(f"capacity {first:.2f} requests/s; arrivals at {rate:.2f} for {given.duration:g} s, SLO {given.slo:g} s")
    print(
        f"{'cv':>4}{'':14}{'requests':>9}{'answered':>9}{'attained':>9}{'at best':>9}{'worst':>8}"
        f"{'satisfied':>10}{'req/s':>8}{'first p50':>11}{'p90':>8}"
    )
    results: dict[str, dict[str, Any]] = {}
    for cv in given.cv:
        calls = _calls(given, base, rate, cv)
        for kind, deadline in (("in order", None), ("deadlines", given.slo)):
            service = serve(base, given, calls, rate, deadline)
            best = min(1.0, first * (calls[-1].at + given.slo) / len(calls))
            results[f"cv {cv:g}, {kind}"] = {**asdict(service), "at_best": best}
            print(
                f"{cv:4g}  {kind:12}{service.requests:9}{service.finished:9}{service.attainment:9.3f}{best:9.3f}"
                f"{service.worst_adapter:8.3f}{service.satisfaction:10.3f}{service.throughput:8.2f}"
                f"{service.first_p50:11.2f}{service.first_p90:8.2f}",
                flush=True,
            )
    last = measure_capacity(base, given)
    print(f"capacity at the end: {last:.2f} requests/s")
    asked = {"rate": rate, "slo": given.slo, "duration": given.duration, "capacity": [first, last]}
    print(json.dumps({"benchmark": "overload", **asked, "results": results}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=1.25, help="arrivals over capacity")
    parser.add_argument("--cv", type=float, nargs="+", default=[1.0, 8.0], help="burstiness of the arrivals")
    parser.add_argument("--duration", type=float, default=120, help="seconds of arrivals")
    parser.add_argument("--slo", type=float, default=6.0, help="seconds to the first token")
    parser.add_argument("--specialists", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=0.3, help="popularity: 1 is uniform, smaller is more skewed")
    parser.add_argument("--inputs", type=int, nargs=2, default=[8, 128], help="prompt tokens, the upper one excluded")
    parser.add_argument("--outputs", type=int, nargs=2, default=[8, 128], help="generated tokens, likewise")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _engine(base: Base, given: argparse.Namespace) -> Engine:
    """A fresh one for every measurement: none finds what another has read."""
    made = (random_adapter(base.config, seed, given.rank) for seed in range(given.specialists))
    adapters = {str(number): adapter for number, adapter in enumerate(made)}
    settings = EngineSettings(dtype=given.dtype, threads=given.threads)
    return Engine(base.decoder, base.tokenizer, adapters.__getitem__, settings)


def _calls(given: argparse.Namespace, base: Base, rate: float, cv: float) -> list[Call]:
    return slora_calls(
        adapters=given.specialists,
        rate=rate,
        duration=given.duration,
        alpha=given.alpha,
        cv=cv,
        inputs=tuple(given.inputs),
        outputs=tuple(given.outputs),
        vocabulary=base.tokenizer.vocab_size,
    )


def measure_capacity(base: Base, given: argparse.Namespace) -> float:
    engine = _engine(base, given)
    calls = _calls(given, base, rate=4 * engine.settings.max_running / given.duration, cv=1.0)
    found = sync.run(capacity(engine, calls))
    engine.close()
    return found


def serve(base: Base, given: argparse.Namespace, calls: list[Call], rate: float, deadline: float | None) -> Service:
    engine = _engine(base, given)
    seconds, outcomes = sync.run(as_they_arrive(engine, calls, deadline))
    engine.close()
    return measure(outcomes, seconds, rate=rate, slo=given.slo, strip=0)


if __name__ == "__main__":
    main()

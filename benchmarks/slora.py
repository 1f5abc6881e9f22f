"""S-LoRA's workload and metrics (Sheng et al., arXiv 2311.03285) with 5 to 2,000 registered adapters of rank 8.

    python benchmarks/slora.py                     arrivals at 1.25 of the capacity that is measured first
    python benchmarks/slora.py --n 5 100 --rate 1 --duration 10 --inputs 8 32 --outputs 4 8 --strip 2

Drawn as its released code draws it (workload.slora_calls); prompts are random tokens. The adapters are --files PEFT
directories under n digests, read from disk whenever the engine asks for one: the files stay in the page cache, the
adapters do not stay in memory. Every n runs in a process of its own, so that its peak memory is its own. `per CPU s`
are requests a second of the processor's time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from adapters import Shelf, write_adapters
from workload import Call, Service, as_they_arrive, capacity, measure, slora_calls

from plural import sync
from plural.engine import Engine, EngineSettings
from plural.models.base import Base, load_base


def main() -> None:
    given = _options()
    if given.serve is not None:
        print(json.dumps(serve(given, given.serve)))
        return
    rate = given.rate or 1.25 * _child(["--serve", "0"])["capacity"]
    served = {n: _child(["--serve", str(n), "--rate", str(rate)]) for n in given.n}
    shape = f"{rate:.2f} requests/s for {given.duration:g} s, alpha {given.alpha:g}, cv {given.cv:g}"
    print(f"{given.dtype}, {given.threads} threads, rank {given.rank}, memory {given.memory or 'not limited'}; {shape}")
    columns = ["n", "requests", "finished", "req/s", "strip", "per CPU s", "first s", "p50", "p90", "latency s"]
    columns += ["attained", "satisfied", "reads", "peak GB"]
    print("".join(f"{column:>10}" for column in columns))
    for n, one in served.items():
        service = Service(**one["service"])
        strip = math.nan if service.strip_throughput is None else service.strip_throughput
        cells = [service.throughput, strip, service.finished / one["cpu"], service.first_mean, service.first_p50]
        cells += [service.first_p90, service.latency, service.attainment, service.satisfaction]
        print(
            f"{n:10}{service.requests:10}{service.finished:10}"
            + "".join(f"{cell:10.3f}" for cell in cells)
            + f"{one['reads']:10}{one['peak_gb']:10.2f}"
        )
    few, many = (Service(**served[n]["service"]) for n in (min(served), max(served)))
    lost = 1 - many.throughput / few.throughput
    print(f"throughput falls {lost:.1%} from n = {min(served)} to {max(served)}")
    print(json.dumps({"benchmark": "slora", "rate": rate, "lost": lost, "by_n": served}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[5, 100, 1000, 2000], help="registered adapters")
    parser.add_argument("--rate", type=float, help="requests a second. Default: 1.25 of the capacity without adapters")
    parser.add_argument("--duration", type=float, default=120, help="seconds of arrivals")
    parser.add_argument("--inputs", type=int, nargs=2, default=[8, 128], help="prompt tokens, the upper one excluded")
    parser.add_argument("--outputs", type=int, nargs=2, default=[8, 128], help="generated tokens, likewise")
    parser.add_argument("--alpha", type=float, default=1.0, help="popularity: 1 is uniform, smaller is more skewed")
    parser.add_argument("--cv", type=float, default=1.0, help="burstiness of the arrivals")
    parser.add_argument("--slo", type=float, default=6.0, help="seconds to the first token")
    parser.add_argument("--abort", action="store_true", help="give every request the SLO as its deadline")
    parser.add_argument("--strip", type=float, default=10, help="seconds left out at both ends of strip_throughput")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--files", type=int, default=32, help="adapters on disk")
    parser.add_argument("--memory", type=int, default=6 * 10**9, help="bytes for all that the engine allocates")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # this process is the engine's, with so many
    return parser.parse_args()


def _child(options: list[str]) -> dict[str, Any]:
    """What this script says when it is started again for one n, as the user started it."""
    command = [sys.executable, __file__, *sys.argv[1:], *options]
    last = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    said: dict[str, Any] = json.loads(last)
    return said


def serve(given: argparse.Namespace, n: int) -> dict[str, Any]:
    """One engine and its service of the workload; with n = 0 the capacity without adapters."""
    torch.set_num_threads(given.threads)
    base = load_base()
    settings = EngineSettings(dtype=given.dtype, threads=given.threads, memory=given.memory)
    with tempfile.TemporaryDirectory(prefix="plural-slora-") as folder:
        shelf = Shelf(base, write_adapters(base, Path(folder), min(n, given.files), given.rank, 0.01))
        engine = Engine(base.decoder, base.tokenizer, shelf, settings)
        try:
            if n == 0:
                calls = _calls(given, base, 1, rate=4 * settings.max_running / given.duration)
                return {"capacity": sync.run(capacity(engine, [Call(one.prompt, one.tokens) for one in calls]))}
            return _service(given, base, engine, n) | {"reads": shelf.reads}
        finally:
            engine.close()


def _calls(given: argparse.Namespace, base: Base, n: int, rate: float) -> list[Call]:
    return slora_calls(
        adapters=n,
        rate=rate,
        duration=given.duration,
        alpha=given.alpha,
        cv=given.cv,
        inputs=tuple(given.inputs),
        outputs=tuple(given.outputs),
        vocabulary=base.tokenizer.vocab_size,
    )


def _service(given: argparse.Namespace, base: Base, engine: Engine, n: int) -> dict[str, Any]:
    calls = _calls(given, base, n, given.rate)
    cpu = time.process_time()
    seconds, outcomes = sync.run(as_they_arrive(engine, calls, given.slo if given.abort else None))
    cpu = time.process_time() - cpu
    service = measure(outcomes, seconds, rate=given.rate, slo=given.slo, strip=given.strip)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"service": asdict(service), "seconds": seconds, "cpu": cpu, "peak_gb": peak_gb}


if __name__ == "__main__":
    main()

"""Times `plural serve` beside vLLM's CPU server, over HTTP, by vLLM's own benchmark client: the same load for both.

    python benchmarks/serve_vllm.py                    64 requests, 8 adapters, 16 in flight, 2 rounds each
    python benchmarks/serve_vllm.py --requests 4 --in-flight 2 --tokens 4 --rounds 1 --engines plural/fp32

Each server runs alone, loads the adapters through /v1/load_lora_adapter, and is asked by `vllm bench serve`: prompts of
32 to 128 random tokens, drawn anew in each round and the same for every server, end of text ignored, adapters in turn.
`make peers` makes vLLM's environment. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from adapters import RANK, write_adapters
from serving import HERE, PEERS, SPREAD

from plural.models.base import load_base
from plural.models.export import write_huggingface

ENGINES = ("plural/auto", "plural/fp32", "vllm/fp32")
_VLLM = {"fp32": "float32", "bf16": "bfloat16"}
_NAME = "base"


@dataclass(frozen=True)
class Result:
    """One server: medians over its rounds, of output tokens a second and of milliseconds to the first token."""

    engine: str
    tokens_per_s: float
    first_p50: float
    first_p95: float
    failed: int
    start_s: float


def main() -> None:
    given = _options()
    python = given.peers_dir / "vllm" / "bin" / "python"
    if not python.exists():
        print(f"serve_vllm: skipped, its client is vLLM's, which is not installed in {python.parents[1]}: make peers.")
        return
    base = load_base()
    with tempfile.TemporaryDirectory(prefix="plural-serve-vllm-") as folder:
        place = Path(folder)
        model = write_huggingface(base, place / "huggingface")
        library = place / "library"
        (library / ".incoming").mkdir(parents=True)
        adapters = write_adapters(base, library / ".incoming", given.k, RANK, SPREAD)
        print(
            f"{base.name}; {given.requests} requests of {given.tokens} tokens, {given.k} adapters of rank {RANK}, "
            f"{given.in_flight} in flight, {given.threads} threads"
        )
        print(f"{'server':14}{'tokens/s':>10}{'first ms p50':>14}{'p95':>9}{'failed':>8}{'start s':>9}")
        results = []
        for engine in given.engines:
            started = time.perf_counter()
            with _server(engine, given, python, base.source, model, library) as url:
                start_s = time.perf_counter() - started
                for path in adapters:
                    _post(f"{url}/v1/load_lora_adapter", {"lora_name": path.name, "lora_path": str(path)})
                names = [path.name for path in adapters]
                _ask(url, python, model, names, given, seed=10_000, requests=2 * given.k)  # warms it up
                rounds = [
                    _ask(url, python, model, names, given, seed=seed, requests=given.requests)
                    for seed in range(given.rounds)
                ]
            results.append(_result(engine, rounds, start_s))
            _print_row(results[-1])
    asked = {name: getattr(given, name) for name in ("requests", "tokens", "k", "in_flight", "rounds", "threads")}
    print(json.dumps({"benchmark": "serve_vllm", **asked, "results": [asdict(one) for one in results]}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="that every request generates")
    parser.add_argument("--k", type=int, default=8, help="distinct adapters")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers-dir", type=Path, default=PEERS)
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a server may take to start")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=(*ENGINES, "vllm/bf16"), metavar="ENGINE")
    return parser.parse_args()


@contextmanager
def _server(
    engine: str, given: argparse.Namespace, python: Path, source: Path, model: Path, library: Path
) -> Iterator[str]:
    """Its URL, when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    name, _, dtype = engine.partition("/")
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    if name == "plural":
        places = ["--base", str(source), "--library", str(library), "--data", str(library.parent / "data")]
        command = [sys.executable, "-m", "plural.cli", "serve", "--port", port, "--dtype", dtype, *places]
    else:
        environment |= {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        }
        lora = ["--enable-lora", "--max-loras", str(given.k), "--max-lora-rank", str(RANK)]
        sizes = ["--max-model-len", str(256 + given.tokens), "--max-num-seqs", str(given.in_flight)]
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", port]
        command += ["--served-model-name", _NAME, "--dtype", _VLLM[dtype], *lora, *sizes]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, env=environment)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process, given.timeout)
            yield url
        except BaseException:
            words.seek(0)
            print(words.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit("The server ended before it answered.")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"The server did not answer within {seconds} seconds.")


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=120).close()


def _ask(
    url: str, python: Path, model: Path, names: Sequence[str], given: argparse.Namespace, *, seed: int, requests: int
) -> dict[str, Any]:
    """What `vllm bench serve` measured."""
    with tempfile.TemporaryDirectory() as folder:
        load = {
            "--base-url": url, "--backend": "openai", "--endpoint": "/v1/completions", "--model": _NAME,
            "--tokenizer": str(model), "--dataset-name": "random", "--random-input-len": "80",
            "--random-output-len": str(given.tokens), "--random-range-ratio": '{"input": 0.6, "output": 0.0}',
            "--num-prompts": str(requests), "--max-concurrency": str(given.in_flight), "--seed": str(seed),
            "--lora-assignment": "round-robin", "--percentile-metrics": "ttft", "--metric-percentiles": "95",
            "--temperature": "0", "--result-dir": folder, "--result-filename": "result.json",
        }  # fmt: skip
        options = [word for pair in load.items() for word in pair]
        command = [str(python), str(HERE / "bench_vllm.py"), *options, "--ignore-eos"]
        command += ["--save-result", "--disable-tqdm", "--lora-modules", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"vllm bench serve failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return found


def _result(engine: str, rounds: Sequence[Mapping[str, Any]], start_s: float) -> Result:
    def middle(name: str) -> float:
        return float(statistics.median(one[name] for one in rounds))

    failed = sum(one["num_prompts"] - one["completed"] for one in rounds)
    return Result(engine, middle("output_throughput"), middle("median_ttft_ms"), middle("p95_ttft_ms"), failed, start_s)


def _print_row(one: Result) -> None:
    print(
        f"{one.engine:14}{one.tokens_per_s:10.1f}{one.first_p50:14.1f}{one.first_p95:9.1f}{one.failed:8}"
        f"{one.start_s:9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

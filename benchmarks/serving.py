"""Times mixed decoding against other engines: output tokens a second with K distinct adapters, so many in flight.

    python benchmarks/serving.py                       64 requests of 64 tokens; K 0, 1, 8, 64; 16 and 32 in flight
    python benchmarks/serving.py --requests 8 --tokens 8 --in-flight 4 --k 0 2 --single 0 --engines plural/fp32

Prompts of 32 to 128 random tokens, greedy, end of text ignored; adapters of rank 16 on all linears. The engines run
one after another, each in a process of its own environment (make peers; --peers-dir), and who is not installed is
skipped. `per CPU s` divides by the processor's time instead of the clock's: it says more on a machine that others use.
`same` is the share of requests with all tokens as our fp32's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from adapters import RANK, random_adapter, write_adapters
from export import write_gguf, write_lora_gguf
from workload import random_prompt

from plural.engine import EngineSettings
from plural.models.base import Base, load_base
from plural.models.export import write_huggingface

HERE = Path(__file__).parent / "peers"
PEERS = Path(os.environ.get("PLURAL_PEERS", "~/.cache/plural/peers")).expanduser()
OURS = tuple(dtype for dtype in get_args(EngineSettings.model_fields["dtype"].annotation) if dtype != "auto")
# Each engine with the precisions that it is measured in; the first of ours is what outputs are compared with.
ENGINES = {
    "plural": OURS,
    "vllm": ("fp32", "bf16"),
    "llamacpp": ("f32", "f16", "as it is"),
    "peft": ("fp32",),
}
EXACT = ("fp32", "f32")
# Wide enough that an adapter changes most of the answers: an engine that left it out would be seen.
SPREAD = 0.02


@dataclass(frozen=True)
class Result:
    """One engine in one precision with K adapters, so many in flight: medians over the rounds."""

    engine: str
    dtype: str
    k: int
    in_flight: int
    tokens_per_s: float
    tokens_per_cpu_s: float
    slowest: float
    fastest: float
    same: float
    peak_gb: float
    start_s: float


def main() -> None:
    given = _options()
    base = load_base()
    with tempfile.TemporaryDirectory(prefix="plural-serving-") as folder:
        files = Files(base, Path(folder), max(given.k), given.rank)
        results: list[Result] = []
        heard: dict[tuple[int, int], list[list[int]]] = {}
        shape = f"{given.requests} requests of {given.tokens} tokens, rank {given.rank}"
        print(f"{base.name}, {given.threads} threads; {shape}")
        print(
            f"{'engine':20}{'K':>4}{'in flight':>11}{'tokens/s':>10}{'(range)':>16}{'per CPU s':>11}{'same':>6}"
            f"{'peak GB':>9}{'start s':>9}"
        )
        for engine, dtype in _chosen(given.engines):
            python = _python(engine, given.peers_dir)
            if python is None:
                print(f"{engine}/{dtype}: skipped, not installed in {given.peers_dir / engine} (make peers)")
                continue
            for k in given.k:
                for result in _measure(given, files, python, engine, dtype, k, heard):
                    results.append(result)
                    _print_row(result)
    _print_summary(results)
    asked = {name: getattr(given, name) for name in ("requests", "tokens", "threads", "rank", "rounds")}
    print(json.dumps({"benchmark": "serving", **asked, "results": [asdict(result) for result in results]}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="that every request generates")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--k", type=int, nargs="+", default=[0, 1, 8, 64], help="distinct adapters")
    parser.add_argument("--single", type=int, default=8, help="requests of a single stream, with 0 and with 1 adapter")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers-dir", type=Path, default=PEERS)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one engine with one K")
    names = [f"{engine}/{dtype}" for engine, dtypes in ENGINES.items() for dtype in dtypes]
    parser.add_argument("--engines", nargs="+", default=names, metavar="ENGINE", help=f"of {', '.join(names)}")
    given = parser.parse_args()
    unknown = set(given.engines) - set(names)
    if unknown:
        parser.error(f"no engine is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return given


def _chosen(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for engine, dtypes in ENGINES.items():
        yield from ((engine, dtype) for dtype in dtypes if f"{engine}/{dtype}" in names)


def _python(engine: str, peers: Path) -> Path | None:
    if engine == "plural":
        return Path(sys.executable)
    python = peers / engine / "bin" / "python"
    needed = python.with_name("llama-server") if engine == "llamacpp" else python
    return python if needed.exists() else None


class Files:
    """What the engines read, written when the first of them needs it."""

    def __init__(self, base: Base, folder: Path, adapters: int, rank: int) -> None:
        self._base, self._folder, self._rank = base, folder, rank
        self.vocabulary = base.tokenizer.vocab_size
        self._peft = write_adapters(base, folder, adapters, rank, SPREAD)

    def model(self, engine: str, dtype: str) -> Path:
        if engine != "llamacpp":
            folder = self._folder / "huggingface"
            return folder if folder.exists() else write_huggingface(self._base, folder)
        file = self._folder / f"{dtype.replace(' ', '-')}.gguf"
        return file if file.exists() else write_gguf(self._base.source, file, dtype)

    def adapters(self, engine: str, count: int) -> list[Path]:
        if engine != "llamacpp":
            return self._peft[:count]
        return [self._lora(number) for number in range(count)]

    def _lora(self, number: int) -> Path:
        file = self._folder / f"lora-{number}.gguf"
        if not file.exists():
            write_lora_gguf(self._base, random_adapter(self._base.config, number, self._rank, SPREAD), file)
        return file


def _cases(given: argparse.Namespace, vocabulary: int, k: int) -> list[tuple[int, list[dict[str, Any]]]]:
    """(in flight, requests): the same for every engine, and no prompt twice, so that no cache has it."""
    dice = random.Random(k)

    def requests(count: int) -> list[dict[str, Any]]:
        return [
            {
                "prompt": random_prompt(dice, dice.randint(32, 128), vocabulary),
                "tokens": given.tokens,
                "adapter": number % k if k else None,
            }
            for number in range(count)
        ]

    widths = [(in_flight, given.requests) for in_flight in given.in_flight]
    if given.single and k <= 1:
        widths.append((1, given.single))
    return [(in_flight, requests(count)) for in_flight, count in widths for _ in range(given.rounds)]


def _measure(
    given: argparse.Namespace,
    files: Files,
    python: Path,
    engine: str,
    dtype: str,
    k: int,
    heard: dict[tuple[int, int], list[list[int]]],
) -> Iterator[Result]:
    """Runs one engine with K adapters. `heard` are the outputs that the others' are compared with, by K and width."""
    cases = _cases(given, files.vocabulary, k)
    width = max(in_flight for in_flight, _ in cases)
    warmup = [dict(one, prompt=one["prompt"][::-1], tokens=4) for one in cases[0][1][: max(width, k)]]
    job = {
        "model": str(files.model(engine, dtype)),
        "adapters": [str(path) for path in files.adapters(engine, k)],
        "dtype": dtype,
        "rank": given.rank,
        "threads": given.threads,
        "in_flight": width,
        "context": 128 + given.tokens + 1,
        "warmup": {"in_flight": width, "requests": warmup},
        "cases": [
            {"name": f"{engine}/{dtype} K={k} {in_flight} in flight", "in_flight": in_flight, "requests": requests}
            for in_flight, requests in cases
        ],
    }
    told = _run(python, HERE / f"run_{engine}.py", job, given.timeout)
    if told is None:
        print(f"{engine}/{dtype}, K = {k}: failed; its last words are above", flush=True)
        return
    start_s, said = told
    for at in range(0, len(cases), given.rounds):
        in_flight, requests = cases[at]
        rounds = said["cases"][at : at + given.rounds]
        ids = [row for one in rounds for row in one["ids"]]
        reference = heard.setdefault((k, in_flight), ids)
        tokens = len(requests) * given.tokens
        rates = [tokens / one["seconds"] for one in rounds]
        yield Result(
            engine=engine,
            dtype=dtype,
            k=k,
            in_flight=in_flight,
            tokens_per_s=statistics.median(rates),
            tokens_per_cpu_s=statistics.median(tokens / one["cpu"] for one in rounds),
            slowest=min(rates),
            fastest=max(rates),
            same=statistics.fmean(a == b for a, b in zip(ids, reference, strict=True)),
            peak_gb=said["peak_kib"] * 1024 / 1e9,
            start_s=start_s,
        )


def _run(python: Path, runner: Path, job: dict[str, Any], timeout: float) -> tuple[float, dict[str, Any]] | None:
    """The seconds until the engine was ready, and what it said at the end. None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path, words = Path(folder) / "job.json", Path(folder) / "stderr"
        path.write_text(json.dumps(job))
        start = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
        with words.open("w") as errors:
            process = subprocess.Popen(
                [str(python), str(runner), str(path)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert process.stdout is not None
        ready, last = None, ""
        patience = threading.Timer(timeout, process.kill)
        patience.start()
        try:
            for line in process.stdout:
                if line.strip() == "READY":
                    ready = time.perf_counter() - start
                last = line
            failed = process.wait() != 0
        finally:
            patience.cancel()
            process.kill()
        if failed or ready is None:
            print("".join(words.read_text().splitlines(keepends=True)[-12:]), file=sys.stderr)
            return None
        return ready, json.loads(last)


def _print_row(one: Result) -> None:
    spread = f"({one.slowest:.1f}-{one.fastest:.1f})"
    print(
        f"{one.engine + '/' + one.dtype:20}{one.k:4}{one.in_flight:11}{one.tokens_per_s:10.1f}{spread:>16}"
        f"{one.tokens_per_cpu_s:11.1f}{one.same:6.2f}{one.peak_gb:9.2f}{one.start_s:9.1f}",
        flush=True,
    )


def _print_summary(results: list[Result]) -> None:
    """Our best over each peer's best, and both in fp32, by the clock and by the processor's time."""
    peers = list(dict.fromkeys(one.engine for one in results if one.engine != "plural"))
    if not peers:
        return
    print(f"\n{'how many times the peer (by CPU time)':40}" + "".join(f"{peer:>20}" for peer in peers))
    for k, in_flight in dict.fromkeys((one.k, one.in_flight) for one in results):
        here = [one for one in results if (one.k, one.in_flight) == (k, in_flight)]
        for label, dtypes in (("each at its best", None), ("all in fp32", EXACT)):
            cells = []
            for peer in peers:
                fits = [one for one in here if dtypes is None or one.dtype in dtypes]
                ours = [one for one in fits if one.engine == "plural"]
                theirs = [one for one in fits if one.engine == peer]
                cells.append(f"{_ratio(ours, theirs):>20}")
            print(f"K = {k:2}, {in_flight:2} in flight, {label:17}" + "".join(cells))


def _ratio(ours: list[Result], theirs: list[Result]) -> str:
    if not ours or not theirs:
        return "-"
    clock = max(one.tokens_per_s for one in ours) / max(one.tokens_per_s for one in theirs)
    cpu = max(one.tokens_per_cpu_s for one in ours) / max(one.tokens_per_cpu_s for one in theirs)
    return f"{clock:.2f} ({cpu:.2f})"


if __name__ == "__main__":
    main()

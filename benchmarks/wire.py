"""Times what the wire costs: the same engine asked in process and over HTTP, so many streams at once.

    python benchmarks/wire.py                          64 answers of 64 tokens, 32 streams, 5 rounds
    python benchmarks/wire.py --requests 4 --tokens 4 --streams 2 --rounds 1

Both sides ask the same chat model in turns, each time with prompts that nobody has read. The HTTP client is a process
of its own that looks for little but the end, yet it computes on the same cores as the engine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workload import random_prompt

from plural import sync
from plural.models.base import load_base
from plural.serve import Keyring, Server, ServeSettings, Store
from plural.serve.run import Listener
from plural.types import Asked, Message, Sampling
from plural.wiring.network import BASE, Network
from plural.wiring.serving import ServedNetwork

CLIENT = Path(__file__).with_name("wire_client.py")


@dataclass(frozen=True)
class Run:
    """Seconds to the first token of each answer, and to the end of all."""

    tokens: int
    seconds: float
    firsts: list[float]

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def main() -> None:
    given = _options()
    with tempfile.TemporaryDirectory(prefix="plural-wire-") as folder:
        base = load_base()
        network = Network.open(
            base=base.source, library=folder, starter=False, max_running=given.streams, dtype=given.dtype
        )
        dice = random.Random(0)
        runs: dict[str, list[Run]] = {"in process": [], "http": []}
        with network, _served(network) as url:
            in_process(network, _prompts(network, dice, given), given)  # warms it up
            for number in range(given.rounds):
                runs["in process"].append(in_process(network, _prompts(network, dice, given), given))
                runs["http"].append(over_http(url, _prompts(network, dice, given), given))
                rates = " ".join(f"{made[-1].rate:.1f}" for made in runs.values())
                print(f"round {number + 1}: {rates} tokens/s", flush=True)
    print(f"{base.name}, {given.dtype}; {given.requests} answers of {given.tokens} tokens, {given.streams} streams")
    print(f"{'':12}{'tokens/s':>10}{'(range)':>16}{'first ms p50':>14}{'p95':>9}")
    for side, made in runs.items():
        each, firsts = [run.rate for run in made], _firsts(made)
        print(
            f"{side:12}{statistics.median(each):10.1f}{f'({min(each):.0f} to {max(each):.0f})':>16}"
            f"{1000 * statistics.median(firsts):14.1f}{1000 * firsts[int(0.95 * len(firsts))]:9.1f}"
        )
    # Neighbouring runs are compared: a slow moment of the machine then meets both.
    ratios = [http.rate / own.rate for own, http in zip(runs["in process"], runs["http"], strict=True)]
    medians = {side: statistics.median(_firsts(made)) for side, made in runs.items()}
    later = 1000 * (medians["http"] - medians["in process"])
    print(f"over HTTP {100 * statistics.median(ratios):.1f}% of the throughput, the first token {later:+.1f} ms")
    asked = {"streams": given.streams, "requests": given.requests, "tokens": given.tokens, "dtype": given.dtype}
    every = {side: [run.rate for run in made] for side, made in runs.items()}
    print(json.dumps({"benchmark": "wire", **asked, "ratios": ratios, "first_ms": later, "rates": every}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--inputs", type=int, nargs=2, default=[32, 97], help="prompt tokens, the upper one excluded")
    parser.add_argument("--streams", type=int, default=32, help="answers at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


def _prompts(network: Network, dice: random.Random, given: argparse.Namespace) -> list[str]:
    tokenizer = network.base_model.tokenizer
    return [
        tokenizer.decode(random_prompt(dice, dice.randrange(*given.inputs), tokenizer.vocab_size))
        for _ in range(given.requests)
    ]


def _firsts(runs: Sequence[Run]) -> list[float]:
    return sorted(first for run in runs for first in run.firsts)


def in_process(network: Network, prompts: Sequence[str], given: argparse.Namespace) -> Run:
    speaker = network.base.speaker
    sampling = Sampling(max_tokens=given.tokens, ignore_eos=True)

    async def one(prompt: str, room: asyncio.Semaphore) -> tuple[int, float]:
        async with room:
            start, first, tokens = time.perf_counter(), 0.0, 0
            async for piece in speaker.speak(Asked((Message("user", prompt),), sampling=sampling)):
                first = first or time.perf_counter() - start
                tokens += piece.usage.completion if piece.usage else 0
            return tokens, first

    async def every() -> list[tuple[int, float]]:
        room = asyncio.Semaphore(given.streams)
        return await asyncio.gather(*(one(prompt, room) for prompt in prompts))

    start = time.perf_counter()
    answers = sync.run(every())
    seconds = time.perf_counter() - start
    return Run(sum(tokens for tokens, _ in answers), seconds, [first for _, first in answers])


def over_http(url: str, prompts: Sequence[str], given: argparse.Namespace) -> Run:
    bodies = [
        {
            "model": BASE,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": given.tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for prompt in prompts
    ]
    asked = json.dumps({"url": url, "streams": given.streams, "bodies": bodies})
    done = subprocess.run([sys.executable, str(CLIENT)], input=asked, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout))


@contextmanager
def _served(network: Network) -> Iterator[str]:
    settings = ServeSettings(port=0, max_inside=1024)
    server = Server(ServedNetwork(network), settings, Keyring(), Store(None), Path())
    address: list[str] = []
    listening = threading.Event()

    def told(where: str) -> None:
        address.append(where)
        listening.set()

    listener = Listener(server, settings, told)
    thread = threading.Thread(target=listener.run)
    thread.start()
    listening.wait()
    try:
        yield address[0]
    finally:
        listener.drain()
        thread.join()


if __name__ == "__main__":
    main()

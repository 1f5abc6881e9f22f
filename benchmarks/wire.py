"""Times what the wire costs: the same engine asked in process and over HTTP, so many streams at once.

    python benchmarks/wire.py                          96 answers of 32 to 96 tokens, 32 streams, 5 rounds
    python benchmarks/wire.py --requests 4 --tokens 4 4 --streams 2 --rounds 1

Both sides ask the same chat model in turns, each time with prompts that nobody has read. As many requests as there are
streams come at once, in a burst; each of the others comes a moment after an answer has ended, so that it meets the
engine anywhere in a step, as requests of strangers do. (Without that moment a request over HTTP comes just after a
step has begun, and one in process just before.) The time to the first token of those is what one request costs, in the
burst it is what all cost. The HTTP client is a process of its own that looks for little but the end, yet it computes on
the same cores as the engine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
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

_LONGEST_PAUSE_S = 0.5
CLIENT = Path(__file__).with_name("wire_client.py")


@dataclass(frozen=True)
class Load:
    """Tokens of each answer, and seconds for which each request waits when a place is free for it."""

    lengths: list[int]
    pauses: list[float]
    streams: int


@dataclass(frozen=True)
class Run:
    """Seconds to the first token of each answer, in the order in which they were asked for, and to the end of all."""

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
        with network, served(network) as url:
            in_process(network, _prompts(network, dice, given), _load(dice, given))
            for number in range(given.rounds):
                load = _load(dice, given)
                runs["in process"].append(in_process(network, _prompts(network, dice, given), load))
                runs["http"].append(over_http(url, _prompts(network, dice, given), load))
                rates = " ".join(f"{made[-1].rate:.1f}" for made in runs.values())
                print(f"round {number + 1}: {rates} tokens/s", flush=True)
    low, high = given.tokens
    print(f"{base.name}, {given.dtype}; {given.requests} answers of {low} to {high} tokens, {given.streams} streams")
    print(
        f"{'':12}{'tokens/s':>10}{'(range)':>16}{'first ms: in the burst p50':>28}{'p95':>9}{'later p50':>12}{'p95':>9}"
    )
    for side, made in runs.items():
        each = [run.rate for run in made]
        print(f"{side:12}{statistics.median(each):10.1f}{f'({min(each):.0f} to {max(each):.0f})':>16}", end="")
        burst, later = (sorted(1000 * first for first in firsts) for firsts in _firsts(made, given.streams))
        print(f"{_at(0.5, burst):28.1f}{_at(0.95, burst):9.1f}{_at(0.5, later):12.1f}{_at(0.95, later):9.1f}")
    # Neighbouring runs are compared: a slow moment of the machine then meets both.
    ratios = [http.rate / own.rate for own, http in zip(runs["in process"], runs["http"], strict=True)]
    own, http = (
        [statistics.median(firsts or [math.nan]) for firsts in _firsts(made, given.streams)] for made in runs.values()
    )
    more = [1000 * (over - inside) for over, inside in zip(http, own, strict=True)]
    print(
        f"over HTTP {100 * statistics.median(ratios):.1f}% of the throughput; "
        f"the first token {more[0]:+.1f} ms in the burst, {more[1]:+.1f} ms later"
    )
    asked = {"streams": given.streams, "requests": given.requests, "tokens": given.tokens, "dtype": given.dtype}
    every = {side: [run.rate for run in made] for side, made in runs.items()}
    print(json.dumps({"benchmark": "wire", **asked, "ratios": ratios, "first_ms": more, "rates": every}))


def _firsts(runs: Sequence[Run], streams: int) -> tuple[list[float], list[float]]:
    """Of those who came at once, and of those who came when another had left."""
    burst = [first for run in runs for first in run.firsts[:streams]]
    return burst, [first for run in runs for first in run.firsts[streams:]]


def _at(share: float, ordered: Sequence[float]) -> float:
    return ordered[int(share * len(ordered))] if ordered else math.nan


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument(
        "--tokens", type=int, nargs=2, default=[32, 96], help="new tokens of an answer, at least and at most"
    )
    parser.add_argument("--inputs", type=int, nargs=2, default=[32, 97], help="prompt tokens, the upper one excluded")
    parser.add_argument("--streams", type=int, default=32, help="answers at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


def _load(dice: random.Random, given: argparse.Namespace) -> Load:
    lengths = [dice.randint(*given.tokens) for _ in range(given.requests)]
    pauses = [0.0 if at < given.streams else dice.uniform(0, _LONGEST_PAUSE_S) for at in range(given.requests)]
    return Load(lengths, pauses, given.streams)


def _prompts(network: Network, dice: random.Random, given: argparse.Namespace) -> list[str]:
    tokenizer = network.base_model.tokenizer
    return [
        tokenizer.decode(random_prompt(dice, dice.randrange(*given.inputs), tokenizer.vocab_size))
        for _ in range(given.requests)
    ]


def in_process(network: Network, prompts: Sequence[str], load: Load) -> Run:
    speaker = network.base.speaker

    async def one(prompt: str, length: int, pause: float, room: asyncio.Semaphore) -> tuple[int, float]:
        async with room:
            await asyncio.sleep(pause)
            start, first, tokens = time.perf_counter(), 0.0, 0
            sampling = Sampling(max_tokens=length, ignore_eos=True)
            async for piece in speaker.speak(Asked((Message("user", prompt),), sampling=sampling)):
                first = first or time.perf_counter() - start
                tokens += piece.usage.completion if piece.usage else 0
            return tokens, first

    async def every() -> list[tuple[int, float]]:
        room = asyncio.Semaphore(load.streams)
        each = zip(prompts, load.lengths, load.pauses, strict=True)
        return await asyncio.gather(*(one(*asked, room) for asked in each))

    start = time.perf_counter()
    answers = sync.run(every())
    seconds = time.perf_counter() - start
    return Run(sum(tokens for tokens, _ in answers), seconds, [first for _, first in answers])


def over_http(url: str, prompts: Sequence[str], load: Load) -> Run:
    bodies = [
        {
            "model": BASE,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": length,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for prompt, length in zip(prompts, load.lengths, strict=True)
    ]
    asked = json.dumps({"url": url, "streams": load.streams, "bodies": bodies, "pauses": load.pauses})
    done = subprocess.run([sys.executable, str(CLIENT)], input=asked, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout))


@contextmanager
def served(network: Network) -> Iterator[str]:
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

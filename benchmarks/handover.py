"""Times the hand-over: eight specialists take turns on one growing transcript, activated and as plain LoRAs.

    python benchmarks/handover.py                  to 2,048 tokens, 32 more a turn, rank 16 on every linear
    python benchmarks/handover.py --tokens 512 --grows 64

An activated specialist still reads what was added since the last turn: `--grows` bounds what can be gained.
The two engines take turns, so that a slow moment of the machine meets both. The adapters are random: how well an
activated one answers is not asked here. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

from adapters import random_adapter

from plural import sync
from plural.engine import Engine, EngineSettings, Request
from plural.models.base import load_base
from plural.types import AdapterRef, Sampling

SPECIALISTS, ANSWER = 8, 8


async def first_token(engine: Engine, request: Request) -> float:
    """Seconds to the first token of the request, which is then read to its end."""
    start, first = time.perf_counter(), 0.0
    async for _ in engine.generate(request):
        first = first or time.perf_counter() - start
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help="the transcript at the last turn")
    parser.add_argument("--grows", type=int, default=32, help="tokens that it grows by from turn to turn")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "int8", "q4"], default="fp32")
    given = parser.parse_args()
    if given.tokens < SPECIALISTS * given.grows:
        parser.error(f"--tokens {given.tokens} has no room for {SPECIALISTS} turns of --grows {given.grows}")
    base = load_base()
    adapters = {one.digest: one for one in (random_adapter(base.config, s, given.rank) for s in range(SPECIALISTS))}
    dice, invocation = random.Random(0), base.chat.invocation()
    words = [dice.randrange(1000, base.tokenizer.vocab_size) for _ in range(given.tokens)]
    settings = EngineSettings(dtype=given.dtype)
    engines = {
        kind: Engine(base.decoder, base.tokenizer, adapters.__getitem__, settings) for kind in ("activated", "plain")
    }
    taken: dict[str, list[float]] = {kind: [] for kind in engines}
    print(f"{base.name}, {given.dtype}, rank {given.rank}; seconds to the first token")
    print(f"{'transcript':>12}{'activated':>12}{'plain':>12}")
    for turn, digest in enumerate(adapters):
        length = given.tokens - given.grows * (SPECIALISTS - 1 - turn)
        for kind, engine in engines.items():
            ref = AdapterRef(digest, offset=length if kind == "activated" else 0)
            request = Request((*words[:length], *invocation), Sampling(max_tokens=ANSWER, ignore_eos=True), ref)
            taken[kind].append(sync.run(first_token(engine, request)))
        print(f"{length:12}{taken['activated'][-1]:12.3f}{taken['plain'][-1]:12.3f}", flush=True)
    # Somebody has to read what the transcript begins with: the first turn is not a hand-over.
    medians = {kind: statistics.median(each[1:]) for kind, each in taken.items()}
    counted = {kind: engine.stats() for kind, engine in engines.items()}
    for engine in engines.values():
        engine.close()
    ratio = medians["plain"] / medians["activated"]
    one = given.tokens // engines["plain"].settings.page_size
    print(f"{'median 2-8':>12}{medians['activated']:12.3f}{medians['plain']:12.3f}   {ratio:.1f} times")
    for kind, stats in counted.items():
        print(
            f"{kind}: {stats.computed} tokens computed, {stats.pages_cached / one:.2f} of the pages of one transcript"
        )
    result = {kind: {"ttft": taken[kind], "computed": counted[kind].computed} for kind in engines}
    asked = {"tokens": given.tokens, "grows": given.grows, "dtype": given.dtype}
    print(json.dumps({"benchmark": "handover", **asked, "ratio": ratio, **result}))


if __name__ == "__main__":
    main()

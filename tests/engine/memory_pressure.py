"""Run by test_memory.py in a process of its own: an engine with a memory limit, all of its room asked for many times.

Prints JSON: `peak`, the largest resident set of the process in bytes, `limit`, and what the engine counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from plural.engine import Engine, EngineSettings, Request
from plural.models.base import Base, load_base
from plural.models.config import MODULES
from plural.specialists import AdapterConfig, AdapterWeights, read_adapter, write_adapter
from plural.types import AdapterRef, Sampling

RANK, FILES, ADAPTERS, REQUESTS, TOKENS = 64, 2, 28, 40, 400


def write_wide(base: Base, folder: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    sizes = base.shape.modules
    tensors = {
        (layer, module): (
            random.standard_normal((RANK, sizes[module][0]), np.float32) * 0.01,
            random.standard_normal((sizes[module][1], RANK), np.float32) * 0.01,
        )
        for layer in range(base.shape.num_layers)
        for module in MODULES
    }
    config = AdapterConfig(RANK, RANK, tuple(MODULES))
    write_adapter(folder, AdapterWeights("", config, tensors), base_name=base.name)
    return folder


def peak() -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def main(limit: int) -> None:
    base = load_base()
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_wide(base, Path(folder) / str(seed), seed) for seed in range(FILES)]

        def load(digest: str) -> AdapterWeights:
            return replace(read_adapter(paths[int(digest) % FILES], base.shape), digest=digest)

        engine = Engine(base.decoder, base.tokenizer, load, EngineSettings(memory=limit, threads=2, max_running=32))
        before = peak()
        random = np.random.default_rng(0)

        def prompt(tokens: int) -> tuple[int, ...]:
            return tuple(random.integers(0, 40_000, tokens).tolist())

        async def generate(number: int) -> None:
            sampling = Sampling(max_tokens=12, ignore_eos=True, temperature=1.0, seed=number)
            wanted = Request(prompt(TOKENS), sampling, AdapterRef(str(number % ADAPTERS)), priority=number % 2)
            async for _ in engine.generate(wanted):
                pass

        work = [generate(number) for number in range(REQUESTS)]
        work += [exhaust(engine.score(prompt(1200), AdapterRef(str(number)))) for number in range(2)]
        work += [exhaust(engine.embed([prompt(1200)])) for _ in range(1)]
        await asyncio.gather(*work)
        counted = asdict(engine.stats())
        engine.close()
    print(json.dumps({"limit": limit, "before": before, "peak": peak(), **counted}))


async def exhaust(work: object) -> None:
    await work  # type: ignore[misc]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

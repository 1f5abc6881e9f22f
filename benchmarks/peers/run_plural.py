"""Runs a job of runner.py on Plural's engine, through its public API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runner import Requests, given_job, run_cases

from plural import sync
from plural.engine import Engine, EngineSettings, Request
from plural.models.base import load_base
from plural.specialists.peft_files import adapter_digest, read_adapter
from plural.types import AdapterRef, Sampling


def main() -> None:
    job = given_job()
    base = load_base()
    paths = {adapter_digest(Path(path)): Path(path) for path in job["adapters"]}
    digests = list(paths)
    settings = EngineSettings(dtype=job["dtype"], threads=job["threads"], max_running=job["in_flight"])
    engine = Engine(base.decoder, base.tokenizer, lambda digest: read_adapter(paths[digest], base.shape), settings)

    async def answer(requests: Requests, in_flight: int) -> list[list[int]]:
        room = asyncio.Semaphore(in_flight)

        async def one(prompt: list[int], tokens: int, adapter: int | None) -> list[int]:
            ref = None if adapter is None else AdapterRef(digests[adapter])
            request = Request(tuple(prompt), Sampling(max_tokens=tokens, ignore_eos=True), ref)
            async with room:
                return [event.token_id async for event in engine.generate(request)]

        return await asyncio.gather(*[one(**request) for request in requests])

    run_cases(job, lambda requests, in_flight: sync.run(answer(requests, in_flight)))
    engine.close()


if __name__ == "__main__":
    main()

"""Minutes under load, and thousands of generated requests: `make slow` runs them."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.openai_suite.supposed import Supposing
from tests.serve.peers import environment
from tests.serve.tiny import Running, served, tiny_network

pytestmark = pytest.mark.slow
CLIENTS, SECONDS = 200, 120.0
CASES = 5_000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    network = tiny_network(tmp_path / "home", max_tokens=4)
    with served(network, records=tmp_path / "records.sqlite", max_inside=256, timeout=60) as running:
        yield running
    network.engine.check()
    network.close()


def held() -> tuple[int, int]:
    """Open descriptors, and resident bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


async def crowd(url: str, seconds: float) -> tuple[Counter[int], list[int]]:
    """How often each status came, and how many answers each client got to their end. A third leave at random."""
    statuses: Counter[int] = Counter()
    whole = [0] * CLIENTS
    end = time.monotonic() + seconds

    async def one(number: int, client: httpx.AsyncClient) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            model = dice.choice(["base", "clerk", "judge", "clerk:0.5+judge:0.5"])
            messages = [{"role": "user", "content": f"{number} " + "and so on " * dice.randrange(12)}]
            body = {"model": model, "messages": messages, "max_tokens": dice.randrange(1, 24), "stream": True}
            leaves = dice.randrange(8) if dice.random() < 1 / 3 else None
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                statuses[answer.status_code] += 1
                lines: list[str] = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if leaves is not None and len(lines) > leaves:
                        break
                else:
                    whole[number] += "data: [DONE]" in lines

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        await asyncio.gather(*(one(number, client) for number in range(CLIENTS)))
    return statuses, whole


async def test_a_crowd_of_which_a_third_leaves_leaks_nothing_and_nobody_starves(running: Running) -> None:
    await crowd(running.url, SECONDS / 10)  # what is kept for good is there afterwards
    await asyncio.sleep(1)
    descriptors, resident = held()
    statuses, whole = await crowd(running.url, SECONDS)
    await asyncio.sleep(1)
    assert set(statuses) == {200}
    assert min(whole) > 0
    assert running.server.service.gate.inside == 0
    assert running.network.engine.stats().pages_used == 0
    after, more = held()
    assert after <= descriptors + 2
    assert more - resident < 64 << 20


# Ids for which openai_suite/supposed.py makes something, so that not every request ends at a 404.
KNOWN = """[parameters]
"path.completion_id" = "completion_id"
"path.response_id" = "resp_id"
"path.file_id" = "file_id"
"path.name" = "clerk"
"""


def test_whatever_is_asked_is_answered_as_the_schema_says(tmp_path: Path) -> None:
    """schemathesis, from its own environment."""
    network = tiny_network(tmp_path / "home", max_tokens=4)
    (tmp_path / "schemathesis.toml").write_text(KNOWN)
    records = tmp_path / "records.sqlite"
    with served(network, records=records, around=lambda app: Supposing(app, network, tmp_path)) as running:
        _fuzz(running, tmp_path / "schemathesis.toml")
    network.engine.check()
    network.close()


def _fuzz(running: Running, config: Path) -> None:
    python = environment("schemathesis", "schemathesis==4.32.5")
    schema = httpx.get(f"{running.url}/openapi.json", timeout=60).json()
    routes = sum(len(methods) for methods in schema["paths"].values())
    checks = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"
    options: list[Any] = ["--checks", checks, "--seed", "1"]
    done = subprocess.run(
        [
            python,
            "-m",
            "schemathesis.cli",
            f"--config-file={config}",
            "run",
            f"{running.url}/openapi.json",
            "-n",
            str(CASES // routes + 1),
            *options,
        ],
        cwd=config.parent,  # where it keeps what it learned
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]

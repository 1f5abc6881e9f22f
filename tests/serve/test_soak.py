"""Minutes under load, and thousands of generated requests: `make slow` runs them."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.serve.desk import desk
from tests.serve.openai_suite.supposed import ROWS, Supposing
from tests.serve.peers import environment
from tests.serve.tiny import Running, served, stage_specialist, tiny_network

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


@dataclass
class Crowd:
    """How often each status came; of each client the streams that it left, that it stayed in, and that of those came
    whole: to their end, and without an error."""

    statuses: Counter[int] = field(default_factory=Counter)
    left: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    stayed: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    whole: list[int] = field(default_factory=lambda: [0] * CLIENTS)


async def crowd(url: str, seconds: float) -> Crowd:
    """A third leave at random."""
    seen = Crowd()
    end = time.monotonic() + seconds

    async def one(number: int, client: httpx.AsyncClient) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            model = dice.choice(["base", "clerk", "judge", "clerk:0.5+judge:0.5"])
            messages = [{"role": "user", "content": f"{number} " + "and so on " * dice.randrange(12)}]
            body = {"model": model, "messages": messages, "max_tokens": dice.randrange(1, 24), "stream": True}
            leaves = dice.randrange(8) if dice.random() < 1 / 3 else None
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                seen.statuses[answer.status_code] += 1
                lines: list[str] = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if leaves is not None and len(lines) > leaves:
                        seen.left[number] += 1
                        break
                else:
                    seen.stayed[number] += 1
                    failed = any(line.startswith('data: {"error"') for line in lines)
                    seen.whole[number] += "data: [DONE]" in lines and not failed

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        await asyncio.gather(*(one(number, client) for number in range(CLIENTS)))
    return seen


async def test_a_crowd_of_which_a_third_leaves_leaks_nothing_and_nobody_starves(running: Running) -> None:
    await crowd(running.url, SECONDS / 10)  # what is kept for good is there afterwards
    await asyncio.sleep(1)
    descriptors, resident = held()
    seen = await crowd(running.url, SECONDS)
    await asyncio.sleep(1)
    after, more = held()
    print(
        f"{sum(seen.statuses.values())} requests of {CLIENTS} clients in {SECONDS:.0f} s: {sum(seen.left)} left, "
        f"{sum(seen.whole)} of {sum(seen.stayed)} others came whole, {min(seen.whole)} to {max(seen.whole)} a client; "
        f"resident memory grew by {(more - resident) / (1 << 20):.1f} MiB; descriptors {descriptors}, then {after}"
    )
    assert set(seen.statuses) == {200}
    assert sum(seen.statuses.values()) == sum(seen.left) + sum(seen.stayed)
    assert seen.whole == seen.stayed
    assert min(seen.whole) > 0
    assert running.server.service.gate.inside == 0
    assert running.network.engine.stats().pages_used == 0
    assert after <= descriptors + 2
    assert more - resident < 64 << 20


# Ids for which openai_suite/supposed.py makes something, and names that there are, so that not every request ends at a
# refusal; and few tokens, so that thousands of answers take minutes.
KNOWN = """[parameters]
"path.completion_id" = "completion_id"
"path.response_id" = "resp_id"
"path.file_id" = "file_id"
"path.run_id" = "run_supposed"
"path.job_id" = "{job}"
"path.name" = "clerk"
"path.model" = "judge"
"body.model" = {{ dictionary = "models", probability = 0.9 }}
"body.path" = {{ dictionary = "paths", probability = 0.9 }}
"body.lora_path" = {{ dictionary = "paths", probability = 0.9 }}
"body.lora_name" = {{ dictionary = "names", probability = 0.9 }}
"body.task" = {{ dictionary = "tasks", probability = 0.9 }}
"body.training_file" = {{ dictionary = "files", probability = 0.9 }}
"body.hyperparameters.n_epochs" = {{ dictionary = "few" }}
"body.max_tokens" = {{ dictionary = "few" }}
"body.max_completion_tokens" = {{ dictionary = "few" }}
"body.max_output_tokens" = {{ dictionary = "few" }}
"body.deadline" = {{ dictionary = "seconds" }}

[dictionaries]
models = {{ values = ["base", "clerk", "network", "ledgers", "clerk:0.5+judge:0.5", "nobody"] }}
paths = {{ values = [".incoming/spare"] }}
tasks = {{ values = ["is this fair", "file this paper"] }}
names = {{ values = ["spare"] }}
files = {{ values = ["file-abc123"] }}
few = {{ values = [1, 2, 3] }}
seconds = {{ values = [60.0, 600.0] }}
"""
# Each of these must have been answered with a 2xx: what was generated for it did not all end at its door.
REACHED = {
    "POST /v1/chat/completions", "POST /v1/responses", "POST /v1/responses/input_tokens", "POST /v1/completions",
    "POST /v1/embeddings", "POST /v1/files", "POST /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs/JOB",
    "GET /v1/fine_tuning/jobs/JOB/events", "POST /v1/fine_tuning/jobs/JOB/cancel", "POST /v1/runs",
    *(f"GET /v1/runs/run_supposed{more}" for more in ("", "/events", "/replay")),
    *(f"POST /v1/runs/run_supposed/{act}" for act in ("approve", "deny", "answer", "cancel", "resume", "fork")),
    "GET /v1/teams/clerk", "POST /v1/teams/draft", "POST /v1/load_lora_adapter", "POST /v1/library/clerk/publish",
}  # fmt: skip


class Heard:
    """Around all else: how often each path was answered with a 2xx."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.well: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                self.well[f"{scope['method']} {scope['path']}"] += 1
            await send(message)

        await self._app(scope, receive, answer)


def test_whatever_is_asked_is_answered_as_the_schema_says(tmp_path: Path) -> None:
    """schemathesis, from its own environment."""
    network = tiny_network(tmp_path / "home", max_tokens=4, journal=tmp_path / "journal.db")
    stage_specialist(network.library.root / ".incoming" / "spare", network.base_model, seed=9, name="spare")
    offers, records = desk(network, tmp_path), tmp_path / "records.sqlite"
    with served(
        network, records=records, offers=offers, around=lambda app: Heard(Supposing(app, network, tmp_path))
    ) as running:
        config, job = tmp_path / "schemathesis.toml", _paused_job(running)
        config.write_text(KNOWN.format(job=job))
        _fuzz(running, config)
        heard = cast(Heard, running.server.app)
        well = {path.replace(job, "JOB"): times for path, times in heard.well.items()}
        print(sum(well.values()), "requests were answered with a 2xx")
    assert REACHED - set(well) == set()
    network.engine.check()
    network.close()


def _paused_job(running: Running) -> str:
    """Of a training that would take long."""
    with httpx.Client(base_url=f"{running.url}/v1") as client:
        form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", ROWS)}}
        file = client.post("/files", **form).json()["id"]
        asked = {"model": "base", "training_file": file, "hyperparameters": {"n_epochs": 1000}}
        job = str(client.post("/fine_tuning/jobs", json=asked).json()["id"])
        assert client.post(f"/fine_tuning/jobs/{job}/pause").json()["paused"]
    return job


def _fuzz(running: Running, config: Path) -> None:
    python = environment("schemathesis", "schemathesis==4.32.5")
    schema = httpx.get(f"{running.url}/openapi.json", timeout=60).json()
    routes = sum(len(methods) for methods in schema["paths"].values())
    checks = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"
    options: list[Any] = ["--checks", checks, "--seed", "1", "--request-timeout", "120"]
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
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None
    assert int(generated[1]) >= CASES

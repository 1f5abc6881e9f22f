"""kill -9 of the server under load, again and again: every journaled run comes to its right end, every effect once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from plural.teams.journal import Journal
from plural.types import RunFinished, StepStarted
from tests.serve import killable_server
from tests.serve.desk import world

OVER = ("finished", "failed", "cancelled")


class Owner:
    """Starts the server, kills it, and answers what its runs ask as a person does who looks at the world."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url, self.pid = folder, "", 0
        command = [sys.executable, "-m", killable_server.__name__]
        self._starter = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._starter.stdin
        assert self._starter.stdout
        self._orders, self._told = self._starter.stdin, self._starter.stdout

    def start(self) -> None:
        self._orders.write(f"{self.folder}\n")
        self.url, pid = self._told.readline().split()
        self.pid = int(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert int(self._told.readline()) == -signal.SIGKILL

    def close(self) -> None:
        self.kill()
        self._orders.close()
        self._told.close()
        self._starter.wait()

    def begin(self, name: str) -> str:
        body = {"model": "ledgers", "input": f"book for {name}"}
        while (answer := httpx.post(f"{self.url}/v1/runs", json=body, timeout=60)).status_code == 429:
            time.sleep(0.2)  # runs of earlier servers take all the room
        answer.raise_for_status()
        id: str = answer.json()["id"]
        return id

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {"limit": 100}
        while True:
            page = httpx.get(f"{self.url}/v1/runs", params=more, timeout=60).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            more["after"] = page["last_id"]

    def answer_truly(self, until: float) -> int:
        """Answers until every run is over, or until then. How many questions there were."""
        asked = 0
        while time.monotonic() < until:
            runs = self.listed()
            for run in runs:
                if run["status"] == "waiting":
                    asked += self._answer(run["id"])
            if all(run["status"] in OVER for run in runs):
                break
            time.sleep(0.05)
        return asked

    def _answer(self, id: str) -> int:
        questions = httpx.get(f"{self.url}/v1/runs/{id}", timeout=60).json()["questions"]
        for question in questions:
            assert question["kind"] == "outcome"
            line = question["call"]["arguments"]["line"]
            said = f"booked {line}" if line in world(self.folder) else "repeat"
            body = {"question": question["id"], "answer": said}
            assert httpx.post(f"{self.url}/v1/runs/{id}/answer", json=body, timeout=60).status_code == 200
        return len(questions)


@contextmanager
def load(owner: Owner) -> Iterator[None]:
    """Others who ask all the while, whatever becomes of their answers."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            body = {"model": "base", "messages": [{"role": "user", "content": "and so on"}], "max_tokens": 8}
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{owner.url}/v1/chat/completions", json=body, timeout=5)
            time.sleep(0.01)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def suffer(folder: Path, *, seed: int, kills: int, each: int) -> tuple[int, int]:
    """How many runs there were, and how often a person was asked."""
    chance, owner, names, asked = random.Random(seed), Owner(folder), list[str](), 0
    known: dict[str, str] = {}
    owner.start()
    try:
        with load(owner):
            for kill in range(kills):
                for number in range(each):
                    names.append(f"r{kill}x{number}")
                    known[owner.begin(names[-1])] = names[-1]
                asked += owner.answer_truly(time.monotonic() + chance.uniform(0.0, 0.3))
                time.sleep(chance.uniform(0.0, 0.1))
                owner.kill()
                owner.start()
            asked += owner.answer_truly(time.monotonic() + 300)
        runs = owner.listed()
        assert {run["id"] for run in runs} == set(known), "nothing is lost, nothing is there twice"
        assert {run["status"] for run in runs} == {"finished"}
        check_answers(owner, known)
    finally:
        owner.close()
    lines = Counter(world(folder))
    wanted = [f"{name} {who} {part}" for name in names for who in ("first", "second") for part in "ab"]
    assert lines == Counter(wanted), "every effect is there once"
    return len(runs), asked


def check_answers(owner: Owner, known: dict[str, str]) -> None:
    """Each run's answer is what its last member says to what the first two did, and those did it for this run."""
    with Journal(owner.folder / "journal.db") as journal:
        for id, name in known.items():
            events = [entry.what for entry in journal.entries(id.removeprefix("run_"))]
            (task,) = {event.task for event in events if isinstance(event, StepStarted) and event.step == 3}
            for who in ("first", "second"):
                assert f"{who} has done {name}: booked {name} {who} a, page 7, booked {name} {who} b" in task
            body = {"model": "clerk", "messages": [{"role": "user", "content": task}], "max_tokens": 8}
            said = httpx.post(f"{owner.url}/v1/chat/completions", json=body, timeout=60).json()
            (answer,) = [event.answer for event in events if isinstance(event, RunFinished)]
            assert answer == said["choices"][0]["message"]["content"]


def test_a_killed_server_goes_on_with_its_runs(tmp_path: Path) -> None:
    runs, _ = suffer(tmp_path, seed=1, kills=1, each=4)
    assert runs == 4


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    runs, asked = suffer(tmp_path, seed=2, kills=10, each=5)
    print(f"{runs} runs, 10 kills, a person was asked {asked} times")
    assert runs == 50
    assert asked > 0, "no kill met a call in its midst"

"""A person who has a server that is killed. Not a test itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from plural.teams.journal import Journal
from plural.types import RunFinished, StepStarted
from tests.serve import killable_server
from tests.serve.desk import world

OVER = ("finished", "failed", "cancelled")


class Owner:
    """Starts the server, kills it, and answers what its runs ask as a person does who looks at the world."""

    def __init__(self, folder: Path, *, world: Path | None = None, journal: str | None = None) -> None:
        self.folder, self.url, self.pid = folder, "", 0
        self.world, self.journal = world or folder, journal or str(folder / "journal.db")
        command = [sys.executable, "-m", killable_server.__name__]
        self._starter = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._starter.stdin
        assert self._starter.stdout
        self._orders, self._told = self._starter.stdin, self._starter.stdout

    def start(self) -> None:
        self._orders.write(f"{self.folder} {self.world} {self.journal}\n")
        self.url, pid = self._told.readline().split()
        self.pid = int(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert int(self._told.readline()) == -signal.SIGKILL

    def close(self, *, killed: bool = False) -> None:
        if not killed:
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
            said = f"booked {line}" if line in world(self.world) else "repeat"
            body = {"question": question["id"], "answer": said}
            assert httpx.post(f"{self.url}/v1/runs/{id}/answer", json=body, timeout=60).status_code == 200
        return len(questions)


def check_answers(owner: Owner, known: dict[str, str]) -> None:
    """Each run's answer is what its last member says to what the first two did, and those did it for this run."""
    with Journal(owner.journal) as journal:
        for id, name in known.items():
            events = [entry.what for entry in journal.entries(id.removeprefix("run_"))]
            (task,) = {event.task for event in events if isinstance(event, StepStarted) and event.step == 3}
            for who in ("first", "second"):
                assert f"{who} has done {name}: booked {name} {who} a, page 7, booked {name} {who} b" in task
            body = {"model": "clerk", "messages": [{"role": "user", "content": task}], "max_tokens": 8}
            said = httpx.post(f"{owner.url}/v1/chat/completions", json=body, timeout=60).json()
            (answer,) = [event.answer for event in events if isinstance(event, RunFinished)]
            assert answer == said["choices"][0]["message"]["content"]

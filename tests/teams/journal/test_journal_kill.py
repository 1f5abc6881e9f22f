"""kill -9 at random moments, then resume: the same answer, and every effect once, or asked about."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plural.teams.journal import Journal, replay
from plural.teams.journal.entries import Answered
from plural.types import Question, RunFinished
from tests.teams.journal import killable
from tests.teams.journal.postgres import Postgres


class Processes:
    """Processes that start in a moment: they are forked from one that has imported everything."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", killable.__name__]
        root = Path(__file__).parents[3]
        self.server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.server.stdin
        assert self.server.stdout
        self._orders, self._told = self.server.stdin, self.server.stdout

    def killed_after(self, folder: Path, run: str, seconds: float | None) -> bool:
        """Works on the run in a process that is killed after so long. True when it came to its own end."""
        self._orders.write(f"{folder} {run}\n".encode())
        pid = int(self._told.readline())
        if seconds is not None and not select.select([self._told], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
        status = int(self._told.readline())
        assert status in (0, -signal.SIGKILL)
        return status == 0

    def close(self) -> None:
        self._orders.close()
        self._told.close()
        self.server.wait()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()


def answer_truly(journal: Journal, folder: Path, run: str) -> None:
    """Says of every open call what a person would who looks at the world: its result, or "repeat"."""
    known = [(entry.seq, entry.what) for entry in journal.entries(run)]
    answered = {what.question for _, what in known if isinstance(what, Answered)}
    for seq, what in known:
        if isinstance(what, Question) and seq not in answered:
            assert what.call is not None
            (subject,) = what.call.arguments.values()
            done = subject in (*killable.counted(folder), *killable.inserted(folder))
            journal.answer(run, f"{what.call.name}ed {subject}" if done else "repeat")


def folder_in(path: Path, seed: int) -> Path:
    folder = path / str(seed)
    folder.mkdir()
    return folder


def suffer(
    processes: Processes, folder: Path, seed: int, longest: float, expected: str, database: str | None = None
) -> None:
    chance = random.Random(seed)
    run = killable.prepare(folder, database)
    with Journal(killable.where(folder)) as journal:
        kills = [chance.uniform(0, longest) for _ in range(chance.randint(1, 3))]
        while journal.find(run).status != "finished":
            processes.killed_after(folder, run, kills.pop() if kills else None)
            answer_truly(journal, folder, run)
        finished = list(journal.entries(run))[-1].what
        assert isinstance(finished, RunFinished)
        assert finished.answer == expected

        async def replayed() -> list[object]:
            return [event async for event in replay(journal, run, killable.agent(folder))]

        assert asyncio.run(replayed())[-1] == finished
    assert sorted(killable.counted(folder)) == killable.COUNTED
    assert killable.inserted(folder) == killable.INSERTED


@pytest.fixture(scope="module")
def undisturbed(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The answer of a run that nobody kills, and how long its process took."""
    for _ in ("warms up", "is timed"):
        folder = tmp_path_factory.mktemp("undisturbed")
        run = killable.prepare(folder)
        began = time.monotonic()
        assert processes.killed_after(folder, run, None)
    return (folder / "answer.txt").read_text(), time.monotonic() - began


def test_killed_at_twenty_moments(processes: Processes, undisturbed: tuple[str, float], tmp_path: Path) -> None:
    answer, seconds = undisturbed
    for seed in range(20):
        suffer(processes, folder_in(tmp_path, seed), seed, seconds, answer)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 300, 25))
def test_killed_at_two_hundred_moments(
    first: int, processes: Processes, undisturbed: tuple[str, float], tmp_path: Path
) -> None:
    answer, seconds = undisturbed
    for seed in range(first, first + 25):
        suffer(processes, folder_in(tmp_path, seed), seed, seconds, answer)


def test_killed_on_postgres(
    processes: Processes, undisturbed: tuple[str, float], tmp_path: Path, postgres: Postgres
) -> None:
    answer, seconds = undisturbed
    for seed in range(2):
        suffer(processes, folder_in(tmp_path, seed), seed, 2 * seconds, answer, postgres.url)


@pytest.mark.slow
def test_killed_on_postgres_at_a_hundred_moments(
    processes: Processes, undisturbed: tuple[str, float], tmp_path: Path, postgres: Postgres
) -> None:
    answer, seconds = undisturbed
    for seed in range(100, 200):
        suffer(processes, folder_in(tmp_path, seed), seed, 2 * seconds, answer, postgres.url)

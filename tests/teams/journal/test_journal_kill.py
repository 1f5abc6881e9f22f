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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
    processes: Processes,
    folder: Path,
    seed: int,
    whole: tuple[str, float],
    who: str = "agent",
    database: str | None = None,
) -> int:
    """How many kills hit the run: its process had written something and was not done."""
    (expected, longest), chance, hits = whole, random.Random(seed), 0
    run = killable.prepare(folder, database, who=who)
    with Journal(killable.where(folder)) as journal:
        kills = [chance.uniform(0, longest) for _ in range(chance.randint(1, 3))]
        while journal.find(run).status != "finished":
            before = journal.find(run).entries
            ended = processes.killed_after(folder, run, kills.pop() if kills else None)
            after = journal.find(run)
            hits += not ended and after.entries > before and after.status != "finished"
            answer_truly(journal, folder, run)
        finished = list(journal.entries(run))[-1].what
        assert isinstance(finished, RunFinished)
        assert finished.answer == expected

        async def replayed() -> list[object]:
            return [event async for event in replay(journal, run, killable.worker(folder))]

        assert asyncio.run(replayed())[-1] == finished
    assert sorted(killable.counted(folder)) == killable.COUNTED
    assert killable.inserted(folder) == killable.INSERTED
    return hits


def suffer_until(
    wanted: int, first: int, processes: Processes, path: Path, whole: tuple[str, float], *how: Any
) -> None:
    """Runs from seed `first` on, until so many kills have hit."""
    hits, seed = 0, first
    while hits < wanted:
        assert seed < first + 4 * wanted, f"only {hits} of {seed - first} runs' kills hit"
        hits += suffer(processes, folder_in(path, seed), seed, whole, *how)
        seed += 1


def left_alone(
    processes: Processes, folders: Iterable[Path], who: str, database: str | None = None
) -> tuple[str, float]:
    """The answer of a run that nobody kills, and how long its process took, the last time."""
    for folder in folders:
        run = killable.prepare(folder, database, who=who)
        began = time.monotonic()
        assert processes.killed_after(folder, run, None)
    return (folder / "answer.txt").read_text(), time.monotonic() - began


@pytest.fixture(scope="module")
def undisturbed(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, float]]:
    """Of each worker; the first run warms up."""
    folders = [tmp_path_factory.mktemp("undisturbed") for _ in range(4)]
    return {who: left_alone(processes, [folders.pop(), folders.pop()], who) for who in killable.WORKERS}


Undisturbed = Mapping[str, tuple[str, float]]


@pytest.mark.parametrize("who", killable.WORKERS)
def test_killed_at_ten_moments(processes: Processes, undisturbed: Undisturbed, tmp_path: Path, who: str) -> None:
    suffer_until(10, 0, processes, tmp_path, undisturbed[who], who)


@pytest.mark.slow
@pytest.mark.parametrize("who", killable.WORKERS)
@pytest.mark.parametrize("first", range(1000, 9000, 1000))
def test_killed_at_two_hundred_moments(
    first: int, who: str, processes: Processes, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Eight times 25 kills that hit, of one agent and of a team."""
    suffer_until(25, first, processes, tmp_path, undisturbed[who], who)


def on_postgres(processes: Processes, path: Path, who: str, url: str) -> tuple[str, float]:
    return left_alone(processes, [folder_in(path, at) for at in (-2, -1)], who, url)


@pytest.mark.parametrize("who", killable.WORKERS)
def test_killed_on_postgres(processes: Processes, tmp_path: Path, postgres: Postgres, who: str) -> None:
    whole = on_postgres(processes, tmp_path, who, postgres.url)
    suffer(processes, folder_in(tmp_path, 0), 0, whole, who, postgres.url)


@pytest.mark.slow
@pytest.mark.parametrize("who", killable.WORKERS)
def test_killed_on_postgres_at_fifty_moments(
    who: str, processes: Processes, tmp_path: Path, postgres: Postgres
) -> None:
    whole = on_postgres(processes, tmp_path, who, postgres.url)
    suffer_until(50, 100, processes, tmp_path, whole, who, postgres.url)

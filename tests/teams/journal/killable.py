"""A run whose tools change the world outside, in processes that can be killed. Not a test itself.

As a program it forks a process for each line (folder and run) that it reads, so that each starts in a moment: it prints
the process's number, and when that has ended its exit status.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage, BaseMessage

from plural.agents import Agent, mark, tool
from plural.teams.journal import Journal, resume
from plural.testing import ScriptedModel, calling
from plural.types import RunFinished

PAUSE_S = 0.004  # so that a kill meets a tool before, within and after its effect
TURNS = (
    (("count", {"what": "a"}), ("insert", {"row": 1})),
    (("look", {"page": 7}), ("count", {"what": "b"})),
    (("insert", {"row": 2}),),
)
COUNTED, INSERTED = ["a", "b"], [1, 2]


def next_words(messages: Sequence[BaseMessage]) -> str | AIMessage:
    """The same for the same conversation, whoever asks and whenever."""
    time.sleep(PAUSE_S)
    turn = sum(message.type == "ai" for message in messages)
    if turn < len(TURNS):
        return calling(*TURNS[turn], text=f"This is turn {turn}.")
    return "In the end: " + "; ".join(str(message.content) for message in messages if message.type == "tool")


def agent(folder: Path) -> Agent:
    @tool
    async def count(what: str) -> str:
        """Add a line to the counter file."""
        await asyncio.sleep(PAUSE_S)
        with (folder / "counter.txt").open("a") as file:
            file.write(f"{what}\n")
        await asyncio.sleep(PAUSE_S)
        return f"counted {what}"

    @tool
    async def insert(row: int) -> str:
        """Add a row to the database."""
        await asyncio.sleep(PAUSE_S)
        with sqlite3.connect(folder / "world.db") as database:
            database.execute("INSERT INTO world VALUES (?)", (row,))
        database.close()
        await asyncio.sleep(PAUSE_S)
        return f"inserted {row}"

    @mark(idempotent=True)
    @tool
    async def look(page: int) -> str:
        """Look at a page."""
        await asyncio.sleep(PAUSE_S)
        return f"page {page}"

    return Agent("worker", ScriptedModel([next_words] * (len(TURNS) + 1)), tools=[count, insert, look])


def where(folder: Path) -> Path | str:
    """The journal: a file, unless another file names a database."""
    named = folder / "journal.url"
    return named.read_text() if named.exists() else folder / "journal.db"


def prepare(folder: Path, database: str | None = None) -> str:
    """An empty world and a run that nobody has begun."""
    if database is not None:
        (folder / "journal.url").write_text(database)
    with sqlite3.connect(folder / "world.db") as database:
        database.execute("CREATE TABLE world (row INTEGER)")
    database.close()
    (folder / "counter.txt").touch()
    with Journal(where(folder)) as journal:
        return journal.create("Go.")


def counted(folder: Path) -> list[str]:
    return (folder / "counter.txt").read_text().split()


def inserted(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "world.db") as database:
        rows = [row for (row,) in database.execute("SELECT row FROM world ORDER BY row")]
    database.close()
    return rows


def work(folder: Path, run: str) -> None:
    """Goes on with the run; the answer, if it comes to one, lies in a file."""

    async def go() -> None:
        with Journal(where(folder)) as journal:
            async for event in resume(journal, run, agent(folder)):
                if isinstance(event, RunFinished):
                    (folder / "answer.txt").write_text(event.answer)

    asyncio.run(go())


def serve() -> None:
    for line in sys.stdin:
        folder, run = line.split()
        pid = os.fork()
        if not pid:
            work(Path(folder), run)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()

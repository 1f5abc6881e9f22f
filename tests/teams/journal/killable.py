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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool

from plural.agents import Agent, mark, tool
from plural.teams import Team, stop
from plural.teams.journal import Journal, resume
from plural.teams.patterns import graph, selector
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


def tools(folder: Path) -> list[BaseTool]:
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

    return [count, insert, look]


def agent(folder: Path) -> Agent:
    return Agent("worker", ScriptedModel([next_words] * (len(TURNS) + 1)), tools=tools(folder))


def doing(*calls: tuple[str, Mapping[str, Any]]) -> Callable[[Sequence[BaseMessage]], str | AIMessage]:
    """A model that has these made, all at once, and then says what came of them."""

    def next_(messages: Sequence[BaseMessage]) -> str | AIMessage:
        time.sleep(PAUSE_S)
        told = [str(message.content) for message in messages if message.type == "tool"]
        return "; ".join(told) if told else calling(*calls, text="I do it.")

    return next_


def team(folder: Path) -> Team:
    """Two members that change the world at once, then a speaker who is chosen, then a team."""

    def member(name: str, *calls: tuple[str, Mapping[str, Any]]) -> Agent:
        return Agent(name, ScriptedModel([doing(*calls)] * 2), tools=tools(folder))

    def sums_up(messages: Sequence[BaseMessage]) -> str:
        time.sleep(PAUSE_S)
        return "In the end: " + str(messages[-1].content).replace("\n", "; ")

    chosen = Team(
        "chosen",
        [member("b", ("look", {"page": 7}), ("count", {"what": "b"})), Agent("c", ScriptedModel([sums_up]))],
        selector(["b", "c"]),
        model=ScriptedModel([lambda _: "b", lambda _: "c"]),
        stop=stop.messages(2),
    )
    members = [member("a", ("count", {"what": "a"}), ("insert", {"row": 1})), member("d", ("insert", {"row": 2}))]
    return Team("all", [*members, chosen], graph([("a", "chosen"), ("d", "chosen")]))


WORKERS: Mapping[str, Callable[[Path], Agent | Team]] = {"agent": agent, "team": team}


def worker(folder: Path) -> Agent | Team:
    return WORKERS[(folder / "worker.txt").read_text()](folder)


def where(folder: Path) -> Path | str:
    """The journal: a file, unless another file names a database."""
    named = folder / "journal.url"
    return named.read_text() if named.exists() else folder / "journal.db"


def prepare(folder: Path, database: str | None = None, *, who: str = "agent") -> str:
    """An empty world and a run that nobody has begun."""
    (folder / "worker.txt").write_text(who)
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
            async for event in resume(journal, run, worker(folder)):
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

"""Runs with effects, and the processes on a cluster's nodes that work on them. Not a test itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable

from plural import Network
from plural.agents import Agent, mark, tool
from plural.errors import RunError
from plural.teams.journal import Journal, resume
from plural.testing import ScriptedModel, calling
from plural.types import RunFinished


def prepare(folder: Path) -> None:
    with sqlite3.connect(folder / "world.db") as world:
        world.execute("PRAGMA journal_mode=WAL")
        world.execute("CREATE TABLE stamped (paper TEXT PRIMARY KEY)")
    world.close()
    (folder / "paid.txt").touch()


def paid(folder: Path) -> list[str]:
    return (folder / "paid.txt").read_text().split()


def stamped(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "world.db") as world:
        found = [row[0] for row in world.execute("SELECT paper FROM stamped")]
    world.close()
    return found


def worker(network: Network, folder: Path, paper: str) -> Runnable[Any, Any]:
    """A specialist reads the paper, a cashier pays and has it stamped, another specialist says how it went."""

    @tool
    async def pay(paper: str) -> str:
        """Pays. Doing it twice is paying twice.

        Args:
            paper: What is paid.
        """
        await asyncio.sleep(0.05)
        line = os.open(folder / "paid.txt", os.O_WRONLY | os.O_APPEND)
        os.write(line, f"{paper}\n".encode())
        os.close(line)
        await asyncio.sleep(0.05)
        return f"paid {paper}"

    where = str(folder / "world.db")

    @mark(long=True, idempotent=True, retries=30)
    @tool
    def stamp(paper: str) -> str:
        """Stamps. It may be said twice.

        Args:
            paper: What is stamped.
        """
        import sqlite3

        with sqlite3.connect(where, timeout=30) as world:
            world.execute("INSERT OR IGNORE INTO stamped VALUES (?)", (paper,))
        world.close()
        return f"stamped {paper}"

    def next_words(messages: Sequence[BaseMessage]) -> str | AIMessage:
        turn = sum(message.type == "ai" for message in messages)
        return [calling(("pay", {"paper": paper})), calling(("stamp", {"paper": paper})), f"{paper} is done."][turn]

    def reader(name: str) -> Agent:
        return Agent(name, network.specialist(name).bind(max_tokens=150, ignore_eos=True))

    cashier = Agent("cashier", ScriptedModel([next_words] * 3), tools=[pay, stamp])
    return reader("clerk") | cashier | reader("judge")


class Owner:
    """Works on runs, many at once, on one node. `settings` are those of a network."""

    def __init__(self, settings: dict[str, Any], folder: Path, journal: str) -> None:
        self._folder = folder
        self._network = Network.open(**settings)
        self._journal = Journal(journal)

    async def work(self, run: str, paper: str) -> str | None:
        """The answer; None when a person has to be asked, or somebody else still holds the run."""
        last: object = None
        try:
            async for event in resume(self._journal, run, worker(self._network, self._folder, paper)):
                last = event
        except RunError:
            return None
        return last.answer if isinstance(last, RunFinished) else None

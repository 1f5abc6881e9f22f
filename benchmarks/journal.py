"""What the journal costs: per event, per tool call, and how a run of a hundred thousand events reads and resumes.

    python benchmarks/journal.py                              SQLite in a temporary folder
    python benchmarks/journal.py --journal postgresql+psycopg://user@host/name

A talking agent with a scripted model is run without a journal and with one; the difference is the journal's. A tool
that is not idempotent waits for the disk before it is called. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterable
from pathlib import Path

from langchain_core.messages import AIMessage

from plural.agents import Agent, Budget, mark, tool
from plural.teams.journal import Journal, begin, replay, resume
from plural.testing import ScriptedModel, calling
from plural.types import Event

WORDS = 200  # of one model's message


@mark(idempotent=True)
@tool
def look(page: int) -> str:
    """Read a page."""
    return f"page {page}"


@tool
def note(page: int) -> str:
    """Write a page."""
    return f"noted {page}"


def talker(turns: int, hands: str) -> Agent:
    """An agent that says `WORDS` words and calls one tool, `turns` times."""
    said: list[str | AIMessage] = [calling((hands, {"page": turn}), text="word " * WORDS) for turn in range(turns)]
    return Agent("talker", ScriptedModel([*said, "That is all."]), tools=[look, note], budget=Budget(steps=turns + 1))


async def timed(events: AsyncIterable[Event]) -> tuple[int, float]:
    began, count = time.perf_counter(), 0
    async for _ in events:
        count += 1
    return count, time.perf_counter() - began


async def overhead(journal: Journal, turns: int, rounds: int) -> dict[str, float]:
    """Seconds an event, of an agent whose events are nearly all words."""
    extra = []
    for _ in range(rounds):
        count, without = await timed(talker(turns, "look").events("Go."))
        _, with_it = await timed(begin(journal, talker(turns, "look"), "Go."))
        extra.append((with_it - without) / count)
    plain = [(await timed(begin(journal, talker(1, "look"), "Go.")))[1] for _ in range(rounds)]
    waited = [(await timed(begin(journal, talker(1, "note"), "Go.")))[1] for _ in range(rounds)]
    return {
        "event_s": statistics.median(extra),
        "event_worst_s": max(extra),
        "disk_wait_s": statistics.median(waited) - statistics.median(plain),
    }


async def long_run(journal: Journal, events: int) -> dict[str, float]:
    """One run of so many entries: the cost of its last thousand, its size, reading it, and resuming it at its end."""
    turns = events // (WORDS + 6)
    stamps: list[float] = []
    async for _ in begin(journal, talker(turns, "look"), "Go."):
        stamps.append(time.perf_counter())
    run = journal.runs()[0]
    began = time.perf_counter()
    count = sum(1 for _ in journal.entries(run.id))
    read = time.perf_counter() - began
    _, played = await timed(replay(journal, run.id))
    fork = journal.fork(run.id, count - 3)
    began = time.perf_counter()
    await timed(resume(journal, fork, talker(turns, "look")))
    return {
        "entries": count,
        "first_thousand_s": stamps[1000] - stamps[0],
        "last_thousand_s": stamps[-1] - stamps[-1001],
        "read_s": read,
        "replay_s": played,
        "resume_s": time.perf_counter() - began,
    }


async def measure(journal: Journal, given: argparse.Namespace) -> dict[str, float]:
    await timed(begin(journal, talker(2, "note"), "Warm up."))
    return {**await overhead(journal, given.turns, given.rounds), **await long_run(journal, given.events)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", help="a file or a database's URL")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=100_000, help="of the long run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        with Journal(given.journal or path) as journal:
            found = asyncio.run(measure(journal, given))
            entries = sum(run.entries for run in journal.runs())
        if given.journal is None:
            found["entry_bytes"] = path.stat().st_size / entries
    for what, value, unit in (
        ("an event: more", found["event_s"] * 1e3, "ms"),
        ("the same in the worst round", found["event_worst_s"] * 1e3, "ms"),
        ("a tool that is not idempotent: more", found["disk_wait_s"] * 1e3, "ms"),
        ("the long run's entries", found["entries"], ""),
        ("its first 1,000 events", found["first_thousand_s"], "s"),
        ("its last 1,000 events", found["last_thousand_s"], "s"),
        ("all of it read", found["read_s"], "s"),
        ("all of it played back", found["replay_s"], "s"),
        ("resumed at its end", found["resume_s"], "s"),
        ("on disk an entry", found.get("entry_bytes", 0.0), "bytes"),
    ):
        print(f"{what:<40}{value:12,.3f} {unit}")
    print(json.dumps({"benchmark": "journal", **found}))


if __name__ == "__main__":
    main()

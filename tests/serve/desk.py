"""What an owner adds to the tiny network: agents and teams that ask, wait, and change the world outside.

Their models are scripted by what was said, so that the same conversation goes on in the same way in any process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from plural.agents import Agent, handoff_to, mark, tool
from plural.teams import Proxy, Team, patterns
from plural.testing import ScriptedModel, calling
from plural.wiring.network import Network
from plural.wiring.offers import Offers

MANY = 100_000
PAUSE_S = float(os.environ.get("PLURAL_TEST_PAUSE", "0.002"))  # so that a kill meets a tool in its midst


def scripted(words: Callable[[Sequence[BaseMessage]], str | AIMessage]) -> ScriptedModel:
    return ScriptedModel([words] * MANY)


def world(folder: Path) -> list[str]:
    """What was done to it, in order."""
    path = folder / "world.txt"
    return path.read_text().splitlines() if path.exists() else []


def _said(messages: Sequence[BaseMessage], kind: str) -> list[str]:
    return [str(message.content) for message in messages if message.type == kind]


def payer(folder: Path) -> Agent:
    """Pays what it is told to, if a person agrees."""

    @mark(approval=True)
    @tool
    async def pay(amount: int) -> str:
        """Pay an amount."""
        await _done(folder, f"paid {amount}")
        return f"paid {amount}"

    def words(messages: Sequence[BaseMessage]) -> str | AIMessage:
        results = _said(messages, "tool")
        if results:
            return f"It came to this: {results[-1]}"
        amount = "".join(filter(str.isdigit, _said(messages, "human")[-1])) or "1"
        return calling(("pay", {"amount": int(amount)}), text="I will pay.")

    return Agent("payer", scripted(words), tools=[pay], description="Pays, if a person agrees.")


def talkers() -> Team:
    """An agent asks a person and does what was answered."""

    def words(messages: Sequence[BaseMessage]) -> str:
        heard = _said(messages, "human")[-1]
        return f"As you say: {heard.splitlines()[-1]}" if "user" in heard else "Which colour?"

    asker = Agent("asker", scripted(words), description="Asks.")
    return Team(
        "talkers", [asker, Proxy("user")], patterns.graph([("asker", "user")]), description="Asks a person, once."
    )


def ledgers(network: Network, folder: Path) -> Team:
    """Two who change the world, one after the other, then a specialist of the network."""

    def booking(who: str) -> Agent:
        @tool
        async def book(line: str) -> str:
            """Write a line into the book, for good."""
            await _done(folder, line)
            return f"booked {line}"

        @mark(idempotent=True)
        @tool
        async def look(page: int) -> str:
            """Look at a page."""
            await asyncio.sleep(PAUSE_S)
            return f"page {page}"

        def words(messages: Sequence[BaseMessage]) -> str | AIMessage:
            name = _said(messages, "human")[0].split()[-1] if who == "first" else _run_in(messages)
            turn = len([one for one in messages if one.type == "ai"])
            if turn == 0:
                return calling(("book", {"line": f"{name} {who} a"}), ("look", {"page": 7}), text="I begin.")
            if turn == 1:
                return calling(("book", {"line": f"{name} {who} b"}))
            return f"{who} has done {name}: " + ", ".join(_said(messages, "tool"))

        return Agent(who, scripted(words), tools=[book, look], description=f"The {who} clerk.")

    clerk = network.agent("clerk")
    members = [booking("first"), booking("second"), Agent("third", clerk.model, description="Files it.")]
    pattern = patterns.round_robin(["first", "second", "third"], rounds=1)
    return Team("ledgers", members, pattern, description="Books what it is told.")


def _run_in(messages: Sequence[BaseMessage]) -> str:
    """The name of the run, out of what the first one said."""
    return _said(messages, "human")[0].partition("has done ")[2].partition(":")[0]


async def _done(folder: Path, line: str) -> None:
    await asyncio.sleep(PAUSE_S)
    with (folder / "world.txt").open("a") as file:
        file.write(f"{line}\n")
    await asyncio.sleep(PAUSE_S)


def relay() -> Team:
    """One hands the conversation over to the other."""
    passing = calling(("hand_over_to_finisher", {"task": "The lamp is broken."}))
    starter = Agent("starter", scripted(lambda _: passing), tools=[handoff_to("finisher")], description="Listens.")
    finisher = Agent("finisher", scripted(lambda _: "It works again."), description="Mends.")
    return Team("relay", [starter, finisher], patterns.handoff(["starter", "finisher"]), description="Mends a lamp.")


def sender(folder: Path) -> Agent:
    """Sends a letter. The first time nobody hears whether it was sent."""

    @tool
    async def send(letter: str) -> str:
        """Send a letter."""
        first = f"sent {letter}" not in world(folder)
        await _done(folder, f"sent {letter}")
        await asyncio.sleep(600 if first else 0)
        return f"sent {letter}"

    def words(messages: Sequence[BaseMessage]) -> str | AIMessage:
        results = _said(messages, "tool")
        return f"It came to this: {results[-1]}" if results else calling(("send", {"letter": messages[-1].text}))

    return Agent("sender", scripted(words), tools=[send], description="Sends letters.")


def slow() -> Agent:
    """Waits a moment, three times, and then for longer than anybody does."""

    @mark(idempotent=True)
    @tool
    async def wait(seconds: float) -> str:
        """Wait."""
        await asyncio.sleep(seconds)
        return "waited"

    def words(messages: Sequence[BaseMessage]) -> AIMessage:
        waited = len(_said(messages, "tool"))  # the same call twice would end it
        return calling(("wait", {"seconds": 0.01 * waited if waited < 3 else 600.0}))

    return Agent("slow", scripted(words), tools=[wait], description="Waits.")


def broken() -> Agent:
    def words(_: Sequence[BaseMessage]) -> str:
        raise ZeroDivisionError("the secret of /etc/shadow")

    return Agent("broken", scripted(words))


def desk(network: Network, folder: Path) -> Offers:
    workers: dict[str, Any] = {
        one.name: one
        for one in (
            payer(folder), talkers(), ledgers(network, folder), relay(), sender(folder), slow(), broken(),
        )
    }  # fmt: skip
    return Offers(workers)

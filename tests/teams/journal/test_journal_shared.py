"""One journal for many processes: whose a run is, what a wrong clock changes, and a database that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from plural.agents import Agent, tool
from plural.errors import EngineStopped, RunError, StorageError
from plural.teams.journal import Journal, resume
from plural.teams.journal import reaching as reaching_
from plural.teams.journal import store as store_
from plural.testing import ScriptedModel, calling
from plural.types import RunFinished
from tests.teams.journal.postgres import Postgres

ANSWER = "All three are bought."


class World:
    """What tools change outside, and something to do when a tool runs."""

    def __init__(self, meanwhile: Callable[[str], None] = lambda _what: None) -> None:
        self.bought: list[str] = []
        self._meanwhile = meanwhile

    def agent(self) -> Agent:
        @tool
        def buy(what: str) -> str:
            """Buy something."""
            self.bought.append(what)
            self._meanwhile(what)
            return f"bought {what}"

        turns = [calling(("buy", {"what": what}), text=f"Now {what}.") for what in ("tea", "milk", "salt")]
        said = [*turns, ANSWER]
        # By the conversation, so that whoever goes on says what is next.
        answers = [lambda messages: said[sum(message.type == "ai" for message in messages)]] * 9
        return Agent("buyer", ScriptedModel(answers), tools=[buy])


async def finish(journal: Journal, run: str, world: World) -> str:
    events = [event async for event in resume(journal, run, world.agent())]
    assert isinstance(events[-1], RunFinished)
    return events[-1].answer


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    sqlite = request.param == "sqlite"
    with Journal(tmp_path / "journal.db" if sqlite else request.getfixturevalue("postgres").new()) as journal:
        yield journal


@pytest.fixture
def shared(postgres: Postgres) -> Iterator[Journal]:
    with Journal(postgres.new()) as journal:
        yield journal


def owner_of(journal: Journal, run: str) -> str:
    with journal._reading() as connection:
        return str(connection.exec_driver_sql(f"SELECT owner FROM runs WHERE id = '{run}'").scalar())


def changed(journal: Journal, run: str, **columns: str) -> None:
    """As if another machine had written it; values are SQL."""
    said = ", ".join(f"{name} = {value}" for name, value in columns.items())
    with journal._writing() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET {said} WHERE id = '{run}'")


# ---------------------------------------------------------------------------------------------------------- whose it is
def test_another_machines_lease_is_waited_for(shared: Journal) -> None:
    run = shared.create("Go.")
    changed(shared, run, owner="'elsewhere:1 7 8 9'", owned_until="extract(epoch from clock_timestamp()) + 20")
    with pytest.raises(RunError, match="is worked on by process 7 on elsewhere"):
        asyncio.run(finish(shared, run, World()))
    assert shared.find(run).status == "running"
    assert shared.interrupted(killed=True) == []
    changed(shared, run, owned_until="extract(epoch from clock_timestamp())")
    assert shared.find(run).status == "interrupted"
    assert [one.id for one in shared.interrupted(killed=True)] == [run]
    assert asyncio.run(finish(shared, run, World())) == ANSWER


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0], ids=["a day behind", "a day ahead"])
def test_a_wrong_clock_takes_no_run_and_loses_none(
    shared: Journal, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, dead = shared.create("Go."), shared.create("Go.")
    changed(shared, alive, owner="'elsewhere:1 7 8 9'", owned_until="extract(epoch from clock_timestamp()) + 20")
    changed(shared, dead, owner="'elsewhere:1 7 8 9'", owned_until="extract(epoch from clock_timestamp()) - 1")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    with pytest.raises(RunError, match=r"try again in (19|20) s"):
        asyncio.run(finish(shared, alive, World()))
    assert [one.id for one in shared.interrupted(killed=True)] == [dead]
    assert asyncio.run(finish(shared, dead, World())) == ANSWER
    # What this one owns is owned by the database's clock, too.
    with shared.owned(shared.create("Go.")) as log:
        log.keep()
        with shared._reading() as connection:
            left = connection.exec_driver_sql(
                f"SELECT owned_until - extract(epoch from clock_timestamp()) FROM runs WHERE id = '{log.run}'"
            ).scalar()
        assert 25 < float(left) <= 30


def test_containers_of_one_name_are_told_apart(shared: Journal) -> None:
    """Another container's process numbers say nothing here, whatever it is called."""
    run = shared.create("Go.")
    with shared.owned(run):
        mine = owner_of(shared, run)
    host, _, rest = mine.partition(":")
    theirs = f"{host}:000000000000 {rest.split(' ', 1)[1]}"
    assert theirs != mine
    changed(shared, run, owner=f"'{theirs}'", owned_until="extract(epoch from clock_timestamp()) + 20")
    with pytest.raises(RunError, match="is worked on"):
        asyncio.run(finish(shared, run, World()))


async def test_an_owner_that_slept_too_long_changes_nothing_more(shared: Journal) -> None:
    """It is stopped in the middle of the second tool; another one has the run by then."""
    run = shared.create("Go.")
    other = World()
    answers: list[str] = []

    def taken(what: str) -> None:
        if what == "milk":
            changed(shared, run, owned_until="0")

            def go_on() -> None:
                with contextlib.suppress(AssertionError):  # it is asked what became of the milk
                    answers.append(asyncio.run(finish(shared, run, other)))

            thread = Thread(target=go_on)
            thread.start()
            thread.join()

    slept = World(taken)
    with pytest.raises(RunError, match="taken over"):
        await finish(shared, run, slept)
    assert slept.bought == ["tea", "milk"]
    assert shared.find(run).status == "waiting"
    shared.answer(run, "bought milk")
    assert await finish(shared, run, other) == ANSWER
    assert other.bought == ["salt"]


# ------------------------------------------------------------------------------------------------------------- adopted
def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def orphaned(journal: Journal, count: int) -> list[str]:
    made = [journal.create(f"Go {number}.") for number in range(count)]
    for run in made:
        changed(journal, run, owner="'elsewhere:1 7 8 9'", owned_until="1")
    return made


def test_orphans_are_gone_on_with_once(journal: Journal) -> None:
    """However many look for them at the same time. A run that somebody stopped is none."""
    worlds = {run: World() for run in orphaned(journal, 6)}
    stopped = journal.create("Somebody stopped this one.")
    finished: list[str] = []

    def look() -> None:
        for orphan in journal.interrupted(killed=True):
            with contextlib.suppress(RunError):  # another one has it
                asyncio.run(finish(journal, orphan.id, worlds[orphan.id]))
                finished.append(orphan.id)

    looking = [Thread(target=look) for _ in range(3)]
    for one in looking:
        one.start()
    for one in looking:
        one.join()
    assert set(finished) == set(worlds)
    assert all(world.bought == ["tea", "milk", "salt"] for world in worlds.values())
    assert journal.find(stopped).status == "interrupted"


async def test_a_run_whose_engine_was_closed_is_left_to_others(journal: Journal) -> None:
    run = journal.create("Go.")

    def fail(_messages: Any) -> str:
        raise EngineStopped("The engine was closed.")

    with pytest.raises(EngineStopped):
        [event async for event in resume(journal, run, Agent("buyer", ScriptedModel([fail])))]
    assert [one.id for one in journal.interrupted(killed=True)] == [run]
    assert await finish(journal, run, World()) == ANSWER


# ----------------------------------------------------------------------------------------------------- a database away
def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching_.persistently, "__kwdefaults__", {"patience": 0.5})
    with pytest.raises(
        StorageError, match=r"postgresql.*:\*\*\*@127.0.0.1:1/x cannot be reached: .*; tried \d+ times in"
    ):
        Journal("postgresql+psycopg://me:secret@127.0.0.1:1/x")


def test_who_means_no_is_asked_once(postgres: Postgres) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match='database "nowhere" does not exist'):
        Journal(postgres.url.replace("/postgres", "/nowhere"))
    assert time.monotonic() - began < 5


async def test_a_database_that_comes_back(postgres: Postgres) -> None:
    """It is gone when the first tool returns, and is there again a moment later."""
    with Journal(postgres.new()) as journal:
        run = journal.create("Go.")

        def gone(what: str) -> None:
            if what == "tea":
                postgres.stop()
                thread = Thread(target=lambda: (time.sleep(0.5), postgres.begin()))
                thread.start()
                thread.join()

        world = World(gone)
        assert await finish(journal, run, world) == ANSWER
        assert world.bought == ["tea", "milk", "salt"]
        assert journal.find(run).status == "finished"


async def test_a_database_that_stays_away(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching_.persistently, "__kwdefaults__", {"patience": 0.3})
    with Journal(postgres.new()) as journal:
        run = journal.create("Go.")
        world = World(lambda what: postgres.stop() if what == "milk" else None)
        try:
            with pytest.raises(StorageError, match="cannot be reached"):
                await finish(journal, run, world)
        finally:
            postgres.start()
        # Nobody could be told that the second tool had returned: who goes on has to ask.
        changed(journal, run, owned_until="0")
        events = [event async for event in resume(journal, run, world.agent())]
        assert events[-1].text.startswith("buy")  # type: ignore[union-attr]
        journal.answer(run, "bought milk")
        assert await finish(journal, run, world) == ANSWER
        assert world.bought == ["tea", "milk", "salt"]


def test_what_was_written_though_nobody_heard_is_not_written_twice(journal: Journal) -> None:
    from plural.teams.journal.entries import Answered

    with journal.owned(journal.create("Go.")) as log:
        row = store_._row(log.run, 1, "", Answered(0, "yes"))
        log._write(row)
        log._write(row)  # the connection broke before its answer came
        with pytest.raises(RunError, match="taken over"):
            log._write({**row, "at": 0.5})

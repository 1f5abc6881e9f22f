"""Runs in a journal, through its public doors: begun, resumed, played back, forked, refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool

from plural.agents import Agent, Budget, Middleware, Observation, mark, tool
from plural.agents.marks import send_long_tools
from plural.agents.middleware import ToolRunner
from plural.errors import LimitError, RunError, SettingsError, StorageError
from plural.teams.journal import Journal, begin, open_questions, replay, resume
from plural.testing import ScriptedModel, calling
from plural.types import Event, Question, RunFinished, StepFinished, TextDelta, ToolCall, ToolReturned, Usage


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    sqlite = request.param == "sqlite"
    with Journal(tmp_path / "journal.db" if sqlite else request.getfixturevalue("postgres").new()) as journal:
        yield journal


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


class World:
    """Something outside that tools change."""

    def __init__(self) -> None:
        self.bought: list[str] = []

    def agent(self, model: Any, **options: Any) -> Agent:
        @tool
        def buy(what: str) -> str:
            """Buy something."""
            self.bought.append(what)
            return f"bought {what}"

        return Agent("buyer", model, tools=[buy], **options)


def shopping(*left: str | AIMessage) -> ScriptedModel:
    return ScriptedModel(left)


FIRST = calling(("buy", {"what": "tea"}), ("buy", {"what": "milk"}), text="I buy two things.")


def last_run(journal: Journal) -> str:
    return journal.runs()[0].id


async def begun(journal: Journal, worker: Any, request: Any = "Go.") -> tuple[str, list[Event]]:
    events = await all_of(begin(journal, worker, request))
    return last_run(journal), events


async def test_a_run_is_the_same_with_a_journal_and_without(journal: Journal) -> None:
    run, events = await begun(journal, World().agent(shopping(FIRST, "All bought.")))
    plain = await all_of(World().agent(shopping(FIRST, "All bought.")).events("Go."))
    timeless = [str(event).split("seconds")[0] for event in events]
    assert timeless == [str(event).split("seconds")[0] for event in plain]
    info = journal.find(run)
    assert (info.status, info.title, info.parent) == ("finished", "Go.", None)


async def test_a_finished_run_is_played_back_without_a_model_and_to_the_second(journal: Journal) -> None:
    run, events = await begun(journal, World().agent(shopping(FIRST, "All bought.")))
    assert await all_of(replay(journal, run)) == events
    assert await all_of(resume(journal, run, World().agent(shopping()))) == events
    world = World()
    assert await all_of(replay(journal, run, world.agent(shopping()))) == events
    assert world.bought == []


async def test_a_replay_of_something_else_is_refused(journal: Journal) -> None:
    run, _ = await begun(journal, World().agent(shopping(FIRST, "All bought.")))
    with pytest.raises(RunError, match=r"Call 0 of 0\.buyer asks its model something else"):
        await all_of(replay(journal, run, World().agent(shopping(), instructions="Haggle.")))


async def test_a_long_tool_of_a_run_is_sent_as_it_is_and_its_call_is_written_down(journal: Journal) -> None:
    """Its recorder was sent with it, which no other process can have; nor was the failure in the journal."""
    sent: list[BaseTool] = []

    async def away(tool: BaseTool, request: Mapping[str, Any]) -> Any:
        sent.append(tool)
        return await tool.ainvoke(dict(request))

    @mark(long=True)
    @tool
    def square(number: int) -> str:
        """Square a number.

        Args:
            number: Which one.
        """
        return str(number**2)

    send_long_tools(away)
    try:
        script = [calling(("square", {"number": 3})), "Nine."]
        run, events = await begun(journal, Agent("clerk", ScriptedModel(script), tools=[square]))
    finally:
        send_long_tools(None)
    assert sent == [square]
    assert [event.result for event in events if isinstance(event, ToolReturned)] == ["9"]
    assert await all_of(replay(journal, run, Agent("clerk", ScriptedModel([]), tools=[square]))) == events
    assert sum(isinstance(entry.what, ToolReturned) for entry in journal.entries(run)) == 1


async def test_any_prefix_of_a_journal_comes_to_the_same_end(journal: Journal) -> None:
    """Each entry is the last one that was written before the power went; a person knows what was bought."""
    run, events = await begun(journal, World().agent(shopping(FIRST, "All bought.")))
    answer = events[-1]
    asked = 0
    for at in range(journal.find(run).entries):
        cut = journal.fork(run, at)
        kinds = [type(entry.what).__name__ for entry in journal.entries(cut)]
        left = [FIRST, "All bought."][kinds.count("ModelReturned") :]
        world = World()
        worker = world.agent(shopping(*left))
        while not isinstance((now := await all_of(resume(journal, cut, worker)))[-1], RunFinished):
            assert world.bought == []  # nothing is done while somebody is asked
            assert all(isinstance(event, Question) for event in now)
            journal.answer(cut, "repeat")
            asked += 1
        assert len(world.bought) == 2 - kinds.count("ToolReturned")
        assert (now[-1].answer, now[-1].usage) == (answer.answer, answer.usage)  # type: ignore[union-attr]
        assert await all_of(replay(journal, cut)) == now
        assert journal.find(cut).status == "finished"  # also when it was killed right after its last entry
    assert asked == 4  # one call open, then both, then the second, whose neighbour had returned


async def test_results_are_shown_in_the_order_they_came_in_and_are_played_back_in_it(journal: Journal) -> None:
    """A run that was resumed showed them in the order of its calls; its replay did not."""
    came = asyncio.Event()

    @tool
    async def slow() -> str:
        """Come last."""
        await came.wait()
        return "slow"

    @tool
    async def quick() -> str:
        """Come first."""
        came.set()
        return "quick"

    def agent(*left: str | AIMessage) -> Agent:
        return Agent("worker", shopping(*left), tools=[slow, quick])

    whole = journal.create("Go.")
    events = await all_of(resume(journal, whole, agent(calling(("slow", {}), ("quick", {})), "Done.")))
    results = [event for event in events if isinstance(event, ToolReturned)]
    assert [event.result for event in results] == ["quick", "slow"]
    last = max(entry.seq for entry in journal.entries(whole) if isinstance(entry.what, ToolReturned))
    cut = journal.fork(whole, last)
    again = await all_of(resume(journal, cut, agent("Done.")))
    assert [event for event in again if isinstance(event, ToolReturned)] == results
    assert await all_of(replay(journal, cut)) == again


async def test_a_result_that_middleware_changed_is_shown_once_and_as_it_was_changed(journal: Journal) -> None:
    class Louder(Middleware):
        async def around_tool(self, call: ToolCall, run: ToolRunner) -> Observation:
            result, failed = await run(call)
            return Observation(result.upper(), failed)

    world, run = World(), journal.create("Buy.")
    agent = world.agent(shopping(FIRST, "Done."), middleware=[Louder()])
    events = await all_of(resume(journal, run, agent))
    said = [event.result for event in events if isinstance(event, ToolReturned)]
    assert sorted(said) == ["BOUGHT MILK", "BOUGHT TEA"]
    assert await all_of(replay(journal, run)) == events
    assert await all_of(replay(journal, run, agent)) == events


@pytest.mark.parametrize(
    ("said", "told", "bought"), [("done", "It was done.", []), ("It was 2 euros.", "It was 2 euros.", [])]
)
async def test_what_a_person_says_of_an_interrupted_call_is_its_result(
    journal: Journal, said: str, told: str, bought: list[str]
) -> None:
    run, _ = await begun(journal, World().agent(shopping(calling(("buy", {"what": "tea"})), "Bought.")))
    open_at = next(entry.seq for entry in journal.entries(run) if type(entry.what).__name__ == "ToolBegun")
    cut = journal.fork(run, open_at)
    world, model = World(), shopping("Bought.")
    (question,) = await all_of(resume(journal, cut, world.agent(model)))
    assert isinstance(question, Question)
    assert "buy(what='tea') was interrupted" in question.text
    assert journal.find(cut).status == "waiting"
    journal.answer(cut, said)
    await all_of(resume(journal, cut, world.agent(model)))
    assert [message.content for message in model.asked[0].messages if message.type == "tool"] == [told]
    assert world.bought == bought
    with pytest.raises(RunError, match="asks nothing"):
        journal.answer(cut, said)


async def test_an_idempotent_tool_is_called_again_and_nobody_is_asked(journal: Journal) -> None:
    calls: list[int] = []

    @mark(idempotent=True)
    @tool
    def square(number: int) -> int:
        """Square a number."""
        calls.append(number)
        return number**2

    script = [calling(("square", {"number": 3})), "Nine."]
    run, _ = await begun(journal, Agent("clerk", ScriptedModel(script), tools=[square]))
    open_at = next(entry.seq for entry in journal.entries(run) if type(entry.what).__name__ == "ToolBegun")
    events = await all_of(
        resume(journal, journal.fork(run, open_at), Agent("clerk", ScriptedModel(["Nine."]), tools=[square]))
    )
    assert isinstance(events[-1], RunFinished)
    assert calls == [3, 3]


async def test_a_tool_without_a_schema_of_its_own_is_recorded_too(journal: Journal) -> None:
    class Shout(BaseTool):
        name: str = "shout"
        description: str = "Say it louder."

        def _run(self, word: str) -> str:
            return word.upper()

    script = [calling(("shout", {"word": "tea"})), calling(("shout", {"wrong": 1})), "Done."]
    run, events = await begun(journal, Agent("crier", ScriptedModel(script), tools=[Shout()]))
    told = [event.result for event in events if isinstance(event, ToolReturned)]
    assert told == ["TEA", "shout takes no argument wrong=1. It takes: word."]
    assert await all_of(replay(journal, run, Agent("crier", ScriptedModel([]), tools=[Shout()]))) == events


async def test_an_agent_that_is_a_tool_goes_on_inside(journal: Journal) -> None:
    """The inner agent was interrupted after it had bought something: that is neither asked about nor repeated."""
    inner_script: list[Any] = [calling(("buy", {"what": "tea"})), "Tea is there."]
    outer_script: list[Any] = [calling(("buyer", {"input": "Get tea."})), "Thank you."]

    def team(world: World, inner: list[Any], outer: list[Any]) -> Agent:
        return Agent("host", ScriptedModel(outer), tools=[world.agent(ScriptedModel(inner))])

    run, events = await begun(journal, team(World(), inner_script, outer_script))
    known = list(journal.entries(run))
    bought = next(entry for entry in known if getattr(entry.what, "result", "") == "bought tea")
    assert bought.path == "0.host/call_0/0.buyer/call_0"
    world = World()
    again = await all_of(resume(journal, journal.fork(run, bought.seq), team(world, ["Tea is there."], ["Thank you."])))
    assert again[-1].answer == "Thank you."  # type: ignore[union-attr]
    assert world.bought == []
    assert not any("Tea is there" in str(event) for event in events if isinstance(event, TextDelta))
    assert await all_of(replay(journal, run)) == events


async def test_agents_inside_of_a_chain_are_recorded(journal: Journal) -> None:
    def chain(*left: str) -> Any:
        model = ScriptedModel(left)
        return Agent("writer", model) | RunnableLambda(lambda text: f"Improve: {text}") | Agent("editor", model)

    run, events = await begun(journal, chain("A draft.", "A text."), [HumanMessage("Write.")])
    assert [type(event) for event in events] == [RunFinished]
    assert await all_of(replay(journal, run, chain())) == events
    first = next(entry.seq for entry in journal.entries(run) if type(entry.what).__name__ == "ModelReturned")
    again = await all_of(resume(journal, journal.fork(run, first), chain("Another text.")))
    assert again[-1].answer == "Another text."  # type: ignore[union-attr]


async def test_a_model_that_failed_is_asked_again_on_resume(journal: Journal) -> None:
    with pytest.raises(OSError, match="gone"):
        await begun(journal, World().agent(shopping(FIRST, OSError("gone"))))  # type: ignore[arg-type]
    run = last_run(journal)
    assert journal.find(run).status == "failed"
    world = World()
    events = await all_of(resume(journal, run, world.agent(shopping("All bought."))))
    assert events[-1].answer == "All bought."  # type: ignore[union-attr]
    assert world.bought == []
    assert await all_of(replay(journal, run)) == events


async def test_an_error_that_somebody_caught_is_played_back(journal: Journal) -> None:
    def chain(*left: Any) -> Any:
        spare = Agent("spare", ScriptedModel(left[1:]))
        return Agent("main", ScriptedModel(left[:1])).with_fallbacks([spare])

    run, events = await begun(journal, chain(LimitError("too much"), "From the spare."))
    assert await all_of(replay(journal, run, chain())) == events
    assert events[-1].answer == "From the spare."  # type: ignore[union-attr]


async def test_a_fork_shares_what_it_began_with_and_another_model_goes_on(journal: Journal) -> None:
    run, _ = await begun(journal, World().agent(shopping(FIRST, "All bought.")))
    returned = [entry.seq for entry in journal.entries(run) if type(entry.what).__name__ == "ToolReturned"]
    fork = journal.fork(run[:6], returned[-1], {"with": "poet"})
    assert journal.find(fork).entries == 1  # what the fork says of itself; nothing was copied
    poet, world = ScriptedModel(["Tea and milk, bought in silk."]), World()
    events = await all_of(resume(journal, fork, world.agent(shopping()), instead=poet))
    assert events[-1].answer == "Tea and milk, bought in silk."  # type: ignore[union-attr]
    assert poet.asked[0].tools == ("buy",)  # what was bound to the other model is bound to this one
    assert world.bought == []
    twice = journal.fork(fork, returned[0])
    assert [entry.seq for entry in journal.entries(twice)] == list(range(returned[0] + 1))
    with pytest.raises(RunError, match="has no entry 999"):
        journal.fork(run, 999)


async def test_one_run_has_one_owner(journal: Journal) -> None:
    run = journal.create("Go.")
    with journal.owned(run):
        assert journal.find(run).status == "running"
        with pytest.raises(RunError, match=f"Run {run} is worked on by process {os.getpid()}"):
            await all_of(resume(journal, run, World().agent(shopping("Done."))))
    assert journal.find(run).status == "interrupted"
    await all_of(resume(journal, run, World().agent(shopping("Done."))))


async def test_any_number_of_runs_at_once(journal: Journal) -> None:
    meeting = asyncio.Barrier(20)

    @tool
    async def meet() -> str:
        """Wait for all others."""
        await asyncio.wait_for(meeting.wait(), 20)
        return "met"

    async def work(number: int) -> str:
        worker = Agent(f"a/{number}", ScriptedModel([calling(("meet", {})), f"I am {number}."]), tools=[meet])
        events = await all_of(begin(journal, worker, f"Who are you, {number}?"))
        run = next(run.id for run in journal.runs() if run.title == f"Who are you, {number}?")
        assert await all_of(replay(journal, run)) == events
        return str(getattr(events[-1], "answer", ""))

    assert await asyncio.gather(*map(work, range(20))) == [f"I am {number}." for number in range(20)]


async def test_the_ownership_moves_on_however_long_a_tool_takes(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plural.teams.journal.running.LEASE_S", 0.03)

    def owned_until() -> float:
        with journal._reading() as connection:
            return float(connection.exec_driver_sql("SELECT max(owned_until) FROM runs").scalar() or 0)

    @tool
    async def ponder() -> str:
        """Take one's time."""
        began = owned_until()
        while owned_until() == began:
            await asyncio.sleep(0.01)
        return "pondered"

    _, events = await begun(journal, Agent("a", ScriptedModel([calling(("ponder", {})), "Well."]), tools=[ponder]))
    assert events[-1].answer == "Well."  # type: ignore[union-attr]


async def test_an_owner_who_was_thought_dead_cannot_write(journal: Journal) -> None:
    run = journal.create("Go.")
    with journal.owned(run) as slow:
        with journal._writing() as connection:  # as if half a minute had gone by
            connection.exec_driver_sql("UPDATE runs SET owned_until = 0")
        with journal.owned(run) as quick:
            quick.resumed()
            with pytest.raises(RunError, match="was taken over"):
                slow.append(RunFinished("late", StepFinished(0, "", "", None, 0).usage, 0))  # type: ignore[arg-type]
            quick.append(Question(0, "a", "still writing?"))
    assert [type(entry.what).__name__ for entry in journal.entries(run)] == ["RunStarted", "Resumed", "Question"]


async def test_storage_grows_with_what_is_new(journal: Journal) -> None:
    """A conversation of n turns with an ever longer transcript: twice the turns, about twice the bytes."""

    async def written(turns: int) -> int:
        @mark(idempotent=True)
        @tool
        def look(page: int) -> str:
            """Read a page."""
            return f"page {page}: " + "word " * 100

        script: list[Any] = [calling(("look", {"page": page})) for page in range(turns)]
        model = ScriptedModel([*script, "Read."])
        run, _ = await begun(journal, Agent("reader", model, tools=[look], budget=Budget(steps=turns + 1)))
        with journal._reading() as connection:
            whole = "length(body) + coalesce(length(texts), 0)"
            size = connection.exec_driver_sql(f"SELECT sum({whole}) FROM entries WHERE run = '{run}'").scalar()
        return int(size or 0)

    assert await written(20) < 2.2 * await written(10)


async def test_unknown_and_ambiguous_runs_are_named(journal: Journal) -> None:
    with pytest.raises(RunError, match="There is no run 'zzz'"):
        await all_of(replay(journal, "zzz"))
    with pytest.raises(RunError, match="There is no run ''"):
        journal.find("")
    with pytest.raises(RunError, match="has no JSON form"):
        journal.create(object())
    several = [journal.create("Go.").__getitem__(0) for _ in range(17)]  # of sixteen digits, one comes twice
    twice = next(digit for digit in several if several.count(digit) > 1)
    with pytest.raises(RunError, match=f"Several runs begin with '{twice}'"):
        journal.find(twice)


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '0999'")
    database.close()
    before = path.read_bytes()
    with pytest.raises(RunError, match="has schema 0999; this Plural knows 0003"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_new_journal_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    for attempt in range(5):
        start = threading.Barrier(6)

        def opened(path: Path = tmp_path / f"{attempt}.db", start: threading.Barrier = start) -> str:
            start.wait()
            with Journal(path) as journal:
                return journal.create("Go.")

        with ThreadPoolExecutor(6) as pool:
            runs = list(pool.map(lambda _, opened=opened: opened(), range(6)))
        with Journal(tmp_path / f"{attempt}.db") as journal:
            assert {run.id for run in journal.runs()} == set(runs)


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at as one" * 10)
    with pytest.raises(StorageError, match="not a database"):
        Journal(tmp_path / "notes.txt")
    with pytest.raises(SettingsError, match="is no journal"):
        Journal("oracle7://somewhere")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be made"):
        Journal(tmp_path / "file" / "journal.db")


def test_migrations_make_what_the_tables_say(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from plural.teams.journal.tables import metadata

    with Journal(tmp_path / "journal.db") as journal, journal._reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """In a process that may not write files larger than a few pages."""
    program = """
import resource, signal, sys
from plural.errors import StorageError
from plural.teams.journal import Journal
from plural.types import TextDelta

journal = Journal(sys.argv[1])
run = journal.create("Go.")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
written = 1
try:
    with journal.owned(run) as log:
        while True:
            log.append(TextDelta(0, "writer", "word " * 200))
            written += 1
except StorageError as error:
    print(written, error)
"""
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "journal.db")], capture_output=True, text=True, check=True
    )
    written, _, said = told.stdout.partition(" ")
    assert "cannot be used" in said
    with Journal(tmp_path / "journal.db") as journal:
        run = last_run(journal)
        assert len(list(journal.entries(run))) == int(written) > 10
        with journal.owned(run) as log:
            log.append(TextDelta(0, "writer", "on"))


def test_another_program_that_holds_the_file_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plural.teams.journal.schema._WAIT_S", 0.05)
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            journal.create("Go.")
        holder.execute("ROLLBACK")
        holder.close()
        journal.create("Go.")


def test_a_cancelled_run_is_left_alone_until_somebody_resumes_it(journal: Journal) -> None:
    run = journal.create("Go.", client="ann")
    assert [one.id for one in journal.interrupted()] == [run]
    journal.cancel(run, "Enough.")
    assert journal.find(run).status == "cancelled"
    assert journal.interrupted() == []
    with journal.owned(run) as log:
        log.append(RunFinished("done", Usage(), 0.0))
    with pytest.raises(RunError, match="is finished"):
        journal.cancel(run, "Too late.")


def test_runs_are_listed_by_client_and_page(journal: Journal) -> None:
    mine = [journal.create(f"{number}", client="ann") for number in range(4)]
    nobodys = journal.create("at a terminal")
    journal.create("another's", client="bob")
    assert [run.id for run in journal.runs(clients=["ann"])] == mine[::-1]
    assert [run.id for run in journal.runs(clients=["ann", None])] == [nobodys, *mine[::-1]]
    first = journal.runs(clients=["ann"], limit=3)
    assert [run.id for run in journal.runs(clients=["ann"], after=first[-1])] == mine[:1]


def test_a_question_is_answered_by_its_number(journal: Journal) -> None:
    run = journal.create("Go.")
    with journal.owned(run) as log:
        first, second = (log.append(Question(0, "a", text)) for text in ("one?", "two?"))
    assert journal.answer(run, "b", question=second).text == "two?"
    with pytest.raises(RunError, match=f"asks nothing in entry {second}"):
        journal.answer(run, "c", question=second)
    assert [seq for seq, _ in open_questions(journal.entries(run))] == [first]
    assert journal.answer(run, "a").text == "one?"


def test_a_fork_of_a_fork_keeps_who_speaks(journal: Journal) -> None:
    run = journal.create("Go.", {"kind": "x"})
    fork = journal.fork(run, 0, {"with": "judge"})
    again = journal.fork(fork, 1, {"more": 1})
    assert journal.target(again) == {"kind": "x", "with": "judge", "more": 1}
    assert journal.target(journal.fork(fork, 0)) == {"kind": "x"}

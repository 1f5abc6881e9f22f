"""Long texts in a journal: written once, read whole, from anywhere in a run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.agents import Agent
from plural.errors import RunError, StorageError
from plural.teams import Proxy, Team
from plural.teams.journal import Journal, Texts, begin, replay, resume
from plural.teams.journal.entries import Kept
from plural.teams.journal.texts import Folded
from plural.teams.patterns import round_robin
from plural.testing import ScriptedModel
from plural.types import Event, Question, StepStarted


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def size(journal: Journal, run: str) -> int:
    """Bytes of a run's entries."""
    whole = "length(kind) + length(path) + length(CAST(body AS BLOB)) + coalesce(length(CAST(texts AS BLOB)), 0)"
    with journal._reading() as connection:
        found = connection.exec_driver_sql(f"SELECT sum({whole}) FROM entries WHERE run = '{run}'").scalar()
    return int(found or 0)


def said(name: str, turn: int) -> str:
    """Two lines, unlike those of other turns."""
    return f"{name} says in turn {turn}: " + f"word{turn} " * 30 + f"\nand again: {name} {turn}"


def chat(turns: int) -> Team:
    members = [Agent(name, ScriptedModel([said(name, at) for at in range(turns)])) for name in ("a", "b", "c")]
    return Team("chat", members, round_robin(["a", "b", "c"], rounds=turns // 3), max_turns=turns)


def with_a_proxy(turns: int) -> Team:
    proxy = Proxy("user", lambda heard: said("user", heard.count("user says")), idempotent=True)
    guide = Agent("guide", ScriptedModel([said("guide", at) for at in range(turns)]))
    return Team("tour", [proxy, guide], round_robin(["user", "guide"], rounds=turns // 2), max_turns=turns)


@pytest.mark.parametrize("make", [chat, with_a_proxy])
async def test_a_conversation_takes_room_with_what_is_new(journal: Journal, make: Callable[[int], Team]) -> None:
    sizes = []
    for turns in (18, 36, 72):
        events = await all_of(begin(journal, make(turns), "Talk about tea."))
        run = journal.runs()[0].id
        assert await all_of(replay(journal, run)) == events
        sizes.append(size(journal, run))
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[2] < 2.2 * sizes[1]


async def test_a_conversation_with_a_person_takes_room_with_what_is_new(journal: Journal) -> None:
    """And what is asked is read whole, in whatever process."""

    async def talk(turns: int) -> int:
        guide = [said("guide", at) for at in range(turns)]
        members = [Proxy("user"), Agent("guide", ScriptedModel(guide))]
        team = Team("tour", members, round_robin(["user", "guide"], rounds=turns))
        run = journal.create("Talk about tea.")
        for turn in range(turns):
            asked = (await all_of(resume(journal, run, team)))[-1]
            assert isinstance(asked, Question)
            assert asked.text.count("\n") == 4 * turn  # two lines of each turn so far
            journal.answer(run, said("user", turn))
            left = ScriptedModel(guide[turn:])
            team = Team("tour", [Proxy("user"), Agent("guide", left)], round_robin(["user", "guide"], rounds=turns))
        await all_of(resume(journal, run, team))
        assert journal.find(run).status == "finished"
        return size(journal, run)

    assert await talk(16) < 2.2 * await talk(8)


async def test_a_run_cut_off_anywhere_is_read_and_comes_to_the_same_end(journal: Journal) -> None:
    events = await all_of(begin(journal, with_a_proxy(8), "Talk about tea."))
    run = journal.runs()[0].id
    known = list(journal.entries(run))
    for at in range(0, len(known) - 1, 11):
        assert list(journal.entries(run, after=at)) == known[at + 1 :]
        cut = journal.fork(run, at)
        assert list(journal.entries(cut)) == known[: at + 1]
        done = sum(type(entry.what).__name__ == "ModelReturned" for entry in known[: at + 1])
        guide = Agent("guide", ScriptedModel([said("guide", turn) for turn in range(8)][done:]))
        proxy = with_a_proxy(8)._parts.members["user"]
        team = Team("tour", [proxy, guide], round_robin(["user", "guide"], rounds=4), max_turns=8)
        again = await all_of(resume(journal, cut, team))
        tasks = [event.task for event in again if isinstance(event, StepStarted)]
        assert tasks == [event.task for event in events if isinstance(event, StepStarted)]
        assert again[-1].answer == events[-1].answer  # type: ignore[union-attr]


async def test_who_listens_reads_nothing_twice(journal: Journal) -> None:
    """A reader that comes back for more, as a client's stream does."""
    await all_of(begin(journal, chat(12), "Talk about tea."))
    run = journal.runs()[0].id
    whole, read, texts = list(journal.entries(run)), [], Texts()
    known = []
    while len(read) < len(whole):
        read += list(journal.entries(run, after=len(read) - 1, texts=texts))[:5]
        known.append(len(texts.known))
    assert read == whole
    assert known[0] == known[-1]


LINES = st.lists(st.sampled_from(["a", "tea " * 20, "milk " * 30, "é" * 70, "", "tea " * 19 + "!"]), max_size=9)
VALUES = st.recursive(
    LINES.map("\n".join), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(0, 11))
def test_any_texts_are_read_as_they_were_written(values: list[Any], restarted: int) -> None:
    bodies = [json.dumps({"value": value}) for value in values]
    writer, rows = Folded({}), []
    for number, body in enumerate(bodies):
        if number == restarted:
            reader = Texts()
            for at, (short, long) in enumerate(rows):
                if long is not None:
                    reader.unfold(at, short, long, lambda: ())
            writer = Folded(reader.known)
        rows.append(writer.fold(number, body))

    def whole(reader: Texts, at: int) -> Any:
        short, long = rows[at]
        earlier = [(before, long) for before, (_, long) in enumerate(rows[:at]) if long is not None]
        return json.loads(short if long is None else reader.unfold(at, short, long, lambda: earlier))

    in_order = Texts()
    assert [whole(in_order, at) for at in range(len(rows))] == [json.loads(body) for body in bodies]
    assert whole(Texts(), len(rows) - 1) == json.loads(bodies[-1])  # who reads only the end


def test_of_a_text_that_grew_only_what_is_new_is_written() -> None:
    writer = Folded({})
    text = "\n".join(f"line {at} " + "word " * 12 for at in range(40))
    writer.fold(0, json.dumps({"task": text}))
    _, texts = writer.fold(1, json.dumps({"task": f"{text}\nOne more."}))
    assert json.loads(texts or "") == [[["task"], [[0, 0, 0, len(text)], "\nOne more."]]]
    _, texts = writer.fold(2, json.dumps({"facts": f"Other facts.\n{text[100:]}"}))  # also where the beginning is new
    assert len(texts or "") < 400


def test_texts_that_are_not_there_are_said(journal: Journal, tmp_path: Path) -> None:
    run = journal.create("Go.")
    with journal.owned(run) as log:
        for _ in range(2):
            log.append(Kept("", "tea and milk " * 40))
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("UPDATE entries SET texts = NULL WHERE seq = 1")
    database.close()
    with pytest.raises(StorageError, match="Entry 2 has parts of entry 1, which does not have them"):
        list(journal.entries(run))


@pytest.mark.parametrize(("kind", "body"), [("Dreamt", "{}"), ("Kept", '{"of": 1}')])
async def test_an_entry_of_a_newer_version_is_said(journal: Journal, tmp_path: Path, kind: str, body: str) -> None:
    run = journal.create("Go.")
    with sqlite3.connect(tmp_path / "journal.db") as database:
        row = (run, 1, 0.0, kind, "", body)
        database.execute("INSERT INTO entries (run, seq, at, kind, path, body) VALUES (?, ?, ?, ?, ?, ?)", row)
    database.close()
    for use in (lambda: list(journal.entries(run)), lambda: journal.answer(run, "yes")):
        with pytest.raises(RunError, match=f"a {kind} that this Plural cannot read: .* A newer Plural wrote it"):
            use()
    with pytest.raises(RunError, match="A newer Plural wrote it"):
        await all_of(resume(journal, run, chat(3)))
    assert [info.id for info in journal.runs()] == [run]  # which can still be listed

"""Journals of earlier versions, with runs in them: brought to this one, read, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text

from plural.agents import Agent
from plural.teams.journal import Journal, replay, resume, schema
from plural.testing import ScriptedModel

ASKED = "Say it again. " * 30
# As the first version wrote them: a run that was finished, and one that was killed after its model had answered.
TASK = {"step": 0, "agent": "clerk", "task": ASKED}
USAGE = {"prompt": 90, "completion": 2, "cached": 0}
FINISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("RunStarted", "", {"target": {"kind": "test"}, "input": ASKED}),
    ("StepStarted", "", TASK),
    ("TextDelta", "0.clerk", {"step": 0, "agent": "clerk", "text": "Said."}),
    (
        "StepFinished",
        "",
        {"step": 0, "agent": "clerk", "answer": "Said.", "usage": USAGE, "seconds": 0.5, "failed": False},
    ),
    ("RunFinished", "", {"answer": "Said.", "usage": USAGE, "seconds": 0.5}),
]


def at(connection: Connection, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, version)


def insert(connection: Connection, run: str, status: str, entries: list[tuple[str, str, dict[str, Any]]]) -> None:
    about = {"run": run, "status": status}
    connection.execute(
        text("INSERT INTO runs (id, status, title, started) VALUES (:run, :status, 'Say it.', 1.0)"), about
    )
    for seq, (kind, path, body) in enumerate(entries):
        row = {"run": run, "seq": seq, "kind": kind, "path": path, "body": json.dumps(body)}
        connection.execute(text("INSERT INTO entries VALUES (:run, :seq, 2.0, :kind, :path, :body)"), row)


def url(given: Any, path: Path) -> str:
    return f"sqlite:///{path}" if given is None else str(given.new())


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_runs_of_the_first_version_are_kept(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = url(None if database == "sqlite" else request.getfixturevalue("postgres"), tmp_path / "old.db")
    engine = create_engine(where)
    with engine.begin() as connection:
        at(connection, "0001")
        insert(connection, "finished", "finished", FINISHED)
    with engine.begin() as connection:
        at(connection, "0002")
        assert connection.execute(text("SELECT client FROM runs")).scalar_one() is None
        insert(connection, "killed", "running", FINISHED[:2])
    engine.dispose()
    with Journal(where) as journal:
        assert [(run.id, run.status, run.entries) for run in journal.runs()] == [
            ("killed", "interrupted", 2),
            ("finished", "finished", 5),
        ]
        events = [event async for event in replay(journal, "finished")]
        assert [type(event).__name__ for event in events] == [kind for kind, _, _ in FINISHED[1:]]
        assert events[0].task == ASKED  # type: ignore[union-attr]
        assert (events[-1].answer, events[-1].usage.prompt, events[-1].money) == ("Said.", 90, 0.0)  # type: ignore[union-attr]
        again = [event async for event in resume(journal, "killed", Agent("clerk", ScriptedModel(["Said."])))]
        assert again[0] == events[0]
        assert again[-1].answer == "Said."  # type: ignore[union-attr]
        fork = journal.fork("finished", 1)
        branch = [event async for event in resume(journal, fork, Agent("clerk", ScriptedModel(["Else."])))]
        assert branch[-1].answer == "Else."  # type: ignore[union-attr]
        assert [entry.seq for entry in journal.entries(fork)] == list(range(len(list(journal.entries(fork)))))

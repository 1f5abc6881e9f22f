"""A database can be asked anything, and nothing that is asked changes it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.tools import BaseTool

from plural.agents import Agent, tool_specs, toolbox
from plural.errors import SettingsError
from plural.testing import ScriptedModel, calling

from .calls import call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a shop?.db"  # a name that a URI must quote
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE items (name TEXT, price REAL, photo BLOB, notes TEXT)")
        rows = [("hammer", 9.5, b"12345", None), ("saw", 12, None, "é" * 600)]
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)
        connection.execute("CREATE VIEW cheap AS SELECT name FROM items WHERE price < 10")
    connection.close()
    return path


@pytest.fixture
def tools(file: Path) -> Sequence[BaseTool]:
    return toolbox.database(file, seconds=0.5)


async def test_tables_and_rows(tools: Sequence[BaseTool]) -> None:
    told, failed = await call(tools, "list_tables")
    assert (told, failed) == ("cheap(name TEXT)\nitems(name TEXT, price REAL, photo BLOB, notes TEXT)", False)
    told, failed = await call(tools, "query_database", statement="SELECT name, price AS p FROM items ORDER BY price")
    assert not failed
    assert json.loads(told) == {"columns": ["name", "p"], "rows": [["hammer", 9.5], ["saw", 12.0]]}


async def test_long_values_and_bytes_are_named_not_shown(tools: Sequence[BaseTool]) -> None:
    told, _ = await call(tools, "query_database", statement="SELECT photo, notes FROM items")
    (photo, _), (_, notes) = json.loads(told)["rows"]
    assert photo == "[5 bytes]"
    assert notes == "é" * 500 + " ... (100 more characters)"


async def test_an_answer_is_cut_at_rows_and_at_characters(file: Path) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT i FROM n"
    by_rows = json.loads((await call(toolbox.database(file, max_rows=3), "query_database", statement=numbers))[0])
    assert by_rows == {"columns": ["i"], "rows": [[1], [2], [3]], "more": "only the first 3 rows are shown"}
    short = toolbox.database(file, max_rows=900, max_characters=50)
    by_size = json.loads((await call(short, "query_database", statement=numbers))[0])
    assert by_size["rows"] == [[i] for i in range(1, 10)]
    assert by_size["more"] == "only the first 9 rows are shown"


WRITES = (
    "DELETE FROM items",
    "UPDATE items SET price = 0",
    "INSERT INTO items (name) VALUES ('x')",
    "DROP TABLE items",
    "CREATE TABLE t (a)",
    "CREATE TEMP TABLE t (a)",
    "ALTER TABLE items RENAME TO t",
    "REPLACE INTO items (name) VALUES ('x')",
    "WITH x AS (SELECT 1) DELETE FROM items",
    "ATTACH DATABASE '{elsewhere}' AS other",
    "VACUUM INTO '{elsewhere}'",
    "VACUUM",
    "REINDEX",
    "PRAGMA query_only = OFF",
    "PRAGMA journal_mode = WAL",
    "PRAGMA writable_schema = ON",
    "BEGIN EXCLUSIVE",
    "SAVEPOINT s",
    "SELECT load_extension('{elsewhere}')",
    "SELECT writefile('{elsewhere}', 'x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT 1; DELETE FROM items",
    "SELECT 1 /* */ ; /* */ DROP TABLE items --",
)


@pytest.mark.parametrize("statement", WRITES)
async def test_nothing_is_changed(statement: str, tools: Sequence[BaseTool], file: Path) -> None:
    before = hashlib.sha256(file.read_bytes()).digest()
    elsewhere = file.parent / "elsewhere"
    told, failed = await call(tools, "query_database", statement=statement.replace("{elsewhere}", str(elsewhere)))
    assert failed, told
    assert "statement" in told
    assert hashlib.sha256(file.read_bytes()).digest() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n", "longer than 0.5 s"),
        ("SELECT zeroblob(100000000)", "too big"),
        ("SELECT group_concat(hex(randomblob(400000))) FROM items", "too big"),
        ("SELECT '" + "x" * 20_000 + "'", "too large"),
        ("SELECT nam FROM items", "no such column: nam"),
        ("", "asks for nothing"),
        ("-- nothing", "asks for nothing"),
    ],
)  # fmt: skip
async def test_what_cannot_be_answered_says_why(statement: str, says: str, tools: Sequence[BaseTool]) -> None:
    told, failed = await call(tools, "query_database", statement=statement)
    assert failed
    assert says in told


def test_a_database_that_is_none_is_refused_when_the_tools_are_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no database '.*missing.db'"):
        toolbox.database(tmp_path / "missing.db")
    (tmp_path / "text.db").write_text("This is no database, but a text that is long enough to look like none." * 20)
    with pytest.raises(SettingsError, match=r"'.*text.db' is not a SQLite database"):
        toolbox.database(tmp_path / "text.db")
    with pytest.raises(SettingsError, match="max_rows of the database tools is 0"):
        toolbox.database(tmp_path / "text.db", max_rows=0)


def test_an_agent_reads_the_tools_and_uses_them(tools: Sequence[BaseTool]) -> None:
    assert [spec.name for spec in tool_specs(tools)] == ["list_tables", "query_database"]
    asked = {"statement": "SELECT count(*) FROM items"}
    model = ScriptedModel([calling(("query_database", asked)), "There are two."])
    assert Agent("clerk", model, tools=tools).invoke("How many items?") == "There are two."
    assert model.asked[1].messages[-1].content == '{"columns": ["count(*)"], "rows": [[2]]}'

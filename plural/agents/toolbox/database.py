"""Questions to a SQLite database, which no question can change.

The file is opened read-only, an authoriser lets nothing pass but reading, and a statement has limits of time, rows and
size. SQLite runs one statement at a time; a second one in the same text is refused.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, ToolException

from plural.agents.marks import mark
from plural.agents.tools import tool
from plural.errors import SettingsError

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,  # bytes of a value or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,  # a longer one could take quadratic time in one instruction
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_INSTRUCTIONS = 1000  # of SQLite's machine between two looks at the clock
_CELL = 500  # characters shown of one value


def database(
    path: Path | str, *, max_rows: int = 50, max_characters: int = 8000, seconds: float = 5.0
) -> list[BaseTool]:
    """The tools `list_tables` and `query_database` for one SQLite file.

    Args:
        path: the file. It is never written.
        max_rows: rows of an answer at most; the answer says when there were more.
        max_characters: of an answer; rows that go beyond are left out, and the answer says so.
        seconds: how long one statement may take.

    Raises:
        SettingsError: the file is not a SQLite database.
    """
    file = Path(path)
    if not file.is_file():
        raise SettingsError(f"There is no database {str(file)!r}.", hint="Give the path of a SQLite file.")
    for name, limit in (("max_rows", max_rows), ("max_characters", max_characters), ("seconds", seconds)):
        if limit <= 0:
            raise SettingsError(f"{name} of the database tools is {limit}; it must be more than 0.")
    try:
        _tables(file, seconds)
    except sqlite3.Error as error:
        raise SettingsError(f"{str(file)!r} is not a SQLite database that can be read: {error}.") from error

    @mark(idempotent=True)
    @tool
    def list_tables() -> str:
        """List the tables of the database with their columns."""
        return "\n".join(_tables(file, seconds)) or "The database has no tables."

    @mark(idempotent=True)
    @tool
    def query_database(statement: str) -> str:
        """Read from the database with one SQL statement of SQLite's dialect. Answers with columns and rows as JSON.

        Args:
            statement: A SELECT, for example SELECT name, price FROM items WHERE price > 10 ORDER BY price
        """
        with _reading(file, seconds) as connection:
            try:
                cursor = connection.execute(statement)
                rows = cursor.fetchmany(max_rows + 1)
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise ToolException(f"statement: {_why(error, seconds)}") from error
            if cursor.description is None:
                raise ValueError(f"statement = {statement!r} asks for nothing")
            columns = [column[0] for column in cursor.description]
        return _answer(columns, rows, max_rows, max_characters)

    return [list_tables, query_database]


@contextmanager
def _reading(file: Path, seconds: float) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        for which, most in _LIMITS.items():
            connection.setlimit(which, most)
        until = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > until, _INSTRUCTIONS)
        connection.set_authorizer(_authorise)
        yield connection
    finally:
        connection.close()


def _authorise(action: int, *named: str | None) -> int:
    forbidden = action == sqlite3.SQLITE_FUNCTION and str(named[1]).lower() in _FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in _READING and not forbidden else sqlite3.SQLITE_DENY


def _tables(file: Path, seconds: float) -> list[str]:
    """One line for each: its name and its columns with their types."""
    with _reading(file, seconds) as connection:
        names = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY 1"
        found = [name for (name,) in connection.execute(names)]
        columns = "SELECT name, type FROM pragma_table_info(?)"
        connection.set_authorizer(None)  # the statement is ours; only its argument comes from the file
        lists = [[" ".join(filter(None, one)) for one in connection.execute(columns, (name,))] for name in found]
    return [f"{name}({', '.join(columns)})" for name, columns in zip(found, lists, strict=True)]


def _why(error: Exception, seconds: float) -> str:
    said = str(error)
    if "interrupted" in said:
        return f"it took longer than {seconds:g} s and was stopped"
    if "not authorized" in said or "prohibited" in said:
        return f"only reading is allowed ({said})"
    return said


def _answer(columns: list[str], rows: list[Any], max_rows: int, max_characters: int) -> str:
    shown: list[list[Any]] = []
    room = max_characters
    for row in rows[:max_rows]:
        values = [_cell(value) for value in row]
        room -= len(json.dumps(values, ensure_ascii=False)) + 2
        if room < 0:
            break
        shown.append(values)
    answer: dict[str, Any] = {"columns": columns, "rows": shown}
    if len(shown) < len(rows):
        answer["more"] = f"only the first {len(shown)} rows are shown"
    return json.dumps(answer, ensure_ascii=False)


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    if isinstance(value, str) and len(value) > _CELL:
        return f"{value[:_CELL]} ... ({len(value) - _CELL} more characters)"
    return value

"""What the server keeps for its clients: answers that they asked to be stored, files, jobs. SQLite, in one file.

A record is somebody's: whoever has another key neither sees it nor learns that it is there.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plural.errors import StorageError
from plural.serve.errors import WireError

_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, created REAL NOT NULL,
    model TEXT NOT NULL, metadata TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS of_owner ON records (kind, owner, number);
"""


@dataclass(frozen=True, slots=True)
class Record:
    kind: str
    id: str
    owner: str
    body: Mapping[str, Any]
    model: str = ""
    metadata: Mapping[str, str] | None = None


class Store:
    """Used from the server's event loop alone: a write takes a fraction of a millisecond, since the log is synced to
    disk only now and then. `None` keeps everything in memory. Records are `kept` for so many seconds."""

    def __init__(self, path: Path | None, *, kept: float = 30 * 86_400) -> None:
        self._path = path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLE)
            self._db.execute(
                "DELETE FROM records WHERE created < ? AND kind IN ('chat', 'response')", [time.time() - kept]
            )
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path} cannot be opened: {error}.", hint="Choose another data folder.") from error

    def put(self, record: Record) -> None:
        """A record, or another one under the same id."""
        row = [record.kind, record.id, record.owner, time.time(), record.model, json.dumps(record.metadata or {})]
        try:
            self._db.execute(
                "INSERT INTO records (kind, id, owner, created, model, metadata, body) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET metadata = excluded.metadata, body = excluded.body",
                [*row, json.dumps(record.body)],
            )
        except sqlite3.Error as error:
            raise StorageError(f"{self._path} cannot be written: {error}.", hint="Free some space.") from error

    def get(self, kind: str, id: str, owner: str) -> Record:
        """Raises WireError 404."""
        row = self._db.execute(
            "SELECT model, metadata, body FROM records WHERE kind = ? AND id = ? AND owner = ?", [kind, id, owner]
        ).fetchone()
        if row is None:
            raise WireError(404, f"There is no {kind} {id!r}.", code="not_found")
        return Record(kind, id, owner, json.loads(row[2]), row[0], json.loads(row[1]))

    def delete(self, kind: str, id: str, owner: str) -> None:
        """Raises WireError 404."""
        done = self._db.execute("DELETE FROM records WHERE kind = ? AND id = ? AND owner = ?", [kind, id, owner])
        if not done.rowcount:
            raise WireError(404, f"There is no {kind} {id!r}.", code="not_found")

    def page(
        self,
        kind: str,
        owner: str,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = False,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Sequence[Record], bool]:
        """Records in the order in which they were made, those after `after`, and whether there are more."""
        where, values = ["kind = ?", "owner = ?"], [kind, owner]
        if after is not None:
            self.get(kind, after, owner)
            where.append(f"number {'<' if newest_first else '>'} (SELECT number FROM records WHERE id = ?)")
            values.append(after)
        if model is not None:
            where.append("model = ?")
            values.append(model)
        for key, value in (metadata or {}).items():
            where.append("EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)")
            values += [key, value]
        rows = self._db.execute(
            f"SELECT id, model, metadata, body FROM records WHERE {' AND '.join(where)} "
            f"ORDER BY number {'DESC' if newest_first else 'ASC'} LIMIT {limit + 1:d}",
            values,
        ).fetchall()
        found = [Record(kind, row[0], owner, json.loads(row[3]), row[1], json.loads(row[2])) for row in rows]
        return found[:limit], len(found) > limit

    def bytes_of(self, kind: str, owner: str) -> int:
        """The sum of what somebody's records of a kind say under `bytes`."""
        said = "SELECT SUM(json_extract(body, '$.bytes')) FROM records WHERE kind = ? AND owner = ?"
        found = self._db.execute(said, [kind, owner]).fetchone()[0]
        return int(found or 0)

    def everybodys(self, kind: str) -> Sequence[Record]:
        """All of a kind, in the order in which they were made: for the server itself."""
        rows = self._db.execute(
            "SELECT id, owner, model, metadata, body FROM records WHERE kind = ? ORDER BY number", [kind]
        ).fetchall()
        return [Record(kind, row[0], row[1], json.loads(row[4]), row[2], json.loads(row[3])) for row in rows]

    def close(self) -> None:
        self._db.close()


def page_json(items: Sequence[Mapping[str, Any]], more: bool) -> dict[str, Any]:
    """A page as OpenAI writes it."""
    ids = [item["id"] for item in items]
    return {
        "object": "list",
        "data": list(items),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": more,
    }

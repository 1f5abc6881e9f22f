"""Long-term memory: facts and past results in one SQLite file, found by what they mean.

A text's vector comes from an `Embedder`, as the router's do. It is computed when it is first needed, all missing ones
at once, and kept beside the text with the name of its space: another base gives other vectors, which are then made
anew. It is made of the text's first 2,000 characters. Search is exact: all vectors are compared.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from plural.errors import PromptError, SettingsError, StorageError
from plural.protocols import Embedder

Kind = Literal["fact", "result"]
_VERSION = 1
_AT_ONCE = 64  # texts embedded in one call
_READ = 2000  # characters of a text that its vector is made of
_TABLE = """
CREATE TABLE IF NOT EXISTS memories (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, so a forgotten one stays forgotten
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    source TEXT NOT NULL,
    created TEXT NOT NULL,
    space TEXT,
    vector BLOB,
    UNIQUE (kind, text)
) STRICT
"""
_FIELDS = "id, kind, text, source, created"


@dataclass(frozen=True, slots=True)
class Memory:
    """`source` says where it comes from, an agent's name or whatever was given; `created` is in UTC, ISO 8601."""

    id: int
    kind: Kind
    text: str
    source: str
    created: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """`similarity` is the cosine between the memory and what was asked, in [-1, 1]."""

    memory: Memory
    similarity: float


class LongTerm:
    """One file, which any number of processes may use at once.

    Args:
        path: the file; it is made when something is first remembered.
        embedder: reads texts for `recall`; everything else does without.
        space: names the embedder's vectors: two embedders of the same space give the same vectors.

    Raises:
        StorageError: the file cannot be read or written, or is no such memory.
    """

    def __init__(self, path: Path | str, embedder: Embedder | None = None, *, space: str = "") -> None:
        self.path = Path(path).expanduser()
        self._embedder = embedder
        self._space = space

    # ------------------------------------------------------------------------------------------------------ looking
    def all(self, kind: Kind | None = None) -> list[Memory]:
        """Newest first."""
        if not self.path.exists():
            return []
        with self._open() as file:
            rows = file.execute(
                f"SELECT {_FIELDS} FROM memories WHERE ?1 IS NULL OR kind = ?1 ORDER BY created DESC, id DESC", (kind,)
            )
            return [Memory(*row) for row in rows]

    def get(self, number: int) -> Memory:
        """Raises SettingsError when there is none of this number."""
        found = None
        if self.path.exists():
            with self._open() as file:
                found = file.execute(f"SELECT {_FIELDS} FROM memories WHERE id = ?", (number,)).fetchone()
        if found is None:
            raise SettingsError(f"There is no memory {number} in {self.path}.", hint="plural memory list shows them.")
        return Memory(*found)

    # ---------------------------------------------------------------------------------------------------- changing
    def remember(self, text: str, *, kind: Kind = "fact", source: str = "") -> Memory:
        """Keeps it. What is known already only becomes new again."""
        if not text.strip():
            raise PromptError("There is nothing to remember: the text is empty.")
        if kind not in get_args(Kind):
            raise SettingsError(f"kind is {kind!r}.", hint=f"Known: {', '.join(get_args(Kind))}.")
        row = (kind, text.strip(), source, datetime.now(UTC).isoformat(timespec="microseconds"))
        with self._open() as file:
            made = file.execute(
                "INSERT INTO memories (kind, text, source, created) VALUES (?, ?, ?, ?) ON CONFLICT (kind, text) "
                f"DO UPDATE SET source = excluded.source, created = excluded.created RETURNING {_FIELDS}",
                row,
            ).fetchone()
        return Memory(*made)

    def forget(self, *numbers: int) -> None:
        """Deletes these, and overwrites what the file held of them.

        Raises:
            SettingsError: one of them is not there; then none is deleted.
        """
        for number in numbers:
            self.get(number)
        with self._open() as file:
            file.executemany("DELETE FROM memories WHERE id = ?", [(number,) for number in numbers])

    # --------------------------------------------------------------------------------------------------- recalling
    async def recall(
        self, question: str, count: int = 5, *, kind: Kind | None = None, least: float = -1.0
    ) -> list[Recalled]:
        """The memories nearest to the question in meaning, nearest first, none less similar than `least`.

        Raises:
            SettingsError: the memory has no embedder.
        """
        if self._embedder is None:
            raise SettingsError(f"The memory {self.path} cannot be searched: it has no embedder.")
        memories = await asyncio.to_thread(self.all, kind)
        if not memories or count < 1:
            return []
        await self._embed_missing()
        (asked,) = await self._embedder.aembed([question[:_READ]])
        vectors = await asyncio.to_thread(self._vectors)
        known = [memory for memory in memories if memory.id in vectors]
        similarity = np.stack([vectors[memory.id] for memory in known]) @ _unit(asked)
        order = np.argsort(-similarity, kind="stable")[:count]
        return [Recalled(known[at], float(similarity[at])) for at in order if similarity[at] >= least]

    async def _embed_missing(self) -> None:
        assert self._embedder is not None  # recall has looked
        missing = await asyncio.to_thread(self._missing)
        for at in range(0, len(missing), _AT_ONCE):
            some = missing[at : at + _AT_ONCE]
            made = await self._embedder.aembed([text[:_READ] for _, text in some])
            rows = [
                (self._space, _unit(vector).tobytes(), number) for (number, _), vector in zip(some, made, strict=True)
            ]
            await asyncio.to_thread(self._keep, rows)

    def _missing(self) -> list[tuple[int, str]]:
        with self._open() as file:
            return file.execute("SELECT id, text FROM memories WHERE space IS NOT ?", (self._space,)).fetchall()

    def _keep(self, rows: Sequence[tuple[str, bytes, int]]) -> None:
        with self._open() as file:
            file.executemany("UPDATE memories SET space = ?, vector = ? WHERE id = ?", rows)

    def _vectors(self) -> dict[int, np.ndarray]:
        with self._open() as file:
            rows = file.execute("SELECT id, vector FROM memories WHERE space = ?", (self._space,))
            return {number: np.frombuffer(blob, dtype=np.float32) for number, blob in rows}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction of a connection of its own, so that any thread may use the memory."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self.path, timeout=30)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"The memory {self.path} cannot be opened: {error}.") from error
        try:
            with file:
                file.execute("PRAGMA secure_delete = ON")
                (version,) = file.execute("PRAGMA user_version").fetchone()
                if version not in (0, _VERSION):
                    raise StorageError(f"The memory {self.path} has version {version}; this Plural reads {_VERSION}.")
                if version == 0:
                    file.execute(_TABLE)
                    file.execute(f"PRAGMA user_version = {_VERSION}")
                yield file
        except sqlite3.Error as error:
            raise StorageError(f"The memory {self.path} cannot be used: {error}.") from error
        finally:
            file.close()


def _unit(vector: Sequence[float]) -> np.ndarray:
    x_D = np.asarray(vector, dtype=np.float32)
    return x_D / max(float(np.linalg.norm(x_D)), 1e-12)

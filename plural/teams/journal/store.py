"""The journal: runs and their entries in SQL. An entry is written once and never changed."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from plural.errors import EngineStopped, RunError, StorageError
from plural.teams.journal import entries as noted
from plural.teams.journal.entries import Answered, Cancelled, Entry, Noted, Resumed, RunStarted
from plural.teams.journal.owner import LEASE_S, is_gone, new_owner
from plural.teams.journal.reaching import persistently
from plural.teams.journal.schema import clock, firm, named, open_database, sound
from plural.teams.journal.tables import entries, runs
from plural.teams.journal.texts import Folded, Texts
from plural.types import Question, RunFinished

Status = Literal["running", "waiting", "finished", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run, in a list. "interrupted": it was running, and who ran it is gone. `entries` counts its own only.
    `client` is the API key's id by which it was begun over HTTP."""

    id: str
    status: Status
    title: str
    started: float
    changed: float
    entries: int
    parent: str | None = None
    forked_at: int | None = None
    client: str | None = None


_own = entries.c.run == runs.c.id
_INFO = select(
    runs,
    select(func.count()).where(_own).scalar_subquery().label("count"),
    select(func.max(entries.c.at)).where(_own).scalar_subquery().label("changed"),
)
_INSERT = insert(entries)
_NAMED = 5  # runs in an error message


class Journal:
    """A database of runs. Any number of processes may have it open; a run has one owner at a time.

    Args:
        where: an SQLite file (made if it is not there), or a URL as postgresql+psycopg://user@host/name.

    Raises:
        SettingsError, RunError, StorageError: it cannot be opened, or a newer Plural wrote it.
    """

    def __init__(self, where: Path | str) -> None:
        self._engine = open_database(where)
        self.name = named(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ reading
    def runs(
        self,
        *,
        clients: Collection[str | None] | None = None,
        after: RunInfo | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        """Newest first: those that these `clients` began, if they are given; those older than `after`."""
        query = _INFO.order_by(runs.c.started.desc(), runs.c.id.desc()).limit(limit)
        if clients is not None:
            unowned = [runs.c.client.is_(None)] if None in clients else []
            query = query.where(or_(runs.c.client.in_([one for one in clients if one is not None]), *unowned))
        if after is not None:
            same = and_(runs.c.started == after.started, runs.c.id < after.id)
            query = query.where(or_(runs.c.started < after.started, same))
        with self._reading() as connection:
            now = _now(connection)
            return [_info(row, now) for row in connection.execute(query)]

    def interrupted(self, *, killed: bool = False) -> list[RunInfo]:
        """Unfinished runs that nobody works on, oldest first; with `killed` only those whose worker said no word."""
        query = _INFO.where(runs.c.status == "running").order_by(runs.c.started)
        if killed:
            query = query.where(runs.c.owner.is_not(None))
        with self._reading() as connection:
            now = _now(connection)
            found = [_info(row, now) for row in connection.execute(query)]
        return [run for run in found if run.status == "interrupted"]

    def find(self, name: str) -> RunInfo:
        """The run of this id, or of the only id that begins so. Raises RunError."""
        with self._reading() as connection:
            query = _INFO.where(runs.c.id.startswith(name, autoescape=True)).limit(_NAMED)
            now = _now(connection)
            found = [_info(row, now) for row in connection.execute(query)]
        exact = [run for run in found if run.id == name]
        if name and len(exact or found) == 1:
            return (exact or found)[0]
        if name and found:
            raise RunError(f"Several runs begin with {name!r}.", hint=f"As {', '.join(run.id for run in found)}.")
        raise RunError(f"There is no run {name!r} in {self.name}.", hint="`plural runs` lists them.")

    def entries(self, run: str, *, after: int = -1, texts: Texts | None = None) -> Iterator[Entry]:
        """Everything that is known of a run, in order; of a fork also what it began with. `after` leaves out what is
        known up to that number. Who reads on gives the same `texts` again: nothing is then read twice.

        Raises:
            RunError: a newer Plural wrote it.
        """
        with self._reading() as connection:
            yield from _entries(connection, run, entries.c.seq > after, texts=texts)

    def target(self, run: str) -> Mapping[str, Any]:
        """What the run says of who works on it."""
        with self._reading() as connection:
            *_, last = _entries(connection, run, entries.c.kind == RunStarted.__name__)
        return cast(RunStarted, last.what).target

    # ------------------------------------------------------------------------------------------------------ writing
    def create(
        self, input: Any, target: Mapping[str, Any] | None = None, *, title: str = "", client: str | None = None
    ) -> str:
        """A new run, which nobody works on yet. `input` and `target` are written as JSON.

        Raises:
            RunError: they have no JSON form.
        """
        try:
            started = RunStarted(json.loads(json.dumps(dict(target or {}))), json.loads(json.dumps(input)))
        except TypeError as error:
            raise RunError(
                f"What the run is given has no JSON form: {error}.", hint="Give texts or messages."
            ) from error
        with self._writing() as connection:
            run = _new(connection, title=title or _title(input), client=client)
            _write(connection, run, 0, "", started)
        return run

    def fork(self, run: str, at: int, target: Mapping[str, Any] | None = None, *, client: str | None = None) -> str:
        """A new run that begins as this one did up to entry `at`; nothing is copied. `target` is added to what the run
        says of itself up to there.

        Raises:
            RunError: there is no such run, or no such entry.
        """
        origin = self.find(run)
        with self._writing() as connection:
            known = list(_entries(connection, origin.id))
            if not 0 <= at < len(known):
                raise RunError(
                    f"Run {origin.id} has no entry {at}.",
                    hint=f"Its entries are 0 to {len(known) - 1}: `plural show-run`.",
                )
            forked = _new(connection, title=origin.title, parent=origin.id, forked_at=at, client=client)
            if target:
                begun = [entry.what for entry in known[: at + 1] if isinstance(entry.what, RunStarted)][-1]
                _write(connection, forked, at + 1, "", RunStarted({**begun.target, **target}, begun.input))
        return forked

    def answer(self, run: str, answer: str, *, question: int | None = None) -> Question:
        """Answers a question of a run that waits for a person: the one in this entry, or the first that is open.

        Raises:
            RunError: it does not ask that, or somebody works on it.
        """
        with self.owned(self.find(run).id) as log:
            for seq, asked in open_questions(log.entries):
                if question in (None, seq):
                    log.append(Answered(seq, answer))
                    return asked
        asks = "asks nothing" if question is None else f"asks nothing in entry {question}"
        raise RunError(f"Run {run} {asks}.", hint="Resume it without an answer.")

    def cancel(self, run: str, why: str) -> None:
        """Ends a run that nobody works on. It may still be resumed or forked.

        Raises:
            RunError: it is finished, or somebody works on it.
        """
        with self.owned(self.find(run).id) as log:
            if any(isinstance(entry.what, RunFinished) for entry in log.entries):
                log.settle("finished")
                raise RunError(f"Run {run} is finished.", hint="There is nothing to cancel.")
            log.append(Cancelled(why))
            log.settle("cancelled")

    @contextmanager
    def owned(self, run: str) -> Iterator[Log]:
        """The run's log, for one writer.

        Raises:
            RunError: there is no such run, or another process works on it.
        """
        owner = new_owner()
        with self._reading() as connection:
            with connection.begin():
                _take(connection, run, owner)
                texts = Texts()
                known = list(_entries(connection, run, texts=texts))
            log = Log(connection, run, owner, known, Folded(texts.known), self.name)
            try:
                yield log
            except EngineStopped:
                log.leave()
                raise
            except StorageError:
                log.abandon(tell=connection.dialect.name == "sqlite")
                raise
            except BaseException:
                log.close()
                raise
            log.close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with sound(self.name), persistently(self.name, self._engine.connect) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._reading() as connection, connection.begin():
            yield connection


class Log:
    """One run's entries, in the hands of its owner. Any thread may append."""

    def __init__(
        self, connection: Connection, run: str, owner: str, known: Sequence[Entry], texts: Folded, where: str
    ) -> None:
        self.run, self.owner = run, owner
        self.entries = known
        self._texts = texts
        self._connection, self._where = connection, where
        self._next = known[-1].seq + 1 if known else 0
        self._lock = threading.Lock()
        self._closed = False
        self._status: Status | None = None

    def append(self, what: Noted, path: str = "", *, firmly: bool = False) -> int:
        """Writes one entry; when it returns, the entry survives the process, and with `firmly` a power cut.

        Raises:
            RunError: the run was taken over by another process, or this log is closed.
            StorageError: it could not be written.
        """
        with self._lock, sound(self._where):
            if self._closed:
                raise RunError(f"Run {self.run} is not worked on any more.", hint="Resume it.")
            row = _row(self.run, self._next, path, what, self._texts)
            if firmly:
                firm(self._connection, True)
            try:
                persistently(self._where, lambda: self._write(row))
            finally:
                if firmly:
                    firm(self._connection, False)
            self._next += 1
            return self._next - 1

    def _write(self, row: Mapping[str, Any]) -> None:
        """May be tried again after a connection broke, when nobody knows whether it had worked."""
        try:
            with self._connection.begin():
                self._connection.execute(_INSERT, row)
        except IntegrityError as error:
            mine = and_(*(entries.c[name] == value for name, value in row.items()))
            with self._connection.begin():
                if self._connection.execute(select(entries.c.seq).where(mine)).first() is not None:
                    return
            raise RunError(
                f"Run {self.run} was taken over by another process.", hint="This one had said nothing for too long."
            ) from error

    def resumed(self) -> None:
        """The first thing that a later owner writes; it keeps the earlier one from writing."""
        self.append(Resumed(self.owner))
        self._update(status="running")

    def keep(self) -> None:
        """Moves the end of the ownership on."""
        self._update(owned_until=clock(self._connection) + LEASE_S)

    def settle(self, status: Status) -> None:
        """What the run is from now on, when this log is closed."""
        self._status = status

    def close(self) -> None:
        self._update(owner=None, owned_until=0.0, **({"status": self._status} if self._status else {}))
        self._closed = True

    def leave(self) -> None:
        """Closes the log as if its owner had died: another process may go on at once."""
        self._update(owned_until=0.0)
        self._closed = True

    def abandon(self, *, tell: bool) -> None:
        """Closes the log after a failure. A server that is away is not waited for once more: the run is free when the
        lease is over."""
        if tell:
            with suppress(StorageError):
                self.close()
        self._closed = True

    def _update(self, **values: Any) -> None:
        mine = update(runs).where(runs.c.id == self.run, runs.c.owner == self.owner)

        def write() -> None:
            with self._connection.begin():
                self._connection.execute(mine.values(values))

        with self._lock, sound(self._where):
            persistently(self._where, write)


# ---------------------------------------------------------------------------------------------------------------- rows
def _take(connection: Connection, run: str, owner: str) -> None:
    now = clock(connection)
    free = or_(runs.c.owner.is_(None), runs.c.owned_until < now)
    holder = connection.execute(select(runs.c.owner, runs.c.owned_until).where(runs.c.id == run)).one_or_none()
    if holder is None:
        raise RunError(f"There is no run {run!r}.", hint="`plural runs` lists them.")
    if holder.owner and is_gone(holder.owner):
        free = or_(free, runs.c.owner == holder.owner)
    taken = connection.execute(
        update(runs).where(runs.c.id == run, free).values(owner=owner, owned_until=now + LEASE_S)
    )
    if taken.rowcount != 1:
        host, pid, *_ = (holder.owner or "another - -").split()
        raise RunError(
            f"Run {run} is worked on by process {pid} on {host.partition(':')[0]}.",
            hint=f"If that is dead, try again in {max(holder.owned_until - _now(connection), 0):.0f} s.",
        )


def _new(connection: Connection, **values: Any) -> str:
    run = uuid.uuid4().hex[:12]
    connection.execute(insert(runs).values(id=run, status="running", started=time.time(), **values))
    return run


def _write(connection: Connection, run: str, seq: int, path: str, what: Noted) -> None:
    connection.execute(_INSERT, _row(run, seq, path, what))


def _row(run: str, seq: int, path: str, what: Noted, texts: Folded | None = None) -> Mapping[str, Any]:
    kind, body = noted.written(what)
    short, long = texts.fold(seq, body) if texts else (body, None)
    return {"run": run, "seq": seq, "at": time.time(), "kind": kind, "path": path, "body": short, "texts": long}


def _now(connection: Connection) -> float:
    return float(connection.execute(select(clock(connection))).scalar_one())


def open_questions(known: Iterable[Entry]) -> list[tuple[int, Question]]:
    """What a person has not answered yet, with the entries' numbers."""
    asked = {entry.seq: entry.what for entry in known if isinstance(entry.what, Question | Answered)}
    answered = {what.question for what in asked.values() if isinstance(what, Answered)}
    return [(seq, what) for seq, what in asked.items() if isinstance(what, Question) and seq not in answered]


def _entries(
    connection: Connection, run: str, wanted: ColumnElement[bool] = true(), *, texts: Texts | None = None
) -> Iterator[Entry]:
    """The entries of the runs that this one was forked from, each up to where it was left, then its own."""
    texts = texts or Texts()
    parts = _parts(connection, run)
    for row in _rows(connection, parts, wanted):
        body = row.body
        if row.texts is not None:
            before = and_(entries.c.texts.is_not(None), entries.c.seq < row.seq)
            body = texts.unfold(row.seq, body, row.texts, lambda: _texts(connection, parts, before))  # noqa: B023
        yield Entry(row.seq, row.at, row.path, noted.read(row.kind, body))


def _texts(
    connection: Connection, parts: Sequence[tuple[str, int | None]], wanted: ColumnElement[bool]
) -> Iterator[tuple[int, str]]:
    for row in _rows(connection, parts, wanted):
        yield row.seq, row.texts


def _parts(connection: Connection, run: str) -> Sequence[tuple[str, int | None]]:
    """The run's origins, the first one first, with the last entry that the next one shares; then itself."""
    parts: list[tuple[str, int | None]] = [(run, None)]
    while True:
        origin = connection.execute(select(runs.c.parent, runs.c.forked_at).where(runs.c.id == parts[0][0])).one()
        if origin.parent is None:
            return parts
        parts.insert(0, (origin.parent, origin.forked_at))


def _rows(
    connection: Connection, parts: Sequence[tuple[str, int | None]], wanted: ColumnElement[bool]
) -> Iterator[Any]:
    for index, (part, _) in enumerate(parts):
        query = select(entries).where(entries.c.run == part, wanted).order_by(entries.c.seq)
        ends = [left_at for _, left_at in parts[index:] if left_at is not None]
        yield from connection.execute(query.where(entries.c.seq <= min(ends)) if ends else query)


def _info(row: Any, now: float) -> RunInfo:
    status = row.status
    if status == "running" and (row.owner is None or is_gone(row.owner) or row.owned_until < now):
        status = "interrupted"
    changed = row.changed or row.started
    count = row.count or 0
    return RunInfo(row.id, status, row.title, row.started, changed, count, row.parent, row.forked_at, row.client)


def _title(input: Any) -> str:
    text = input if isinstance(input, str) else json.dumps(input)
    return text if len(text) <= 200 else f"{text[:199]}…"

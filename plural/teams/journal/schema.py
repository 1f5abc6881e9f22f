"""Opening a journal's database: SQLite is made where it is not there, and either kind is brought to this version."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, func, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from plural.errors import RunError, SettingsError, StorageError
from plural.teams.journal.reaching import persistently
from plural.teams.journal.tables import VERSION

_WAIT_S = 10.0  # for another writer of the same file
_LOCK = 0x706C7572  # any number that nobody else uses in this database


def open_database(where: Path | str) -> Engine:
    """A path is an SQLite file; a text with "://" is SQLAlchemy's URL of a database.

    Raises:
        SettingsError: a URL that cannot be read, or whose driver is not installed.
        RunError: the journal was written by a newer Plural.
        StorageError: the database cannot be opened, or is locked or full.
    """
    url = str(where)
    if "://" not in url:
        path = Path(where).expanduser().absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent} could not be made: {error.strerror}.") from error
        url = f"sqlite:///{path}"
    try:
        engine = create_engine(url, **_options(url))
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise SettingsError(
            f"{url!r} is no journal: {error}.", hint="Give a file, or a URL as postgresql+psycopg://user@host/name."
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
    try:
        with sound(named(engine)):
            persistently(named(engine), lambda: _migrate(engine))
    except BaseException:
        engine.dispose()
        raise
    return engine


def named(engine: Engine) -> str:
    """The database in a message, without its password."""
    return engine.url.database or "" if engine.dialect.name == "sqlite" else engine.url.render_as_string()


@contextmanager
def sound(where: str) -> Iterator[None]:
    """What a database refuses, said in our words. Raises StorageError."""
    try:
        yield
    except DBAPIError as error:
        cause = str(error.orig)
        hint = "Another program holds it; try again." if "locked" in cause else "Nothing was lost that was shown."
        raise StorageError(f"The journal {where} cannot be used: {cause}.", hint=hint) from error


def firm(connection: Connection, wanted: bool) -> None:
    """Whether commits wait for the disk. A process that is killed loses nothing either way; a power cut may cost what
    was written without waiting. PostgreSQL always waits."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
        connection.commit()


def _options(url: str) -> dict[str, Any]:
    """Each run that is worked on holds a connection, and there may be any number of them."""
    if url.startswith("sqlite"):
        wait = {"timeout": _WAIT_S, "check_same_thread": False}
        return {"poolclass": QueuePool, "max_overflow": -1, "connect_args": wait}
    # A machine that vanished says nothing: what it held is noticed within half a minute.
    quick = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    libpq = make_url(url).drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
    return {"max_overflow": -1, "pool_pre_ping": True, "connect_args": quick if libpq else {}}


def clock(connection: Connection) -> Any:
    """The time in seconds since 1970, by the clock that all who use this database share: an SQL expression, or, of a
    file, which one machine has, this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return func.extract("epoch", func.clock_timestamp() if connection.dialect.name == "postgresql" else func.now())


def _prepare(connection: Any, _record: Any) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:  # the first time, it does not wait for others by itself
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        if _version(connection) == VERSION:
            return
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        if _version(connection) != VERSION:  # nobody else was quicker
            _upgrade(connection)


def _version(connection: Connection) -> str | None:
    """Of the journal. Raises RunError when this Plural does not know it."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and found > VERSION:
        raise RunError(
            f"The journal {named(connection.engine)} has schema {found}; this Plural knows {VERSION}.",
            hint="It was written by a newer Plural. Use that one, or another journal.",
        )
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

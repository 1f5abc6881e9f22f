"""The journal's two tables, as SQLAlchemy reads and writes them. The migrations make them."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

VERSION = "0003"  # of the newest migration

metadata = MetaData()
_SOME = text("texts IS NOT NULL")

# `parent` and `forked_at`: a fork reads its parent's entries up to there and adds its own.
# `client` is who asked for the run through a server, by its API key's id; NULL is the owner of the machine.
# `owner` may write until `owned_until`, which it moves on while it lives.
runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("parent", String(32), ForeignKey("runs.id")),
    Column("forked_at", Integer),
    Column("status", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("owner", Text),
    Column("owned_until", Float, nullable=False, server_default="0"),
    Column("client", String(32)),
)

# One run's entries have one writer; the key keeps a second one out. `texts` are the long texts that `body` is without
# (texts.py), where there are any.
entries = Table(
    "entries",
    metadata,
    Column("run", String(32), ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("path", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("texts", Text),
    Index("entries_with_texts", "run", "seq", sqlite_where=_SOME, postgresql_where=_SOME),
    sqlite_with_rowid=False,
)

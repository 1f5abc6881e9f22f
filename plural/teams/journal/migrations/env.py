"""What alembic runs: the migrations, on the connection that `plural.teams.journal.schema` hands in."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

"""Long texts of entries, as what is new in them. Those of earlier entries stay in their bodies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("entries", sa.Column("texts", sa.Text))
    some = sa.text("texts IS NOT NULL")
    op.create_index("entries_with_texts", "entries", ["run", "seq"], sqlite_where=some, postgresql_where=some)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.teams.journal.postgres import Postgres, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    server = Postgres(found)
    yield server
    server.close()

"""Two servers over one PostgreSQL: the runs of one that is killed are finished by the other."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from plural.teams.journal import Journal
from tests.serve.desk import world
from tests.serve.owner import Owner, check_answers
from tests.teams.journal.postgres import Postgres

pytestmark = pytest.mark.slow


def test_a_living_server_goes_on_with_the_runs_of_one_that_was_killed(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURAL_TEST_PAUSE", "0.2")  # so that the kill meets all runs on their way
    place = postgres.new()
    one, other = (Owner(tmp_path / name, world=tmp_path, journal=place) for name in ("one", "other"))
    killed = False
    try:
        for each in (one, other):
            each.folder.mkdir()
            each.start()
        known = {one.begin(f"r{number}"): f"r{number}" for number in range(4)}
        end = time.monotonic() + 60
        while not world(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.01)
        with Journal(place) as journal:
            before = {run: journal.find(run.removeprefix("run_")).status for run in known}
        assert set(before.values()) == {"running"}
        one.kill()
        killed = True
        asked = other.answer_truly(time.monotonic() + 120)
        runs = other.listed()
        assert {run["id"] for run in runs} == set(known)
        assert {run["status"] for run in runs} == {"finished"}
        check_answers(other, known)
    finally:
        one.close(killed=killed)
        other.close()
    wanted = [f"{name} {who} {part}" for name in known.values() for who in ("first", "second") for part in "ab"]
    assert Counter(world(tmp_path)) == Counter(wanted), "every effect is there once"
    print(f"4 runs taken over, a person was asked {asked} times")

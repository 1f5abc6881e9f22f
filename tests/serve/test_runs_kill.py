"""kill -9 of the server under load, again and again: every journaled run comes to its right end, every effect once."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serve.desk import world
from tests.serve.owner import Owner, check_answers


@contextmanager
def load(owner: Owner) -> Iterator[None]:
    """Others who ask all the while, whatever becomes of their answers."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            body = {"model": "base", "messages": [{"role": "user", "content": "and so on"}], "max_tokens": 8}
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{owner.url}/v1/chat/completions", json=body, timeout=5)
            time.sleep(0.01)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def suffer(folder: Path, *, seed: int, kills: int, each: int) -> tuple[int, int]:
    """How many runs there were, and how often a person was asked."""
    chance, owner, names, asked = random.Random(seed), Owner(folder), list[str](), 0
    known: dict[str, str] = {}
    owner.start()
    try:
        with load(owner):
            for kill in range(kills):
                for number in range(each):
                    names.append(f"r{kill}x{number}")
                    known[owner.begin(names[-1])] = names[-1]
                asked += owner.answer_truly(time.monotonic() + chance.uniform(0.0, 0.3))
                time.sleep(chance.uniform(0.0, 0.1))
                owner.kill()
                owner.start()
            asked += owner.answer_truly(time.monotonic() + 300)
        runs = owner.listed()
        assert {run["id"] for run in runs} == set(known), "nothing is lost, nothing is there twice"
        assert {run["status"] for run in runs} == {"finished"}
        check_answers(owner, known)
    finally:
        owner.close()
    lines = Counter(world(folder))
    wanted = [f"{name} {who} {part}" for name in names for who in ("first", "second") for part in "ab"]
    assert lines == Counter(wanted), "every effect is there once"
    return len(runs), asked


def test_a_killed_server_goes_on_with_its_runs(tmp_path: Path) -> None:
    runs, _ = suffer(tmp_path, seed=1, kills=1, each=4)
    assert runs == 4


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    runs, asked = suffer(tmp_path, seed=2, kills=10, each=5)
    print(f"{runs} runs, 10 kills, a person was asked {asked} times")
    assert runs == 50
    assert asked > 0, "no kill met a call in its midst"

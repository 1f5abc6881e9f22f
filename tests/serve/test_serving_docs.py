"""What docs/serving.md shows is done as it stands, on the tiny network: its curls, its training, its A2A client."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plural.wiring.offers import Offers, read_offers
from tests.serve.desk import desk
from tests.serve.planned import planned_network
from tests.serve.test_fine_tuning import ROWS, ended
from tests.serve.tiny import Running, served, stage_specialist, with_evidence

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
HERE = "http://127.0.0.1:8000"
TEAM = {
    "task": "write it down",
    "agents": [{"name": "writer", "specialist": "clerk"}],
    "steps": [{"task": "write it down", "agents": ["writer"]}],
    "ways": {"observers": False, "refinement": False, "memory": False},
}


def block_with(text: str) -> str:
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if text in block]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Running]:
    """The page's agent, and the specialists that it names; of cron there are two versions."""
    counted = threading.Event()
    counted.set()
    network = planned_network(home, counted, max_tokens=16, journal=home / "journal.db")
    for name, seed in (("toolcall", 51), ("cron", 52), ("cron", 53)):
        staged = stage_specialist(home / f"{name}{seed}", network.base_model, seed=seed, name=name)
        if name == "cron":
            with_evidence(staged, {f"every {number} minutes": "what nobody says" for number in range(3)})
        network.library.publish(staged, name=name, replace=True)
    stage_specialist(network.library.root / ".incoming" / "new", network.base_model, seed=54, name="new")
    (home / "shop.py").write_text(block_with("def buyer"))
    sys.path.insert(0, str(home))
    try:
        buyer = read_offers(network, ["shop:buyer"]).workers
    finally:
        sys.path.remove(str(home))
    offers = Offers(desk(network, home).workers | buyer)
    with served(network, records=home / "records.sqlite", offers=offers) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture(scope="module")
def runs(running: Running) -> dict[str, str]:
    """A run that is over, and one that waits for a person, by their status."""
    found = {}
    for model, status in (("base", "finished"), ("payer", "waiting")):
        url = f"{running.url}/v1/runs"
        run = httpx.post(url, json={"model": model, "input": "Pay 7"}).json()
        for _ in range(400):
            if httpx.get(f"{url}/{run['id']}").json()["status"] == status:
                break
            time.sleep(0.025)
        found[status] = run["id"]
    return found


@pytest.mark.parametrize("line", re.findall(r"^curl (?:-N )?(\.\.\.\S+.*)$", PAGE, flags=re.MULTILINE))
def test_the_curls_of_the_page_are_answered(running: Running, runs: dict[str, str], home: Path, line: str) -> None:
    address, *words = shlex.split(line, comments=True)
    options = dict(zip(words[::2], words[1::2], strict=True))
    address = address.replace("run_5d0c…", runs["waiting" if "approve" in address else "finished"])
    (home / "team.json").write_text(json.dumps(TEAM))
    body = options.pop("-d", None)
    if body and body.startswith("@"):
        body = (home / body[1:]).read_text()
    headers = {"Content-Type": "application/json"} if body else {}
    if given := options.pop("-H", None):
        headers |= dict([given.split(": ")])
    method = options.pop("-X", "POST" if body else "GET")
    assert not options
    answer = httpx.request(method, address.replace("...", running.url), content=body, headers=headers, timeout=60)
    assert answer.status_code in (200, 204), answer.text


def run_block(code: str, names: dict[str, Any]) -> Any:
    """The code, which may await; a coroutine if it does."""
    compiled = compile(code, "serving.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return eval(compiled, names)


def test_the_page_s_training_is_a_real_one(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tickets.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        names = {"client": client}
        run_block(block_with("fine_tuning"), names)
        job = ended(client, names["job"])
        assert (job.status, job.fine_tuned_model) == ("succeeded", "tickets")
        assert client.models.retrieve("tickets").id == "tickets"
    assert running.network.library.get("tickets").card.purpose == "Sorts support tickets."


async def test_the_page_s_a2a_client_finds_the_agent_and_is_asked_for_approval(running: Running) -> None:
    pytest.importorskip("a2a", reason="a2a-sdk is not installed: plural[a2a].")
    from tests.serve.test_a2a import heard, saying

    async with httpx.AsyncClient(timeout=30) as http:
        names: dict[str, Any] = {"http": http}
        waited = run_block(block_with("a2a.client").replace(HERE, running.url), names)
        assert inspect.iscoroutine(waited)
        await waited
        events = await heard(names["buyer"].send_message(saying("Order two hammers.")))
        assert events[0].task.id.startswith("run_")

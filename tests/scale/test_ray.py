"""The network on a real Ray cluster of several nodes, all of them this machine's: the same answers, where they were
computed, and what goes wrong. Minutes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")

from plural import Network
from plural.agents import mark, tool
from plural.agents.tools import call_tool
from plural.engine import Request
from plural.errors import MachineError, SettingsError
from plural.scale import ScaleSettings, deploy, take_down
from plural.scale.cluster import Identity, running_replicas
from plural.scale.deploying import engine_deployment
from plural.scale.engine import PREFIX
from plural.scale.tasks import train_away
from plural.serve.backend import Lesson
from plural.types import AdapterRef, Sampling, ToolCall
from plural.wiring.serving import read_order
from plural.wiring.settings import read_settings, shelf
from tests.scale import recipe
from tests.scale.tiny import NAMES, Home, make_home, nodes, parent, processes
from tests.serve.tiny import stage_activated

pytestmark = pytest.mark.slow
PORT = 18_345
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def cluster(home: Home) -> Iterator[Any]:
    """A head and two nodes, a replica on each, and the API."""
    scale = ScaleSettings.of(replicas=2, spread=True, busy=8, target=4)
    order = read_order({"port": PORT, "data": home.folder / "server"})
    with nodes(2) as cluster:
        made = deploy(cluster.address, read_settings(**home.settings()), scale, order)
        assert (made.url, made.replicas) == (URL, 2)
        yield cluster


@pytest.fixture(scope="module")
def network(home: Home, cluster: Any) -> Iterator[Network]:
    with Network.open(**home.settings(cluster=cluster.address)) as network:
        yield network


@pytest.fixture(scope="module")
def laptop(home: Home) -> Iterator[Network]:
    with Network.open(**home.settings()) as network:
        yield network


def post(path: str, body: dict[str, Any]) -> Any:
    asked = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as answered:
        return json.load(answered)


def get(path: str) -> Any:
    with urllib.request.urlopen(URL + path, timeout=120) as answered:
        return answered.read().decode()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 180
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_recipe_runs_unchanged_on_one_machine_and_on_the_cluster(home: Home, cluster: Any) -> None:
    made = {}
    for where in ("laptop", cluster.address):
        out = home.folder / f"recipe-{where.replace(':', '-')}.json"
        given = {f"PLURAL_{name.upper()}": str(value) for name, value in home.settings().items()}
        if where != "laptop":
            given["PLURAL_CLUSTER"] = where
        command = [sys.executable, recipe.__file__, str(out)]
        subprocess.run(command, env=os.environ | given, check=True, timeout=300, cwd=Path(__file__).parents[2])
        made[where] = json.loads(out.read_text())
    here, there = made.values()
    assert there["answers"] == here["answers"]
    assert here["dug"] == here["pid"]
    assert there["dug"] != there["pid"]


def test_http_says_what_the_laptop_says(laptop: Network, cluster: Any) -> None:
    asked = [{"role": "user", "content": "file this paper"}]
    for name in ("clerk", "judge", "base"):
        said = post("/v1/chat/completions", {"model": name, "messages": asked, "max_tokens": 24})
        assert said["choices"][0]["message"]["content"] == str(laptop.ask("file this paper", to=name))
    listed = {model["id"] for model in json.loads(get("/v1/models"))["data"]}
    assert listed == {"network", "base", *NAMES}
    streamed = urllib.request.Request(
        URL + "/v1/chat/completions",
        json.dumps({"model": "cook", "messages": asked, "stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(streamed, timeout=120) as lines:
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == str(laptop.ask("file this paper", to="cook"))


def test_a_run_goes_on_without_its_client(laptop: Network, cluster: Any) -> None:
    begun = post("/v1/runs", {"model": "clerk", "input": "file this paper"})
    until = time.monotonic() + 120
    while (run := json.loads(get(f"/v1/runs/{begun['id']}")))["status"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert (run["status"], run["answer"]) == ("finished", str(laptop.ask("file this paper", to="clerk")))


def test_a_specialist_is_loaded_by_one_replica_while_that_is_not_busy(network: Network) -> None:
    engine: Any = network.engine
    for _ in range(5):
        for name in ("cook", "maid"):
            network.ask("where is the form", to=name)
    where = Counter(digest for stats in engine.every("stats") for digest in stats.adapters)
    assert [where[network.library.get(name).digest] for name in ("cook", "maid")] == [1, 1]


async def test_a_hot_specialist_spills_over_and_is_then_on_both(network: Network) -> None:
    engine: Any = network.engine
    model = network.specialist("clerk")
    digest = network.library.get("clerk").digest
    said = await asyncio.gather(*(model.ainvoke(f"file paper {n}", max_tokens=400, ignore_eos=True) for n in range(24)))
    assert len(said) == 24
    held = await asyncio.to_thread(engine.every, "stats")
    assert all(digest in stats.adapters for stats in held)


async def test_two_activated_specialists_with_one_transcript_meet_at_one_replica(home: Home, network: Network) -> None:
    base, library = network.base_model, network.library
    cards = []
    for seed, name in enumerate(("first", "second")):
        staged = stage_activated(home.folder / f"staged-{name}", base, seed=20 + seed, name=name, text=f"{name}?")
        cards.append(library.publish(staged, name=name, replace=False).card)
    dice, pages, met = random.Random(3), 10, 0
    for _ in range(8):  # by lot, seven of them would meet once in 28 times
        transcript = tuple(dice.randrange(32, 127) for _ in range(16 * pages))
        assert len(transcript) > PREFIX
        cached = []
        for card in cards:
            worn = AdapterRef(card.digest, offset=len(transcript))
            asked = Request((*transcript, *card.invocation), Sampling(max_tokens=2, ignore_eos=True), worn)
            *_, last = [event async for event in network.engine.generate(asked)]
            cached.append(last.usage.cached)
            await asyncio.sleep(1)  # ten times as long as Ray Serve takes to tell who knows a key
        assert cached[0] == 0
        met += cached[1] == 16 * pages
    assert met >= 7


async def test_a_client_that_leaves_ends_its_request(network: Network) -> None:
    engine: Any = network.engine
    before = await asyncio.to_thread(engine.look)
    async for _ in network.base.astream("go on", max_tokens=900, ignore_eos=True):
        break
    for _ in range(100):
        now = await asyncio.to_thread(engine.look)
        if now.running == 0 and now.finished > before.finished:
            break
        await asyncio.sleep(0.05)
    assert now.running == 0
    assert now.computed - before.computed < 800


@mark(long=True)
@tool
def divide(a: int, b: int) -> str:
    """Divides.

    Args:
        a: This.
        b: By that.
    """
    return f"{a / b} in {os.getpid()}"


_lock = threading.Lock()


@mark(long=True, timeout=2.0)
@tool
def sleep(file: str) -> str:
    """Sleeps.

    Args:
        file: Written at the end.
    """
    time.sleep(6)
    Path(file).write_text("awake")
    return "awake"


async def test_long_tools_are_tasks_that_fail_as_tools_do(network: Network, tmp_path: Path) -> None:
    tools = {"divide": divide, "sleep": sleep}
    said, failed = await call_tool(tools, ToolCall("1", "divide", {"a": 6, "b": 3}))
    assert said.startswith("2.0 in ")
    assert not failed
    assert not said.endswith(str(os.getpid()))
    said, failed = await call_tool(tools, ToolCall("2", "divide", {"a": 6, "b": 0}))
    assert (said, failed) == ("divide(a=6, b=0) failed: ZeroDivisionError: division by zero", True)
    said, failed = await call_tool(tools, ToolCall("3", "sleep", {"file": str(tmp_path / "note")}))
    assert failed
    assert "no result within 2 s" in said
    await asyncio.sleep(6)
    assert not (tmp_path / "note").exists(), "a call that took too long is ended, not only left"


async def test_a_tool_that_cannot_travel_is_named(network: Network) -> None:
    @mark(long=True)
    @tool
    def locked() -> str:
        """Holds a lock."""
        with _held:
            return "done"

    _held = threading.Lock()
    said, failed = await call_tool({"locked": locked}, ToolCall("1", "locked", {}))
    assert failed
    assert "The long tool 'locked' cannot be sent to another process" in said


def test_a_training_job_is_a_task_and_its_specialist_is_served(home: Home, cluster: Any) -> None:
    rows = [json.dumps({"messages": [
        {"role": "user", "content": f"{n} and {n % 7}?"}, {"role": "assistant", "content": f"sum {n + n % 7}."}
    ]}) for n in range(40)]  # fmt: skip
    border = "----rows"
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n',
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n',
        "\n".join(rows),
        f"\r\n--{border}--\r\n",
    ]
    kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
    upload = urllib.request.Request(f"{URL}/v1/files", "".join(parts).encode(), kind)
    with urllib.request.urlopen(upload, timeout=60) as answered:
        file = json.load(answered)["id"]
    body = {"model": "base", "training_file": file, "suffix": "adder", "hyperparameters": {"n_epochs": 1}}
    job = post("/v1/fine_tuning/jobs", body)
    end = time.monotonic() + 300
    trainers: set[int] = set()
    while job["status"] not in ("succeeded", "failed") and time.monotonic() < end:
        trainers |= {parent(pid) for pid in processes("_trained")}
        time.sleep(0.2)
        job = json.loads(get(f"/v1/fine_tuning/jobs/{job['id']}"))
    assert job["status"] == "succeeded", job
    assert len(trainers) == 1, "one task, in a process of its own"
    assert trainers <= raylets(cluster).keys(), "on a node, not on the head"
    said = post("/v1/chat/completions", {"model": "adder", "messages": [{"role": "user", "content": "3 and 3?"}]})
    assert said["model"] == "adder"


def raylets(cluster: Any) -> dict[int, Any]:
    """The nodes, but for the head, by the processes that start their workers."""
    return {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}


def test_a_training_whose_node_is_lost_says_so(home: Home, cluster: Any, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}]}
            for n in range(40)]  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = read_settings(**home.settings()).model_dump()
    news = train_away(settings, Lesson("endless", data, settings={"epochs": 100_000}), 1)
    for said in news:
        if "steps" in said.facts or "training" in said.message:
            break
    (trainer,) = processes("_trained")
    assert trainer != os.getpid()
    cluster.remove_node(raylets(cluster)[parent(trainer)], allow_graceful=False)
    with pytest.raises(MachineError, match="The node that trained was lost"):
        list(news)
    until(lambda: not Path(f"/proc/{trainer}").exists())
    cluster.add_node(num_cpus=2)
    until(lambda: running_replicas() == 2)


def test_runs_outlive_the_api_that_began_them(laptop: Network, cluster: Any) -> None:
    """It is started anew on the head, where its files are, and goes on with what its journal says."""
    (api,) = processes("ServeReplica:plural:api")
    begun = [post("/v1/runs", {"model": "clerk", "input": f"read page {page}"})["id"] for page in range(30)]
    listed = json.loads(get("/v1/runs?limit=100"))["data"]
    os.kill(api, signal.SIGKILL)
    assert sum(run["status"] != "finished" for run in listed if run["id"] in begun) > 0, "none was under way"

    def found() -> list[Any]:
        try:
            return [json.loads(get(f"/v1/runs/{id}")) for id in begun]
        except (urllib.error.URLError, ConnectionError):
            return []

    until(lambda: (runs := found()) and all(run["status"] == "finished" for run in runs))
    for page, run in enumerate(found()):
        assert run["answer"] == str(laptop.ask(f"read page {page}", to="clerk"))
    (again,) = processes("ServeReplica:plural:api")
    assert again != api
    assert parent(again) not in raylets(cluster)


def test_a_replica_with_another_base_is_refused_by_name(home: Home, cluster: Any) -> None:
    from ray import serve

    settings = read_settings(**home.settings())
    other = Identity("0.1.0", "sha256:other", "other")
    with pytest.raises(RuntimeError):
        serve.run(engine_deployment(settings, ScaleSettings.of(), other), name="other", route_prefix=None)
    found = serve.status().applications["other"]
    serve.delete("other")
    assert "here it is 'sha256:other'" in found.deployments["engine"].message


def test_deploying_and_opening_say_what_was_refused(home: Home, cluster: Any, tmp_path: Path) -> None:
    other = make_home(tmp_path / "other", positions=512)
    with pytest.raises(SettingsError, match="A replica of the cluster has the base"):
        Network.open(**other.settings(cluster=cluster.address))


def test_a_library_at_a_url_is_the_cluster_s(home: Home, laptop: Network, cluster: Any) -> None:
    """A store that all nodes reach; what is published there by another process is served at once."""
    settings = read_settings(**home.settings(library=f"file://{home.folder}/store", cache=home.folder / "nodes"))
    library = shelf(settings)
    library.publish(home.folder / "staged-clerk", name="clerk", replace=False)
    order = read_order({"port": PORT, "data": home.folder / "server"})
    assert deploy(cluster.address, settings, ScaleSettings.of(replicas=2, spread=True), order).replicas == 2
    asked = {"model": "clerk", "messages": [{"role": "user", "content": "file this paper"}]}
    answer = str(laptop.ask("file this paper", to="clerk"))
    assert post("/v1/chat/completions", asked)["choices"][0]["message"]["content"] == answer
    library.publish(home.folder / "staged-cook", name="late", replace=False)
    until(lambda: "late" in get("/v1/models"))
    said = post("/v1/chat/completions", asked | {"model": "late"})
    assert said["choices"][0]["message"]["content"] == str(laptop.ask("file this paper", to="cook"))
    assert len(list((home.folder / "nodes" / "libraries").glob("*/.arrived/*/*"))) == 2, "as files, in the nodes' cache"


def test_a_network_that_was_taken_down_is_not_there(home: Home, cluster: Any) -> None:
    take_down(cluster.address, 30)
    assert running_replicas() is None
    with pytest.raises(SettingsError, match=f"No network is deployed on the Ray cluster {cluster.address}"):
        Network.open(**home.settings(cluster=cluster.address))

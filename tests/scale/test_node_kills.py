"""Nodes of a cluster are killed under load, with the replicas, the owners of runs and the long tools on them: every run
ends with the answer that it has on a laptop, and every effect is there once. Minutes."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")

import ray
from ray import serve
from ray.exceptions import RayActorError

from plural import Network
from plural.scale import ScaleSettings
from plural.scale.cluster import APP, Identity, running_replicas
from plural.scale.deploying import engine_deployment
from plural.teams.journal import Journal
from plural.teams.journal.entries import Answered
from plural.types import Question
from plural.wiring.settings import read_settings
from tests.scale import killable
from tests.scale.tiny import Home, make_home, nodes
from tests.teams.journal.conftest import postgres  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("PLURAL_KILLS", "20"))
AT_ONCE, OWNERS = 4, 2
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


class Load:
    """Runs that begin, go on wherever somebody lives, and end."""

    def __init__(self, folder: Path, settings: dict[str, Any], journal: str) -> None:
        self.folder = folder
        self.journal = Journal(journal)
        self.answers: dict[str, str] = {}
        self.moved = self.asked = self.begun = 0
        self.stopping = False
        actor = ray.remote(num_cpus=0.5, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD")
        made = actor(killable.Owner)
        patient = {"env_vars": {"PLURAL_SCALE_PATIENCE": str(PATIENCE_S)}}
        placed = made.options(max_concurrency=AT_ONCE, runtime_env=patient)
        self.owners = [placed.remote(settings, folder, journal) for _ in range(OWNERS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """On a thread with a loop of its own: Ray adds nodes from the main thread only."""
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(asyncio.run, self._all())
            try:
                yield
            finally:
                self.stopping = True
            with self.journal:
                ended.result()

    async def _all(self) -> None:
        await asyncio.gather(*(self._keep_going() for _ in range(AT_ONCE)))

    async def _keep_going(self) -> None:
        while not self.stopping:
            paper = f"paper-{self.begun}"
            self.begun += 1
            run = await asyncio.to_thread(self.journal.create, _request(paper))
            self.answers[paper] = await self._finished(run, paper)

    async def _finished(self, run: str, paper: str) -> str:
        """Whoever is alive goes on with it."""
        end = time.monotonic() + 2 * PATIENCE_S
        while time.monotonic() < end:
            try:
                answer = await random.choice(self.owners).work.remote(run, paper)
            except RayActorError:  # it is started anew on a node that lives
                self.moved += 1
                await asyncio.sleep(0.5)
                continue
            if answer is not None:
                return str(answer)
            await asyncio.to_thread(self._answer_truly, run)
            await asyncio.sleep(0.2)
        raise AssertionError(f"run {run} did not end: {self.journal.find(run)}")

    def _answer_truly(self, run: str) -> None:
        """What a person says who looks at the world."""
        known = [(entry.seq, entry.what) for entry in self.journal.entries(run)]
        answered = {what.question for _, what in known if isinstance(what, Answered)}
        for seq, what in known:
            if isinstance(what, Question) and seq not in answered:
                assert what.call is not None
                assert what.call.name == "pay"
                paper = str(what.call.arguments["paper"])
                done = paper in killable.paid(self.folder)
                self.journal.answer(run, f"paid {paper}" if done else "repeat")
                self.asked += 1


def _request(paper: str) -> str:
    """Sixteen different ones, so that a laptop can say what each has for an answer."""
    return f"read page {int(paper.partition('-')[2]) % 16}"


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + 2 * PATIENCE_S
    while not true():
        if time.monotonic() > end:
            actors = Counter((one["ActorClassName"], one["State"]) for one in ray._private.state.actors().values())
            raise AssertionError(f"{serve.status()}\n{actors}\n{[node['Alive'] for node in ray.nodes()]}")
        time.sleep(0.2)


def add_node(cluster: Any) -> None:
    """Under this much load a node may not be up within the half minute that Ray gives it."""
    for last in (False, False, False, True):
        try:
            cluster.add_node(num_cpus=4)
            return
        except Exception:
            if last:
                raise


def expected(home: Home, folder: Path, papers: list[str]) -> dict[str, str]:
    """The last specialist reads what the cashier said, so that every paper has its own answer."""
    folder.mkdir()
    killable.prepare(folder)
    with Network.open(**home.settings()) as network:

        async def each() -> list[str]:
            made = [killable.worker(network, folder, paper).ainvoke(_request(paper)) for paper in papers]
            return [str(answer) for answer in await asyncio.gather(*made)]

        return dict(zip(papers, asyncio.run(each()), strict=True))


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", KILLS), ("postgres", max(1, KILLS // 4))])
def test_nodes_are_killed_under_load(
    home: Home, tmp_path: Path, kind: str, kills: int, request: pytest.FixtureRequest
) -> None:
    journal = request.getfixturevalue("postgres").new() if kind == "postgres" else str(tmp_path / "journal.db")
    killable.prepare(tmp_path)
    chance = random.Random(8)
    with nodes(2, cpus=4) as cluster:
        settings = read_settings(**home.settings())
        scale = ScaleSettings.of(replicas=2, spread=True, patience=PATIENCE_S)
        with Network.open(**home.settings()) as network:
            identity = Identity.of(network.base_model)
        serve.run(engine_deployment(settings, scale, identity), name=APP, route_prefix=None)
        load = Load(tmp_path, home.settings(cluster=cluster.address), journal)

        under_way = []
        with load.running():
            wait_for(lambda: len(load.answers) >= AT_ONCE)
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 1.0))
                under_way.append(load.begun - len(load.answers))
                victim = chance.choice(sorted(cluster.worker_nodes, key=lambda node: node.unique_id))
                before = len(load.answers)
                cluster.remove_node(victim, allow_graceful=False)
                add_node(cluster)
                wait_for(lambda before=before: running_replicas() and len(load.answers) > before)
    assert len(under_way) == kills
    assert all(under_way), "every kill met runs under way"
    papers = sorted(load.answers)
    assert len(papers) == load.begun
    assert load.answers == expected(home, tmp_path / "laptop", papers)
    assert Counter(killable.paid(tmp_path)) == Counter(papers)
    assert sorted(killable.stamped(tmp_path)) == papers
    assert load.moved > 0 or kills < 5, "owners of runs were killed, too"
    told = f"{len(papers)} runs, {load.moved} went on elsewhere, {load.asked} questions answered"
    print(f"{kind}: {kills} nodes killed, {told}")

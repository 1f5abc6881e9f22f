"""The number of replicas follows the queue: one is added under load and goes again. A minute."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")

from plural import Network
from plural.scale import ScaleSettings, deploy
from plural.scale.cluster import running_replicas
from plural.wiring.serving import read_order
from plural.wiring.settings import read_settings
from tests.scale.tiny import NAMES, make_home, nodes

pytestmark = pytest.mark.slow
PATIENCE_S = 90.0


def test_a_replica_is_added_under_load_and_goes_again(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    scale = ScaleSettings.of(replicas=1, max_replicas=2, target=1, grow_after=1, shrink_after=3)
    order = read_order({"port": 18_346, "data": tmp_path / "server"})
    with nodes(1, cpus=4) as cluster:
        deploy(cluster.address, read_settings(**home.settings()), scale, order)
        assert running_replicas() == 1
        with Network.open(**home.settings(cluster=cluster.address)) as network:
            whole = {name: network.agent(name).invoke("who") for name in NAMES}
            answers = asyncio.run(_asked_until(network, 2))
        # Nobody is told anything else by the replica that came.
        assert set(answers) <= set(whole.items())
        _wait_for(1)


async def _asked_until(network: Network, replicas: int) -> list[tuple[str, str]]:
    """Eight ask all the time, and a few times more when there are so many replicas."""
    answers: list[tuple[str, str]] = []
    grown, until = asyncio.Event(), time.monotonic() + PATIENCE_S

    async def asks(name: str) -> None:
        while not grown.is_set():
            answers.append((name, await network.agent(name).ainvoke("who")))
            assert time.monotonic() < until, f"after {PATIENCE_S} s there is still {running_replicas()} replica"
        answers.append((name, await network.agent(name).ainvoke("who")))

    async def looks() -> None:
        while await asyncio.to_thread(running_replicas) != replicas:
            await asyncio.sleep(0.5)
        grown.set()

    looking = asyncio.ensure_future(looks())
    await asyncio.gather(*(asks(name) for name in (*NAMES, *NAMES)))
    await looking
    return answers


def _wait_for(replicas: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while (found := running_replicas()) != replicas:
        assert time.monotonic() < until, f"after {PATIENCE_S} s there are {found} replicas"
        time.sleep(0.5)

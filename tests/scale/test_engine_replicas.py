"""Replicas that compute with an engine of another process: each starts its own, and goes with it. A minute."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")

from ray import serve

from plural import Network
from plural.scale import ScaleSettings
from plural.scale.cluster import APP, Identity, running_replicas
from plural.scale.deploying import engine_deployment
from plural.wiring.settings import read_settings
from tests.scale import played_vllm
from tests.scale.tiny import NAMES, make_home, nodes

pytestmark = pytest.mark.slow
PATIENCE_S = 180.0


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, serve.status()
        time.sleep(0.1)


def test_an_engine_that_is_killed_is_a_lost_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path / "home")
    notes = home.folder / "notes"
    notes.mkdir()
    played_vllm.install(tmp_path / "peers")
    monkeypatch.setenv("PLURAL_PEERS", str(tmp_path / "peers"))
    monkeypatch.setenv(played_vllm.NOTES, str(notes))
    monkeypatch.setenv("PLURAL_SCALE_PATIENCE", str(PATIENCE_S))
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)

    def engines() -> dict[int, Any]:
        return {int(note.stem): json.loads(note.read_text()) for note in notes.glob("*.json")}

    asked = [(name, f"read page {page}") for page in range(4) for name in NAMES]

    async def answers(network: Network, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
        models = {name: network.specialist(name).bind(max_tokens=300, ignore_eos=True) for name in NAMES}
        asking = [asyncio.ensure_future(models[name].ainvoke(text)) for name, text in asked]
        await asyncio.to_thread(meanwhile)
        return [str(said.content) for said in await asyncio.gather(*asking)]

    with Network.open(**home.settings()) as laptop:
        expected = asyncio.run(answers(laptop))
        identity = Identity.of(laptop.base_model)
    with nodes(2, cpus=2) as cluster:
        # Told as `plural deploy --engine vllm --cpus 2` tells it.
        settings = read_settings(**home.settings(engine="vllm", threads=None))
        scale = ScaleSettings.of(replicas=2, spread=True, cpus=2)
        serve.run(engine_deployment(settings, scale, identity), name=APP, route_prefix=None)
        first = engines()
        assert [(one["threads"], one["bound"]) for one in first.values()] == [(2, "nobind")] * 2
        with Network.open(**home.settings(cluster=cluster.address)) as network:
            engine: Any = network.engine
            assert asyncio.run(answers(network)) == expected
            assert engine.retried == 0

            def kill_one() -> None:
                until(lambda: sum(one.running > 0 for one in engine.every("stats")) == 2)
                os.kill(min(first), signal.SIGKILL)

            assert asyncio.run(answers(network, kill_one)) == expected
            assert engine.retried > 0
            until(lambda: len(engines()) == 3 and running_replicas() == 2)
            assert asyncio.run(answers(network)) == expected
    end = time.monotonic() + 30
    while alive := [pid for pid in engines() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"engines outlive their replicas: {alive}"
        time.sleep(0.1)

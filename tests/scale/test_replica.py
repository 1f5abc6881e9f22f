"""One replica without Ray: it wires itself, answers as the engine does, and says what it is."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from plural import Network
from plural.engine import Request
from plural.errors import EngineLost, MachineError, PromptError, SettingsError, SpecialistError
from plural.scale.cluster import Identity, join
from plural.scale.replica import Replica, _bundled
from plural.types import AdapterRef, Sampling
from tests.remote.pretender import END, VLLM, Pretender
from tests.scale.tiny import Home, make_home

REQUEST = Request(tuple(range(65, 75)), Sampling(max_tokens=12, ignore_eos=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def network(home: Home) -> Iterator[Network]:
    with Network.open(**home.settings()) as network:
        yield network


@pytest.fixture(scope="module")
def replica(home: Home, network: Network) -> Iterator[Replica]:
    made = Replica(home.settings(), Identity.of(network.base_model), 0.01)
    yield made
    made._network.close()


async def heard(replica: Replica, call: str, *given: Any) -> list[Any]:
    return [one async for bundle in replica.stream(call, *given) for one in bundle]


async def test_it_draws_what_the_engine_draws(replica: Replica, network: Network) -> None:
    worn = replace(REQUEST, adapter=AdapterRef(network.library.get("cook").digest))
    for request in (REQUEST, worn):
        own = [event async for event in network.engine.generate(request)]
        told = await heard(replica, "generate", request)
        assert [event.token_id for event in told] == [event.token_id for event in own]
        assert told[-1].finish == own[-1].finish
    assert {which for which, _ in await heard(replica, "samples", REQUEST, 3)} == {0, 1, 2}
    assert await replica.answer("embed", [(65, 66)]) == await network.engine.embed([(65, 66)])
    options = ["yes", "no"]
    assert await replica.answer("choose", (65,), options) == await network.engine.choose((65,), options)
    assert await replica.answer("score", (65, 66, 67)) == await network.engine.score((65, 66, 67))
    await replica.check_health()


async def test_what_the_engine_refuses_travels_as_a_value(replica: Replica) -> None:
    (refused,) = await heard(replica, "generate", replace(REQUEST, prompt=()))
    assert isinstance(refused, PromptError)
    assert isinstance(await replica.answer("embed", [()]), PromptError)
    assert isinstance(await replica.pin("sha256:unknown"), SpecialistError)


async def test_a_replica_ends_when_the_server_of_its_engine_is_gone(
    home: Home, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = (200, f"data: {END}\n\n")
    server = Pretender({"/v1/models": (200, VLLM), "/health": (200, ""), "/v1/completions": half})
    settings = home.settings(engine=f"vllm:{server.url}", dtype="auto")
    replica = Replica(settings, Identity.of(network.base_model), 0.01)
    ended: list[int] = []
    monkeypatch.setattr(replica, "_end", lambda: ended.append(1))
    try:
        await replica.check_health()
        (lost,) = await heard(replica, "generate", REQUEST)
        assert isinstance(lost, EngineLost)
        assert ended == [], "an answer broke off, but the server is well"
        server.answers["/health"] = (503, "")
        (lost,) = await heard(replica, "generate", REQUEST)
        assert isinstance(lost, EngineLost)
        assert ended == [1]
        with pytest.raises(EngineLost, match=f"{server.url} is busy: 503"):
            await replica.check_health()
        assert ended == [1, 1]
    finally:
        replica._network.close()
        server.shutdown()
        server.server_close()


def test_a_node_with_another_base_does_not_join(home: Home, network: Network) -> None:
    other = replace(Identity.of(network.base_model), base="sha256:other")
    with pytest.raises(
        SettingsError, match=r"replica on .* has the base 'sha256:[0-9a-f]+'; here it is 'sha256:other'"
    ):
        Replica(home.settings(), other, 0.01)


# ------------------------------------------------------------------------------------------------------------ messages
async def test_tokens_of_a_moment_travel_together_and_the_first_at_once() -> None:
    async def tokens() -> AsyncIterator[int]:
        for token in range(10):
            yield token
            await asyncio.sleep(0.01)

    begun = time.monotonic()
    bundles, first = [], 0.0
    async for bundle in _bundled(tokens(), 0.05):
        first = first or time.monotonic() - begun
        bundles.append(bundle)
    assert [token for bundle in bundles for token in bundle] == list(range(10))
    assert bundles[0] == [0]
    assert first < 0.05
    assert len(bundles) <= 5


async def test_an_error_comes_after_what_was_drawn_before_it() -> None:
    async def tokens() -> AsyncIterator[int]:
        yield 1
        raise MachineError("The engine broke.")

    got = []
    try:
        async for bundle in _bundled(tokens(), 0.0):
            got += bundle
    except MachineError:
        got.append(0)
    assert got == [1, 0]


async def test_leaving_a_stream_ends_the_request() -> None:
    ended = asyncio.Event()

    async def tokens() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            ended.set()

    bundles = _bundled(tokens(), 0.0)
    await anext(bundles)
    await bundles.aclose()
    assert ended.is_set()


# ------------------------------------------------------------------------------------------------------------- joining
@pytest.mark.parametrize("address", ["", "somewhere", "host:", ":6379", "host:port", "host:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")
    with pytest.raises(SettingsError, match=f"cluster is '{address}'"):
        join(address, patience=0.1)


def test_a_cluster_that_does_not_answer_is_tried_for_a_while_and_named() -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")
    begun = time.monotonic()
    with pytest.raises(MachineError, match=r"No Ray cluster answers at 127\.0\.0\.1:1 \(1 seconds tried\)"):
        join("127.0.0.1:1", patience=1.0)
    assert 0.9 < time.monotonic() - begun < 20


@pytest.mark.parametrize("kind", ["says something else", "says nothing"])
def test_a_port_that_is_no_ray_is_named(kind: str) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")
    server = Pretender({})
    begun = time.monotonic()
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            listening = silent if kind == "says nothing" else server.socket
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            with pytest.raises(MachineError, match=rf"No Ray cluster answers at {address} \(1 seconds.*is no Ray\."):
                join(address, patience=1.0)
    finally:
        server.shutdown()
        server.server_close()
    assert time.monotonic() - begun < 20


def test_without_ray_a_cluster_is_refused_with_what_to_install(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.serve", None)
    with pytest.raises(SettingsError, match=r"Ray is not installed. pip install 'plural\[ray\]'"):
        Network.open(**home.settings(cluster="auto"))

"""One server for the tests that change nothing, and OpenAI's client for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serve.tiny import Running, served, tiny_network


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    network = tiny_network(tmp_path_factory.mktemp("home"))
    with served(network) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client

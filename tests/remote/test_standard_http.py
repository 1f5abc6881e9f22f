"""LangChain's standard tests on ChatPlural over HTTP: the suites of tests/engine/test_standard.py, with the engine
behind a `plural serve`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tests.engine.test_standard as here
from plural.wiring.network import Network
from tests.serve.tiny import served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parameters(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("http")
    with (
        Network.open(library=home / "library") as network,
        served(network) as running,
        Network.open(library=home / "library", engine=f"vllm:{running.url}") as away,
    ):
        card = away.library.get("toolcall").card
        model = away.specialist("toolcall")
        yield {
            "engine": away.engine,
            "base": away.base_model,
            "model_name": card.name,
            "adapter": model.adapter,
            "instructions": card.instructions,
        }


class TestUnit(here.TestUnit):
    pass


class TestIntegration(here.TestIntegration):
    pass

"""Other people's agents against a server on the real base, each from an environment of its own.

`PLURAL_CLIENTS` is a Python that has autogen-agentchat, autogen-ext[openai], langgraph and langchain-openai; they
cannot live in ours, since they ask for other versions of what we stand on.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plural.wiring.network import Network
from tests.serve.tiny import served

CLIENTS = Path(__file__).parent / "clients"
PYTHON = os.environ.get("PLURAL_CLIENTS", "")

pytestmark = pytest.mark.skipif(not PYTHON, reason="PLURAL_CLIENTS names no Python that has the clients")


@pytest.fixture(scope="module")
def url(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Network.open(library=tmp_path_factory.mktemp("library")) as network:
        with served(network) as running:
            yield f"{running.url}/v1"
        network.engine.check()


async def told(script: str, url: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        str(CLIENTS / script),
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    found: list[dict[str, Any]] = json.loads(out.splitlines()[-1])
    return found


async def test_an_autogen_team(url: str) -> None:
    messages = await told("autogen_team.py", url)
    assert [(one["source"], one["type"]) for one in messages] == [
        ("user", "TextMessage"),
        ("counter", "ToolCallRequestEvent"),
        ("counter", "ToolCallExecutionEvent"),
        ("counter", "ToolCallSummaryMessage"),
        ("writer", "TextMessage"),
    ]


async def test_a_langgraph_agent(url: str) -> None:
    messages = await told("langgraph_agent.py", url)
    assert [one["type"] for one in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2]["content"] == "48"
    assert "48" in messages[3]["content"]

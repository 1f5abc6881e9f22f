"""Other people's agents against a server on the real base, from an environment of their own: they cannot live in ours,
since they ask for other versions of what we stand on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plural.wiring.network import Network
from tests.serve.peers import environment
from tests.serve.tiny import served

CLIENTS = Path(__file__).parent / "clients"
PACKAGES = (
    "autogen-agentchat==0.7.5",
    "autogen-ext[openai]==0.7.5",
    "langgraph==1.2.24",
    "langchain-openai==1.7.4",
)
MICROSOFT = ("agent-framework-core==1.23.0", "agent-framework-openai==1.17.0")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> str:
    return environment("clients", *PACKAGES)


@pytest.fixture(scope="module")
def url(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Network.open(library=tmp_path_factory.mktemp("library")) as network:
        with served(network) as running:
            yield f"{running.url}/v1"
        network.engine.check()


async def told(python: str, script: str, url: str) -> Any:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        python,
        str(CLIENTS / script),
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return json.loads(out.splitlines()[-1])


async def test_an_autogen_team(python: str, url: str) -> None:
    messages = await told(python, "autogen_team.py", url)
    assert [(one["source"], one["type"]) for one in messages] == [
        ("user", "TextMessage"),
        ("counter", "ToolCallRequestEvent"),
        ("counter", "ToolCallExecutionEvent"),
        ("counter", "ToolCallSummaryMessage"),
        ("writer", "TextMessage"),
    ]


async def test_a_langgraph_agent(python: str, url: str) -> None:
    messages = await told(python, "langgraph_agent.py", url)
    assert [one["type"] for one in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2]["content"] == "48"
    assert "48" in messages[3]["content"]


async def test_microsoft_s_agents(url: str) -> None:
    found = await told(environment("agent-framework", *MICROSOFT), "agent_framework_agents.py", url)
    assert [[role, parts] for role, parts, _ in found["told"]] == [
        ["assistant", ["function_call"]],
        ["tool", ["function_result"]],
        ["assistant", ["text"]],
    ]
    assert "48" in found["told"][-1][2]
    assert found["said"] == "30 7 * * 1-5"
    assert len(found["pieces"]) > 2

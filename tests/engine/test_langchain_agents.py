"""LangChain's `create_agent` and LangGraph's `create_react_agent` with ChatPlural in their process: tools, streams, a
structured response. They have an environment of their own, in whose process our packages come after theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.serve.peers import environment

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "clients" / "langchain_agents.py"
SHARED = ("langchain-core", "pydantic")  # in the versions that we stand on
PACKAGES = ("langchain==1.4.7", "langgraph==1.2.24", *(f"{name}=={version(name)}" for name in SHARED))


@pytest.fixture(scope="module")
def found(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = environment("agents", *PACKAGES)
    ours = [str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(SCRIPT), *ours, str(tmp_path_factory.mktemp("library"))],
        capture_output=True,
        text=True,
        env=settings,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("agent", ["create_agent", "create_react_agent"])
def test_an_agent_calls_a_tool_and_says_what_came_of_it(found: dict[str, Any], agent: str) -> None:
    for how in ("invoke", "ainvoke"):
        messages = found[agent][how]
        assert [kind for kind, _ in messages] == ["human", "ai", "tool", "ai"]
        assert messages[2][1] == "48"
        assert "48" in messages[3][1]
    assert found[agent]["nodes"][1] == "tools"
    assert found[agent]["nodes"][0] == found[agent]["nodes"][2]
    pieces = found[agent]["pieces"]
    assert len(pieces) > 1
    assert "".join(pieces) == found[agent]["invoke"][3][1]


@pytest.mark.parametrize("agent", ["create_agent", "create_react_agent"])
def test_a_structured_response_keeps_to_its_schema(found: dict[str, Any], agent: str) -> None:
    assert 0 <= found[f"{agent}, structured"]["days"] <= 100

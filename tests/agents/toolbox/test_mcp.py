"""Tools of a real MCP server in a process of its own, over both transports, as an agent has them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langchain_core.tools import BaseTool

from plural.agents import Agent, tool_specs, toolbox
from plural.agents.marks import marks_of
from plural.errors import SettingsError, ToolError
from plural.testing import ScriptedModel, calling

from .calls import call

pytestmark = pytest.mark.asyncio(loop_scope="module")  # starting a server takes a second: each is started once
SERVER = str(Path(__file__).with_name("foreign_server.py"))
COMMAND = [sys.executable, SERVER]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}


@contextmanager
def over_http() -> Iterator[str]:
    with subprocess.Popen([*COMMAND, "http"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with over_http() as found:
        yield found


def over_stdio(**options: Any) -> AbstractAsyncContextManager[list[BaseTool]]:
    return toolbox.mcp_tools(**{"command": COMMAND, "env": ENVIRONMENT, **options})


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["stdio", "http"])
async def tools(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Sequence[BaseTool]]:
    connected = over_stdio() if request.param == "stdio" else toolbox.mcp_tools(url=url)
    async with connected as tools:
        yield tools


async def test_every_page_of_the_list_is_read_and_names_are_names(tools: Sequence[BaseTool]) -> None:
    names = [spec.name for spec in tool_specs(tools)]
    assert names[:4] == ["add", "echo", "shop_items_list", "wipe"]
    assert len(names) == 12
    assert tool_specs(tools)[0].parameters["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}


async def test_an_agent_calls_them(tools: Sequence[BaseTool]) -> None:
    model = ScriptedModel([calling(("add", {"a": 1, "b": 2}), ("shop_items_list", {})), "Three hammers."])
    assert await Agent("clerk", model, tools=tools).ainvoke("go") == "Three hammers."
    assert [message.content for message in model.asked[1].messages[-2:]] == ["3", "hammer"]


async def test_arguments_arrive_whatever_they_are_called(tools: Sequence[BaseTool]) -> None:
    """LangChain keeps `config` and `run_manager` for itself in the tools that it makes of functions."""
    asked = {"config": "a", "run_manager": "b", "self": "c"}
    assert await call(tools, "echo", **asked) == (repr(sorted(asked.items())), False)


async def test_results_become_text(tools: Sequence[BaseTool]) -> None:
    told, failed = await call(tools, "everything")
    assert not failed
    assert told == "two\n[image, image/png, not shown]\n[notes: file:///notes.txt]\nfrom a file"
    assert await call(tools, "structured") == ('{"a": [1, "é"]}', False)
    long, _ = await call(tools, "long")
    assert long == "x" * 16_000 + "\n... (84000 more characters were not read)"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("fail", {}, "fail() failed: ToolException: no such item: 7"),
        ("crash", {}, "crash() failed: ToolException: the MCP server failed"),
        ("add", {"a": 1, "c": 2}, "add takes no argument c=2. It takes: a, b."),
    ],
)
async def test_what_goes_wrong_is_an_observation(
    name: str, arguments: dict[str, Any], says: str, tools: Sequence[BaseTool]
) -> None:
    told, failed = await call(tools, name, **arguments)
    assert failed
    assert says in told
    assert await call(tools, "add", a=20, b=3) == ("23", False)  # the connection is as good as before


async def test_a_call_takes_no_longer_than_it_may(url: str) -> None:
    async with toolbox.mcp_tools(url=url, seconds=1, only=["slow", "add"]) as tools:
        told, failed = await call(tools, "slow")
        assert failed
        assert "the MCP server failed" in told
        assert "imed out" in told
        assert await call(tools, "add", a=1, b=1) == ("2", False)


async def test_a_server_sees_only_its_environment_and_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLURAL_TEST_SECRET", "x")
    async with over_stdio(env={**ENVIRONMENT, "GIVEN": "1"}) as tools:
        seen = (await call(tools, "environment"))[0].split()
        assert "GIVEN" in seen
        assert "PLURAL_TEST_SECRET" not in seen
        for _ in range(2):
            told, failed = await call(tools, "die")
            assert failed
            assert "the MCP server failed" in told


async def test_what_is_raised_beside_the_connection_is_not_wrapped(url: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with toolbox.mcp_tools(url=url):
            raise KeyError("mine")


async def test_other_loops_and_threads_may_call(tools: Sequence[BaseTool]) -> None:
    add = tools[0]
    assert await asyncio.to_thread(lambda: asyncio.run(add.ainvoke({"a": 1, "b": 2}))) == "3"
    assert await asyncio.to_thread(add.invoke, {"a": 2, "b": 2}) == "4"
    model = ScriptedModel([calling(("add", {"a": 1, "b": 2})), "Three."])
    assert await asyncio.to_thread(Agent("clerk", model, tools=tools).invoke, "go") == "Three."
    assert model.asked[1].messages[-1].content == "3"


async def test_marks_follow_the_hints_and_the_caller(url: str) -> None:
    async with toolbox.mcp_tools(url=url, approval=["add"]) as tools:
        marks = {each.name: marks_of(each) for each in tools}
    assert (marks["add"].idempotent, marks["add"].approval) == (True, True)
    assert (marks["wipe"].idempotent, marks["wipe"].approval) == (False, True)
    assert (marks["echo"].idempotent, marks["echo"].approval) == (False, False)
    async with toolbox.mcp_tools(url=url, approval=True, only=["echo"], prefix="far.") as tools:
        assert [(each.name, marks_of(each).approval) for each in tools] == [("far_echo", True)]
        assert (await call(tools, "far_echo", config="a", run_manager="b", self="c"))[1] is False


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, SettingsError, "command is None and url is None"),
        ({"command": COMMAND, "url": "http://127.0.0.1:1/mcp"}, SettingsError, "need one of them"),
        ({"url": "http://127.0.0.1:1/mcp", "env": {}}, SettingsError, "env belongs to command"),
        ({"command": ["/no/such/program"]}, ToolError, "'/no/such/program' could not be connected to: .*No such file"),
        ({"url": "http://127.0.0.1:1/mcp"}, ToolError, "'http://127.0.0.1:1/mcp' could not be connected to"),
        ({"command": [sys.executable, "-c", "import time; time.sleep(9)"], "seconds": 0.3}, ToolError, "within 0.3 s"),
        ({"command": [sys.executable, "-c", ""]}, ToolError, "could not be connected to"),
    ],
)  # fmt: skip
async def test_a_connection_that_cannot_be_made(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        async with toolbox.mcp_tools(**options):
            raise AssertionError("it was made")


@pytest.mark.parametrize("argument", ["only", "approval"])
async def test_tools_that_the_server_does_not_have(argument: str, url: str) -> None:
    with pytest.raises(ToolError, match=f"{argument} names 'sing', which .* does not have. It has add, crash"):
        async with toolbox.mcp_tools(url=url, **{argument: ["sing", "add"]}):  # type: ignore[arg-type]
            raise AssertionError("it was made")


async def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(SettingsError, match=r"An MCP connection needs the package 'mcp'. .*plural\[mcp\]"):
        async with toolbox.mcp_tools(command=COMMAND):
            raise AssertionError("it was made")

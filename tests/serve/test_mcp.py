"""What an MCP client, the official one, sees of our tools and agents."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, TextContent

from plural.agents import Agent, mark, tool, toolbox
from plural.serve.mcp import mcp_server, serve_http
from plural.testing import ScriptedModel


@mark(idempotent=True)
@tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


@tool
def explode(fuse: str) -> str:
    """Explode."""
    raise RuntimeError("boom")


def text(result: Any) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def shop() -> Client:
    clerk = Agent("clerk", ScriptedModel(["At once, sir."] * 9), description="Serves customers.")
    return Client(mcp_server("shop", "1.0", lambda: [add, explode, clerk]))


async def test_tools_and_agents_are_listed_with_what_they_take() -> None:
    async with shop() as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("shop", "1.0")
        listed = {each.name: each for each in (await client.list_tools()).tools}
    assert list(listed) == ["add", "explode", "clerk"]
    assert listed["clerk"].description == "Serves customers."
    assert listed["clerk"].input_schema["required"] == ["input"]
    assert listed["add"].input_schema["properties"]["b"]["default"] == 1
    assert listed["add"].annotations is not None
    assert listed["add"].annotations.idempotent_hint
    assert listed["explode"].annotations is None


async def test_calls_are_answered() -> None:
    async with shop() as client:
        assert text(await client.call_tool("add", {"a": 2})) == "3"
        assert text(await client.call_tool("clerk", {"input": "A hammer, please."})) == "At once, sir."


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("explode", {"fuse": "short"}, "explode(fuse='short') failed: RuntimeError: boom"),
        ("add", {"a": "many"}, "argument 'a' = 'many'"),
        ("add", {}, "argument 'a' is missing"),
        ("add", {"a": 1, "c": 7}, "add takes no argument c=7"),
        ("clerk", {"input": " "}, "input of agent 'clerk' is empty"),
    ],
)
async def test_what_a_tool_does_wrong_is_a_result(name: str, arguments: dict[str, Any], says: str) -> None:
    async with shop() as client:
        result = await client.call_tool(name, arguments)
    assert result.is_error
    assert says in text(result)


async def test_an_unknown_tool_is_an_error_of_the_protocol() -> None:
    async with shop() as client:
        with pytest.raises(MCPError, match=r"There is no tool 'sing'\. Tools: add, explode, clerk") as refused:
            await client.call_tool("sing", {})
    assert refused.value.code == INVALID_PARAMS


async def test_what_is_offered_may_change() -> None:
    offered: list[Any] = [add]
    async with Client(mcp_server("shop", "1", lambda: offered), cache=None) as client:
        assert len((await client.list_tools()).tools) == 1
        offered.append(explode)
        assert len((await client.list_tools()).tools) == 2


async def test_a_client_that_gives_up_stops_the_tool() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    async with Client(mcp_server("shop", "1", lambda: [wait])) as client:
        calling = asyncio.create_task(client.call_tool("wait", {}))
        await begun.wait()
        calling.cancel()
        await asyncio.wait_for(stopped.wait(), 10)


async def test_over_http_only_this_machine_is_answered() -> None:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(mcp_server("shop", "1", lambda: [add]), 0, ready=url.set_result))
    try:
        async with toolbox.mcp_tools(url=await url) as (added,):
            assert await added.ainvoke({"a": 1, "b": 2}) == "3"
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accept = {"Accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(headers=accept) as http:
            for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                refused = await http.post(url.result(), json=body, headers=header)
                assert refused.status_code in (403, 421)
    finally:
        serving.cancel()
        await asyncio.wait({serving})

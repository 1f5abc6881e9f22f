"""The tools of any MCP server as an agent's tools, over the official sdk.

The connection is held by a task of its own, so what fails beside it is not wrapped in the connection's error groups,
and its tools may be called from any event loop and any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool, ToolException
from pydantic import PrivateAttr

from plural import sync
from plural.agents.marks import mark
from plural.agents.toolbox.extras import missing
from plural.errors import SettingsError, ToolError

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
_SEND = 30.0  # seconds to connect, and to send a request
_MOST_PAGES = 100  # of a list of tools
_GRACE = 2.0  # seconds that a call from another loop waits longer than the call itself may take


class McpTool(BaseTool):
    """A tool of a server that is connected. What goes wrong there, or on the way, is a `ToolException`."""

    remote: str  # what the server calls it
    seconds: float
    max_characters: int
    _client: Any = PrivateAttr()
    _home: asyncio.AbstractEventLoop = PrivateAttr()

    # LangChain looks at these signatures: with a parameter called config or run_manager, a tool's own argument of that
    # name would be lost.
    async def _arun(self, /, **arguments: Any) -> str:
        if asyncio.get_running_loop() is self._home:
            return await self._call(arguments)
        sent = asyncio.run_coroutine_threadsafe(self._call(arguments), self._home)
        try:
            async with asyncio.timeout(self.seconds + _GRACE):
                return await asyncio.wrap_future(sent)
        except TimeoutError as error:
            hint = "its event loop is blocked; await the agent there instead of calling it"
            raise ToolException(f"the MCP server was not reached within {self.seconds:g} s: {hint}") from error

    def _run(self, /, **arguments: Any) -> str:
        return sync.run(self._arun(**arguments))

    async def _call(self, arguments: dict[str, Any]) -> str:
        try:
            result = await self._client.call_tool(self.remote, arguments, read_timeout_seconds=self.seconds)
        except Exception as error:
            raise ToolException(f"the MCP server failed: {_reason(error)}") from error
        text = _told(result)
        if len(text) > self.max_characters:
            left = len(text) - self.max_characters
            text = f"{text[: self.max_characters]}\n... ({left} more characters were not read)"
        if result.is_error:
            raise ToolException(text or "the MCP server gave no reason")
        return text


@contextlib.asynccontextmanager
async def mcp_tools(
    *,
    command: Sequence[str] | None = None,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    prefix: str = "",
    only: Collection[str] | None = None,
    approval: bool | Collection[str] = False,
    seconds: float = 30.0,
    max_characters: int = 16_000,
) -> AsyncIterator[list[BaseTool]]:
    """The tools of one MCP server, for as long as the context is open.

    What the server says of its tools becomes part of the prompt: connect to servers whose words you would put there
    yourself. A tool that calls itself destructive is marked for approval, whatever `approval` says.

    Args:
        command: the program and its arguments that speak MCP over stdin and stdout. It sees none of the environment but
            HOME, PATH and the like, and `env`.
        url: or where a server speaks streamable HTTP, http://127.0.0.1:8000/mcp.
        env: variables for the program.
        headers: sent with every request to `url`, such as Authorization.
        prefix: put before every name, where tools of several servers would be called the same.
        only: the server's names of the tools that are wanted. Default: all.
        approval: which tools a person must agree to: all, none, or those with these names.
        seconds: for the connection, and for one call.
        max_characters: of a result that are read.

    Raises:
        SettingsError: both or none of `command` and `url`, or what belongs to the other of them.
        ToolError: the server cannot be reached, or lacks a tool that `only` or `approval` names.
    """
    if (command is None) == (url is None):
        raise SettingsError(f"command is {command!r} and url is {url!r}; MCP tools need one of them.")
    if (env is not None and command is None) or (headers is not None and url is None):
        raise SettingsError("env belongs to command, and headers to url.")
    where = url if url is not None else " ".join(command or ())
    connect = _transport(command, url, env, headers)
    async with _held(connect, where, seconds) as client:
        try:
            async with asyncio.timeout(seconds):
                listed = await _listed(client)
        except Exception as error:
            raise ToolError(f"The MCP server {where!r} does not list its tools: {_reason(error)}.") from error
        names = {each.name for each in listed}
        for argument, wanted in (("only", only), ("approval", approval if not isinstance(approval, bool) else ())):
            if unknown := sorted(set(wanted or ()) - names):
                known = ", ".join(sorted(names))
                raise ToolError(
                    f"{argument} names {unknown[0]!r}, which {where!r} does not have.", hint=f"It has {known}."
                )
        asked = names if approval is True else set(approval or ())
        kept = [each for each in listed if only is None or each.name in only]
        yield [_as_tool(each, client, prefix, each.name in asked, seconds, max_characters) for each in kept]


def _transport(
    command: Sequence[str] | None, url: str | None, env: Mapping[str, str] | None, headers: Mapping[str, str] | None
) -> Callable[[], AbstractAsyncContextManager[Client]]:
    try:
        import httpx2
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client
    except ModuleNotFoundError as error:
        raise missing("mcp", "mcp", "An MCP connection") from error

    @contextlib.asynccontextmanager
    async def over_http() -> AsyncIterator[Client]:
        timeout = httpx2.Timeout(_SEND, read=None)  # how long an answer may take, each call says
        async with (
            httpx2.AsyncClient(headers=dict(headers or {}), timeout=timeout) as http,
            Client(streamable_http_client(str(url), http_client=http)) as client,
        ):
            yield client

    @contextlib.asynccontextmanager
    async def over_stdio() -> AsyncIterator[Client]:
        program, *arguments = command or ("",)
        server = StdioServerParameters(command=program, args=arguments, env=dict(env or {}))
        # The process's own stderr: what a notebook or a test has put in its place is no file that a program could have.
        with contextlib.nullcontext(sys.__stderr__) if sys.__stderr__ else open(os.devnull, "w") as log:
            async with Client(stdio_client(server, errlog=log)) as client:
                yield client

    return over_stdio if url is None else over_http


@contextlib.asynccontextmanager
async def _held(
    connect: Callable[[], AbstractAsyncContextManager[Client]], where: str, seconds: float
) -> AsyncIterator[Client]:
    """The connected client. Connecting and parting happen in one task, as its task groups demand."""
    opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    closing = asyncio.Event()

    async def hold() -> None:
        async with connect() as client:
            opened.set_result(client)
            await closing.wait()

    holder = asyncio.create_task(hold())
    try:
        either: list[asyncio.Future[Any]] = [holder, opened]
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            why = _reason(holder.exception()) if holder.done() else f"no answer within {seconds:g} s"
            raise ToolError(f"The MCP server {where!r} could not be connected to: {why}.")
        yield opened.result()
    finally:
        closing.set()
        if not opened.done():
            holder.cancel()
        await asyncio.wait({holder})
        if not holder.cancelled():
            holder.exception()  # looked at, so that asyncio does not report it: how a server goes is of no interest


async def _listed(client: Client) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ToolError(f"its list has more than {_MOST_PAGES} pages")


def _as_tool(
    described: Tool, client: Client, prefix: str, approval: bool, seconds: float, max_characters: int
) -> BaseTool:
    hints = described.annotations
    made = McpTool(
        name=_NOT_IN_A_NAME.sub("_", prefix + described.name)[:_LONGEST_NAME],
        description=described.description or described.title or described.name,
        args_schema=described.input_schema,
        remote=described.name,
        seconds=seconds,
        max_characters=max_characters,
    )
    made._client, made._home = client, asyncio.get_running_loop()
    return mark(
        made,
        approval=approval or bool(hints and hints.destructive_hint),
        idempotent=bool(hints and (hints.read_only_hint or hints.idempotent_hint)),
    )


def _told(result: CallToolResult) -> str:
    """The text of a result. What is no text is named, not shown."""
    said = [_block(block) for block in result.content]
    if not said and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(said)


def _block(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.type}, {block.mime_type}, not shown]"
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
        case "resource":
            return str(getattr(block.resource, "text", None) or f"[{block.resource.uri}, not shown]")
    return f"[{block.type}, not shown]"


def _reason(error: BaseException | None) -> str:
    """Of an error group, what its first error says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__

"""Tools and agents as an MCP server, over stdin and stdout or streamable HTTP, by the official sdk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool

from plural.agents.marks import marks_of
from plural.agents.toolbox.extras import missing
from plural.agents.tools import as_tools, call_tool, tool_specs
from plural.types import ToolCall

if TYPE_CHECKING:
    from mcp.server import Server

LOOPBACK = "127.0.0.1"


def mcp_server(name: str, version: str, tools: Callable[[], Sequence[Any]], *, instructions: str = "") -> Server[Any]:
    """A server of what `tools` returns: functions, LangChain tools or agents. It is asked anew for every list and call,
    so what it returns may change while the server runs.

    What a tool does wrong is a result that says so, for the model on the other side to read; only an unknown tool is an
    error of the protocol. A client that cancels a call, or goes away, cancels the tool.
    """
    try:
        from mcp import MCPError, types
        from mcp.server import Server
    except ModuleNotFoundError as error:
        raise missing("mcp", "mcp", "An MCP server") from error

    def by_name() -> dict[str, BaseTool]:
        return {each.name: each for each in as_tools(tools())}

    async def listed(_context: Any, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        offered = by_name()
        described = zip(offered.values(), tool_specs(list(offered.values())), strict=True)
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=spec.name,
                    description=spec.description,
                    # A tool that is described by JSON Schema keeps it to the letter: it may be another server's.
                    input_schema=each.args_schema if isinstance(each.args_schema, dict) else dict(spec.parameters),
                    annotations=types.ToolAnnotations(idempotent_hint=True) if marks_of(each).idempotent else None,
                )
                for each, spec in described
            ]
        )

    async def called(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        offered = by_name()
        if params.name not in offered:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name!r}. Tools: {', '.join(offered)}.")
        told, failed = await call_tool(offered, ToolCall("mcp", params.name, params.arguments or {}))
        return types.CallToolResult(content=[types.TextContent(type="text", text=told)], is_error=failed)

    return Server(name, version=version, instructions=instructions or None, on_list_tools=listed, on_call_tool=called)


async def serve_stdio(server: Server[Any]) -> None:
    """Until the client closes our standard input."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def serve_http(server: Server[Any], port: int, *, ready: Callable[[str], None] | None = None) -> None:
    """At http://127.0.0.1:PORT/mcp until cancelled; a port of 0 is any free one. `ready` is told the URL.

    Nobody is asked who they are, so only this machine is listened to. Requests that name another host, as a web page
    makes them whose name was pointed here, are refused.
    """
    import uvicorn

    app = server.streamable_http_app(host=LOOPBACK)
    serving = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=port, log_level="warning", lifespan="on"))
    with contextlib.closing(serving.config.bind_socket()) as socket:
        socket.listen()  # so that who is told the URL is not refused before the first request is looked at
        if ready is not None:
            ready(f"http://{LOOPBACK}:{socket.getsockname()[1]}/mcp")
        await serving.serve(sockets=[socket])

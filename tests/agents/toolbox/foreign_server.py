"""An MCP server that is not ours, made with the sdk alone, with all that tools of others do.

python foreign_server.py          over stdin and stdout
python foreign_server.py http     over streamable HTTP; the first line that it prints is its URL
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

READ_ONLY = ToolAnnotations(read_only_hint=True)
DESTRUCTIVE = ToolAnnotations(destructive_hint=True)


def described(name: str, hints: ToolAnnotations | None = None, **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Tool(name=name, description=f"Does {name}.", input_schema=schema, annotations=hints)


PAGES = {
    None: (
        described("add", READ_ONLY, a={"type": "integer"}, b={"type": "integer"}),
        described("echo", config={"type": "string"}, run_manager={"type": "string"}, self={"type": "string"}),
        described("shop/items.list"),
    ),
    "second": (
        described("wipe", DESTRUCTIVE),
        described("everything"),
        described("structured"),
        described("long"),
        described("fail"),
        described("crash"),
        described("slow"),
        described("die"),
        described("environment"),
    ),
}


async def listed(_: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
    cursor = params.cursor if params else None
    return ListToolsResult(tools=list(PAGES[cursor]), next_cursor="second" if cursor is None else None)


def text(said: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=said)])


async def called(_: Any, params: CallToolRequestParams) -> CallToolResult:
    given = params.arguments or {}
    match params.name:
        case "add":
            return text(str(given["a"] + given["b"]))
        case "echo":
            return text(repr(sorted(given.items())))
        case "shop/items.list":
            return text("hammer")
        case "everything":
            page = TextResourceContents(uri="file:///notes.txt", text="from a file")
            return CallToolResult(
                content=[
                    TextContent(type="text", text="two"),
                    ImageContent(type="image", data="aGk=", mime_type="image/png"),
                    ResourceLink(type="resource_link", name="notes", uri="file:///notes.txt"),
                    EmbeddedResource(type="resource", resource=page),
                ]
            )
        case "structured":
            return CallToolResult(content=[], structured_content={"a": [1, "é"]})
        case "long":
            return text("x" * 100_000)
        case "fail":
            return CallToolResult(content=[TextContent(type="text", text="no such item: 7")], is_error=True)
        case "crash":
            raise RuntimeError("a bug in the server")
        case "slow":
            await asyncio.sleep(60)
        case "die":
            os._exit(3)
        case "environment":
            return text(" ".join(sorted(os.environ)))
    return text("done")


async def main() -> None:
    server = Server("foreign", version="1", on_list_tools=listed, on_call_tool=called)
    if sys.argv[1:] == ["http"]:
        from plural.serve.mcp import serve_http

        await serve_http(server, 0, ready=lambda url: print(url, flush=True))
        return
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())

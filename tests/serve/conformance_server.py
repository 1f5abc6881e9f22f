"""Our server with the tools that the MCP conformance suite asks for. The first line that it prints is its URL."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.tools import StructuredTool

from plural.agents import tool
from plural.serve.mcp import mcp_server, serve_http


@tool
def test_simple_text() -> str:
    """Return a fixed text."""
    return "This is a simple text response for testing."


@tool
def test_error_handling() -> str:
    """Fail."""
    raise RuntimeError("This tool intentionally returns an error for testing")


async def greet(**person: Any) -> str:
    return f"Hello, {person}"


json_schema_2020_12_tool = StructuredTool.from_function(
    coroutine=greet,
    name="json_schema_2020_12_tool",
    description="Tool with JSON Schema 2020-12 features",
    args_schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
        },
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
)
TOOLS = (test_simple_text, test_error_handling, json_schema_2020_12_tool)

if __name__ == "__main__":
    server = mcp_server("plural", "0", lambda: TOOLS)
    asyncio.run(serve_http(server, 0, ready=lambda url: print(url, flush=True)))

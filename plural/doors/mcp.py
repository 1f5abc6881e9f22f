"""Offer the network to other programs' agents."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from plural.doors.terminal import BaseOption, DtypeOption, EngineOption, LibraryOption, MemoryOption, err, open_network


def mcp(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Speak streamable HTTP on this machine's PORT; 0: any. Default: stdio."),
    ] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
) -> None:
    """Serve the network and its specialists as tools over MCP, for other programs' agents."""
    from plural import __version__
    from plural.serve.mcp import mcp_server, serve_http, serve_stdio
    from plural.wiring.offers import offered

    with open_network(base, library, memory=memory, dtype=dtype, engine=engine) as network:
        server = mcp_server("plural", __version__, lambda: offered(network))
        if port is None:
            asyncio.run(serve_stdio(server))
        else:
            asyncio.run(serve_http(server, port, ready=lambda url: err.print(f"MCP at {url}. Ctrl-C ends it.")))

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
    offer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="An agent, a team or a tool of yours, served as well; or a function that makes them of the network.",
        ),
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
    from plural.wiring.offers import offered, read_offers

    with open_network(base, library, memory=memory, dtype=dtype, engine=engine) as network:
        offers = read_offers(network, offer or ())
        offered(network, offers)  # what cannot be a tool is said now, not to a client
        server = mcp_server("plural", __version__, lambda: offered(network, offers))
        if port is None:
            asyncio.run(serve_stdio(server))
        else:
            asyncio.run(serve_http(server, port, ready=lambda url: err.print(f"MCP at {url}. Ctrl-C ends it.")))

"""What the MCP conformance suite runs as a client, with its server's URL: connect, and call every tool there is."""

from __future__ import annotations

import asyncio
import sys

from plural.agents import toolbox


async def main() -> None:
    async with toolbox.mcp_tools(url=sys.argv[-1]) as tools:
        for each in tools:
            print(each.name, await each.ainvoke({name: 1 for name in each.args}))


if __name__ == "__main__":
    asyncio.run(main())

"""What a network offers to other programs: itself and its specialists, as tools."""

from __future__ import annotations

from langchain_core.tools import BaseTool

from plural.agents.tools import as_tools, tool
from plural.wiring.network import Network


def offered(network: Network) -> tuple[BaseTool, ...]:
    """`ask_network`, and every specialist of the network's base as the library stands now."""

    @tool
    async def ask_network(request: str) -> str:
        """Ask the whole network: it picks the specialists who answer, makes a plan if several are needed, calls tools.

        Args:
            request: What is wanted, in plain words
        """
        return await network.aask(request)

    return as_tools([ask_network, *(network.agent(name) for name in network.names())])

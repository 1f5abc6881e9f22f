"""What is offered to other programs: the network and its specialists as tools, and what its owner adds."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from plural.agents import Agent
from plural.agents.marks import marks_of
from plural.agents.tools import as_tools, tool
from plural.errors import SettingsError
from plural.specialists.card import NAME_PATTERN
from plural.teams import Team
from plural.wiring.network import Network


@dataclass(frozen=True)
class Offers:
    """Agents and teams that are asked by their names, and tools that teams and cards may name."""

    workers: Mapping[str, Agent | Team] = field(default_factory=dict)
    tools: Mapping[str, BaseTool] = field(default_factory=dict)


NOTHING = Offers()


def offered(network: Network, offers: Offers = NOTHING) -> tuple[BaseTool, ...]:
    """`ask_network`, every specialist of the network's base as the library stands now, and what `offers` adds.

    Raises:
        SettingsError: something that may have to wait for a person, who cannot be asked by a tool.
    """

    @tool
    async def ask_network(request: str) -> str:
        """Ask the whole network: it picks the specialists who answer, makes a plan if several are needed, calls tools.

        Args:
            request: What is wanted, in plain words
        """
        return await network.aask(request)

    for each in offers.tools.values():
        if marks_of(each).approval:
            raise SettingsError(f"The tool {each.name!r} waits for approval, and nobody can be asked over MCP.")
    own = (*offers.workers.values(), *offers.tools.values())
    return as_tools([ask_network, *(network.agent(name) for name in network.names()), *own])


def read_offers(network: Network, names: Sequence[str]) -> Offers:
    """What the owner of the machine names as MODULE:NAME: an agent, a team, a LangChain tool, a sequence of them, or a
    function that makes any of these of the network. Their modules are imported.

    Raises:
        SettingsError: there is nothing of that name, it is none of these, or its own name cannot be a model id.
    """
    workers: dict[str, Agent | Team] = {}
    tools: dict[str, BaseTool] = {}
    for name in names:
        for one in _members(network, name):
            kind: dict[str, Any] = tools if isinstance(one, BaseTool) else workers
            if one.name in kind:
                raise SettingsError(f"Two things that are offered are called {one.name!r}.", hint="Rename one.")
            kind[one.name] = one
    taken = {"network", "base", *network.names()}
    for name in workers:
        if not _NAME.fullmatch(name) or name in taken:
            raise SettingsError(
                f"{name!r} cannot be a model id.", hint="Letters, digits, - and _, and no specialist's name."
            )
    return Offers(workers, tools)


_NAME = re.compile(NAME_PATTERN)


def _members(network: Network, name: str) -> Sequence[Any]:
    module, _, attribute = name.partition(":")
    hint = "Give MODULE:NAME of an agent, a team or a tool."
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{name!r} cannot be offered: {error}.", hint=hint) from error
    if callable(found) and not isinstance(found, Runnable):
        found = found(network)
    members = found if isinstance(found, Sequence) else [found]
    for one in members:
        if not isinstance(one, Agent | Team | BaseTool):
            raise SettingsError(f"{name!r} offers {one!r:.80}, which is no agent, team or tool.", hint=hint)
    return members

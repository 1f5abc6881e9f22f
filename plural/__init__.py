"""Plural: one frozen base model, a network of LoRA specialists, trained, served and put to work in one process.

    from plural import Network, Agent, tool
    net = Network.open()
    print(net.ask("Turn off the kitchen lights"))

Names are loaded when they are first used: `import plural` costs nothing and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plural.agents import Agent, decide, tool
    from plural.errors import PluralError
    from plural.types import Decision, Event, Grammar, Message, Sampling, ToolSpec
    from plural.wiring.network import Answer, Conversation, Network

__version__ = "0.1.0"

_HOMES = {
    "Agent": "plural.agents",
    "Answer": "plural.wiring.network",
    "Conversation": "plural.wiring.network",
    "Decision": "plural.types",
    "Event": "plural.types",
    "Grammar": "plural.types",
    "Message": "plural.types",
    "Network": "plural.wiring.network",
    "PluralError": "plural.errors",
    "Sampling": "plural.types",
    "ToolSpec": "plural.types",
    "decide": "plural.agents",
    "tool": "plural.agents",
}

__all__ = [
    "Agent",
    "Answer",
    "Conversation",
    "Decision",
    "Event",
    "Grammar",
    "Message",
    "Network",
    "PluralError",
    "Sampling",
    "ToolSpec",
    "decide",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"plural has no name {name!r}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

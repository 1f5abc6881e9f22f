"""Tools are called as an agent's loop calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.tools import BaseTool

from plural.agents.tools import call_tool
from plural.types import ToolCall


async def call(tools: Sequence[BaseTool], name: str, /, **arguments: Any) -> tuple[str, bool]:
    """What the model is told, and whether the call failed."""
    return await call_tool({each.name: each for each in tools}, ToolCall("1", name, arguments))

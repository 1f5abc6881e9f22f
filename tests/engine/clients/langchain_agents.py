"""LangChain's and LangGraph's own agents around ChatPlural, in one process. Prints JSON.

argv: folders to import from beside this Python's own packages (our repository and ours), then the library's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

sys.path += sys.argv[1:-1]

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel, Field

from plural import Network

ASKED: Any = {"messages": [("user", "How many days are there between 2026-01-01 and 2026-02-18?")]}


@tool
def days_between(start: str, end: str) -> str:
    """Days from one date (YYYY-MM-DD) to another."""
    return "48"


class Days(BaseModel):
    """A number of days."""

    days: int = Field(ge=0, le=100)


def told(state: Any) -> list[Any]:
    return [[one.type, one.text] for one in state["messages"]]


def streamed(agent: Any) -> dict[str, Any]:
    """The nodes in their order, and the model's last words token by token."""
    nodes = [next(iter(each)) for each in agent.stream(ASKED, stream_mode="updates")]
    pieces: dict[str, list[str]] = {}
    for piece, _ in agent.stream(ASKED, stream_mode="messages"):
        if isinstance(piece, AIMessageChunk):
            pieces.setdefault(piece.id or "", []).append(piece.text)
    return {"nodes": nodes, "pieces": list(pieces.values())[-1]}


def main() -> None:
    found: dict[str, Any] = {}
    with Network.open(library=sys.argv[-1]) as net:
        model = net.specialist("toolcall")
        agents = {
            "create_agent": create_agent(model, [days_between]),
            "create_react_agent": create_react_agent(model, [days_between]),
        }
        for name, agent in agents.items():
            found[name] = {
                "invoke": told(agent.invoke(ASKED)),
                "ainvoke": told(asyncio.run(agent.ainvoke(ASKED))),
                **streamed(agent),
            }
        found["create_agent, structured"] = (
            create_agent(model, [], response_format=Days).invoke(ASKED)["structured_response"].model_dump()
        )
        structured = create_react_agent(model, [days_between], response_format=Days).invoke(ASKED)
        found["create_react_agent, structured"] = structured["structured_response"].model_dump()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

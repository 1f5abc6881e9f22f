"""A LangGraph agent against the server in argv[1]: it calls a tool and answers. Prints JSON."""

from __future__ import annotations

import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent


@tool
def days_between(start: str, end: str) -> str:
    """Days from one date (YYYY-MM-DD) to another."""
    return "48"


def main(url: str) -> None:
    model = ChatOpenAI(model="toolcall", base_url=url, api_key="none", max_tokens=64)
    agent = create_react_agent(model, [days_between])
    asked = {"messages": [("user", "How many days are there between 2026-01-01 and 2026-02-18?")]}
    result = agent.invoke(asked)
    print(json.dumps([{"type": one.type, "content": one.content} for one in result["messages"]]))


if __name__ == "__main__":
    main(sys.argv[1])

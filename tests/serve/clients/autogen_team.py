"""An AutoGen team of two against the server in argv[1]: one calls a tool, the other speaks after it. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


def client(url: str, model: str) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model=model, base_url=url, api_key="none", model_info=INFO, max_tokens=64)


async def days_between(start: str, end: str) -> str:
    """Days from one date to another.

    Args:
        start: YYYY-MM-DD.
        end: YYYY-MM-DD.
    """
    return "48"


async def main(url: str) -> None:
    counter = AssistantAgent(
        "counter", model_client=client(url, "toolcall"), tools=[days_between], model_client_stream=True
    )
    writer = AssistantAgent("writer", model_client=client(url, "base"))
    team = RoundRobinGroupChat([counter, writer], termination_condition=MaxMessageTermination(3))
    result = await team.run(task="How many days are there between 2026-01-01 and 2026-02-18?")
    print(json.dumps([{"type": type(one).__name__, "source": one.source} for one in result.messages]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

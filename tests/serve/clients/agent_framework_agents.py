"""Microsoft Agent Framework against the server in argv[1]: an agent that calls a tool, and one that streams by the
Responses API. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient


def days_between(start: str, end: str) -> str:
    """Days from one date (YYYY-MM-DD) to another."""
    return "48"


async def main(url: str) -> None:
    calling = OpenAIChatCompletionClient(model="toolcall", base_url=url, api_key="none")
    counter = Agent(client=calling, tools=[days_between], default_options={"max_tokens": 64})
    result = await counter.run("How many days are there between 2026-01-01 and 2026-02-18?")
    told = [[one.role, [part.type for part in one.contents], one.text] for one in result.messages]
    speaker = Agent(client=OpenAIChatClient(model="cron", base_url=url, api_key="none"))
    stream = speaker.run("every weekday at 7:30 in the morning", stream=True)
    pieces = [part.text async for part in stream]
    print(json.dumps({"told": told, "pieces": pieces, "said": (await stream.get_final_response()).text}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""What the agent's loop adds to a step: our own code, beside the same model calls and tool calls made by hand.

    python benchmarks/loop.py                      1, 4 and 16 agents at once, with and without memories and a budget
    python benchmarks/loop.py --steps 50 --rounds 5

A step is one model call and one tool call. The model is scripted and the tool adds two numbers, so that next to nothing
but LangChain and the loop is timed; by hand means `astream` and `ainvoke` in a plain `for`, with the same config. Kinds
take turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from plural.agents import Agent, Budget, Middleware, mark, tool
from plural.testing import ScriptedModel, calling

GOAL = 2.0  # ms a step


@mark(timeout=60.0, idempotent=True, cost=0.001)
@tool
async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def model(steps: int) -> ScriptedModel:
    calls = [calling(("add", {"a": step, "b": 1}), text="I add one.") for step in range(steps)]
    return ScriptedModel([*calls, "Done."])


async def by_hand(steps: int) -> None:
    bound = model(steps).bind_tools([add])
    messages: list[Any] = [HumanMessage("Count.")]
    config: RunnableConfig = {"tags": ["bench"]}
    while True:
        chunks = [chunk async for chunk in bound.astream(messages, config)]
        said = chunks[0]
        assert isinstance(said, AIMessageChunk)
        said = said + [chunk for chunk in chunks[1:] if isinstance(chunk, AIMessageChunk)]
        messages.append(said)
        if not said.tool_calls:
            return
        for call in said.tool_calls:
            result = await add.ainvoke({**call, "type": "tool_call"}, config)
            assert isinstance(result, ToolMessage)
            messages.append(result)


async def by_loop(steps: int, middleware: tuple[Middleware, ...] = ()) -> None:
    budget = Budget(steps=steps + 1, tokens=10**9, seconds=3600, money=10**6)
    agent = Agent("clerk", model(steps), tools=[add], budget=budget, middleware=middleware)
    async for _ in agent.events("Count.", {"tags": ["bench"]}):
        pass


async def timed(work: Callable[[int], Awaitable[None]], steps: int, at_once: int) -> float:
    """Milliseconds a step, of all that run at once together."""
    start = time.perf_counter()
    await asyncio.gather(*(work(steps) for _ in range(at_once)))
    return (time.perf_counter() - start) * 1e3 / (steps * at_once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()

    async def with_middleware(steps: int) -> None:
        await by_loop(steps, (Middleware(), Middleware()))

    kinds = {"by hand": by_hand, "loop": by_loop, "loop, two middlewares": with_middleware}
    found: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
    for at_once in given.at_once:
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(given.rounds):
            for kind, work in kinds.items():
                taken[kind].append(asyncio.run(timed(work, given.steps, at_once)))
        for kind, times in taken.items():
            found[kind][at_once] = statistics.median(times)
    print("ms a step, median of rounds")
    print(f"{'at once':<24}" + "".join(f"{at_once:>8}" for at_once in given.at_once))
    for kind, times_at in found.items():
        print(f"{kind:<24}" + "".join(f"{each:8.2f}" for each in times_at.values()))
    own = {at_once: found["loop"][at_once] - found["by hand"][at_once] for at_once in given.at_once}
    print(f"{'our own code':<24}" + "".join(f"{each:8.2f}" for each in own.values()) + f"   (goal: under {GOAL:g})")
    print(json.dumps({"benchmark": "loop", "ms_a_step": found, "own_ms_a_step": own, "goal_ms": GOAL}))


if __name__ == "__main__":
    main()

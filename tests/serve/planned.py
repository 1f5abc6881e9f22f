"""The tiny network with a planner. What it plans is written down, and so is what clerk says; the others are real."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from plural.agents import Agent, tool
from plural.teams import Planner, Router
from plural.testing import calling
from plural.types import Score
from plural.wiring.network import Network
from tests.serve.desk import scripted
from tests.serve.tiny import stage_specialist, tiny_network

LABELS = ["base", "clerk", "judge", "planner"]
TASKS = ["clerk counts the days", "judge whether #1 is fair", "base, what of #2?"]
SCORES = {
    kind: [Score("exact", value, 40, low=value - 0.1, high=value + 0.1)]
    for kind, value in (("base", 0.2), ("specialist", 0.8))
}


class LabelEmbedder:
    """A text lies where the first label in it lies; a text without one lies with the base."""

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return [_axis(next((label for label in LABELS if label in text), "base")) for text in texts]


def _axis(label: str) -> list[float]:
    return [float(label == each) for each in LABELS]


def planned_network(home: Path, counted: threading.Event, **settings: Any) -> Network:
    """Who asks for the planner gets a plan. clerk, of whom there are two versions, has counted once that is set."""
    network = tiny_network(home, **settings)
    for name, card in (("planner", {"kind": "planner"}), ("clerk", {"scores": SCORES})):
        made = stage_specialist(home / f"planned-{name}", network.base_model, seed=31, name=name, **card)
        network.library.publish(made, name=name, replace=True)
    router = Router.fit({label: [_axis(label)] * 4 for label in LABELS})
    plan = json.dumps({"steps": [{"task": task} for task in TASKS]})

    @tool
    async def days(start: str, end: str) -> str:
        """Days from one date to another."""
        await asyncio.to_thread(counted.wait, 60)
        return "59"

    def words(messages: Sequence[BaseMessage]) -> str | AIMessage:
        results = [message.text for message in messages if message.type == "tool"]
        return f"{results[-1]} days" if results else calling(("days", {"start": "2026-01-01", "end": "2026-03-01"}))

    async def routed() -> Router:
        return router

    clerk, real = Agent("clerk", scripted(words), tools=[days]), network.agent
    vars(network).update(
        reader=LabelEmbedder(),
        router=routed,
        planners=lambda: [Planner(scripted(lambda _: plan))],
        agent=lambda name: clerk if name == "clerk" else real(name),
    )
    return network

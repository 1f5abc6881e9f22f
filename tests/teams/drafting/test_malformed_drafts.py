"""Whole drafted runs of a base that knows nothing: whatever it draws, no draft, speaker or verdict is malformed.

Its weights are random, so nothing but the grammar gives its decisions their form, and nothing but the limits ends its
runs. It drafts with all observers, and the team works with all refinement and memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from plural import sync
from plural.agents import Agent
from plural.agents.schema import violations
from plural.agents.toolbox import TOOLS
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.teams.drafting import Draft, Missing, Sizes, Staff, Ways, draft, forms, from_yaml, team_of, to_yaml
from plural.types import Decided, RunFinished, Sampling, StepFinished
from tests.engine.tiny import CONFIG, tiny_base

SIZES = Sizes(agents=2, steps=2, letters=2)
WAYS = Ways(rounds=2, attempts=2, talks=2, repeats=1, changes=1)
AT_ONCE = 24


@pytest.fixture(scope="module")
def model() -> Iterator[ChatPlural]:
    small = tiny_base(replace(CONFIG, max_positions=8192))
    engine = Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings(max_running=AT_ONCE))
    yield ChatPlural(engine=engine, base=small, model_name="tiny", sampling=Sampling(max_tokens=4, temperature=1.0))
    engine.check()
    engine.close()


async def drafted_run(model: ChatPlural, seed: int, seen: Counter[str]) -> None:
    general = model.model_copy(update={"sampling": replace(model.sampling, seed=seed)})
    staff = Staff(general, {"cron": "schedules"}, lambda name: Agent(name, general), dict(list(TOOLS.items())[:1]))
    made: Any = None
    async for made in draft(f"Task {seed}.", staff, ways=WAYS, sizes=SIZES):
        if isinstance(made, Decided):
            seen[f"{made.by}: {made.about}"] += 1
    if isinstance(made, Missing):
        seen["missing"] += 1
        return
    assert isinstance(made, Draft)
    assert list(made.faults(staff.specialists, staff.tools)) == []
    assert from_yaml(to_yaml(made), staff.specialists, staff.tools) == made
    events = [event async for event in team_of(made, staff).events(made.task)]
    for event in events:
        if isinstance(event, Decided):
            kind = event.about.split()[0]
            seen[kind] += 1
            assert violations(event.decision.value, form_of(kind, event.decision.value)) == []
    assert isinstance(events[-1], RunFinished)
    assert not any(isinstance(event, StepFinished) and "could not be used" in event.answer for event in events)
    seen["runs"] += 1


def form_of(kind: str, value: Any) -> dict[str, Any]:
    """The form of a decision; of a plan only that it is one, as its names are those of its run."""
    if kind == "plan":
        assert 1 <= len(value["steps"]) <= SIZES.steps
        return {"type": "object"}
    return {
        "memory": forms.memory_form(SIZES),
        "look": forms.look_form(SIZES),
        "talk": forms.talk_form(SIZES),
        "check": forms.check_form(SIZES, ["go on", "do it again", "change the plan"]),
    }[kind]


def runs(model: ChatPlural, count: int) -> Counter[str]:
    seen: Counter[str] = Counter()

    async def all_of_them() -> None:
        for first in range(0, count, AT_ONCE):
            several = range(first, min(first + AT_ONCE, count))
            await asyncio.gather(*(drafted_run(model, seed, seen) for seed in several))

    sync.run(all_of_them())
    return seen


def test_a_few(model: ChatPlural) -> None:
    seen = runs(model, 2)
    assert seen["runs"] + seen["missing"] == 2


@pytest.mark.slow
def test_two_thousand(model: ChatPlural) -> None:
    seen = runs(model, 2000)
    print(dict(seen))
    assert seen["runs"] + seen["missing"] == 2000
    for kind in ("planner: team", "planner: plan", "agent observer: verdict", "plan observer: verdict"):
        assert seen[kind] >= 500
    for kind in ("memory", "look", "talk", "check", "plan"):
        assert seen[kind] >= 100

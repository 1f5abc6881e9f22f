"""Members that work at once meet in one batch of the engine: its steps are counted, on a tiny base."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from plural.agents import Agent
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.teams import Team
from plural.teams.patterns import Pattern, debate, map_items, round_robin, vote
from plural.types import AdapterRef, Event, RunFinished, Sampling, StepFinished
from tests.engine.tiny import drive, tiny_adapter, tiny_base

TOKENS = 12
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model() -> Iterator[ChatPlural]:
    base = tiny_base()
    adapters = {name: tiny_adapter(seed, 4, config=base.config) for seed, name in enumerate(NAMES)}
    engine = Engine(base.decoder, base.tokenizer, adapters.__getitem__, start=False)
    sampling = Sampling(max_tokens=TOKENS, ignore_eos=True)
    yield ChatPlural(engine=engine, base=base, model_name="tiny", sampling=sampling)
    engine.check()
    engine.close()


@pytest.fixture
def steps(model: ChatPlural) -> Callable[[Pattern], int]:
    """How many steps of the engine a team of four specialists takes."""

    def count(pattern: Pattern) -> int:
        members = [
            Agent(name, model.model_copy(update={"adapter": AdapterRef(name), "model_name": name})) for name in NAMES
        ]
        before = model.engine.stats().steps
        # Stepped by the loop that the members run in: who comes in when is no matter of the machine's load.
        (said,) = asyncio.run(drive(model.engine, Team("four", members, pattern).ainvoke("Go.")))
        assert not isinstance(said, BaseException), said
        return model.engine.stats().steps - before

    return count


def test_members_that_work_at_once_take_the_steps_of_one(steps: Callable[[Pattern], int]) -> None:
    steps(round_robin(NAMES, rounds=1))  # the adapters are brought in
    alone = steps(round_robin(NAMES[:1], rounds=1))
    assert alone >= TOKENS
    assert steps(round_robin(NAMES, rounds=1)) >= 4 * TOKENS
    few = len(NAMES)  # until the last has come in
    assert steps(vote(NAMES)) <= alone + few
    assert steps(debate(NAMES, rounds=2)) <= 2 * (alone + few)
    assert steps(map_items("a", ["x", "y", "z", "w"])) <= alone + few


def test_what_members_write_has_its_probability(model: ChatPlural) -> None:
    """By which a vote weighs it: that of the whole text, before any temperature."""
    voters = [Agent(name, model.model_copy(update={"adapter": AdapterRef(name), "model_name": name})) for name in NAMES]

    async def events() -> list[Event]:
        return [event async for event in Team("four", voters, vote(NAMES)).events("Go.")]

    (found,) = asyncio.run(drive(model.engine, events()))
    assert not isinstance(found, BaseException), found
    answers = {event.agent: event for event in found if isinstance(event, StepFinished)}
    assert answers.keys() == set(NAMES)
    sure = {name: event.probability or 0.0 for name, event in answers.items()}
    assert all(0 < each <= 1 for each in sure.values())
    said = {event.answer for event in answers.values()}
    assert len(said) == len(NAMES)  # nobody agrees: the most probable text wins
    *_, last = found
    assert isinstance(last, RunFinished)
    assert last.answer == answers[max(sure, key=lambda name: sure[name])].answer


def test_votes_among_options_are_one_batch(steps: Callable[[Pattern], int]) -> None:
    first = steps(vote(NAMES, options=["yes", "no"]))
    assert first <= steps(vote(NAMES[:2], options=["yes", "no"])) + len(NAMES)

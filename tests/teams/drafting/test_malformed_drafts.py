"""Whole drafted runs of a base that knows nothing: whatever it draws, no plan, speaker or verdict is malformed.

Its weights are random, so nothing but the grammar gives its decisions their form, and nothing but the limits ends its
runs. It drafts with all observers, and the team works with all refinement and memory; it drafts as a planner specialist
does; it says who speaks next in a conversation, and it keeps a ledger. What cannot be used would be asked for again:
that is counted, too.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from plural import sync
from plural.agents import Agent
from plural.agents.schema import violations
from plural.agents.toolbox import TOOLS
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.errors import ContractError
from plural.models.base import Base
from plural.models.chat import ChatFormat
from plural.models.tokenizer import CALL_TAGS, Tokenizer
from plural.teams import Planner, Team, insisting
from plural.teams.drafting import (
    Draft,
    Missing,
    Sizes,
    Staff,
    Ways,
    draft,
    draft_by_specialist,
    drafts,
    forms,
    from_yaml,
    prompts,
    team_of,
    to_yaml,
)
from plural.teams.patterns import ledger, selector
from plural.teams.planner import Plan
from plural.types import Decided, Decision, Option, Planned, Routed, RunFinished, Sampling, StepFinished
from tests.engine.tiny import CONFIG, tiny_decoder
from tests.models.tiny import TEMPLATE

SIZES = Sizes(agents=2, steps=2, letters=2)
WAYS = Ways(rounds=2, attempts=2, talks=2, repeats=1, changes=1)
AT_ONCE = 24
RUNS = int(os.environ.get("PLURAL_DRAFTED_RUNS", "2000"))
LACKING = 4


@contextmanager
def drafter() -> Iterator[ChatPlural]:
    small = base_of_few_words()
    engine = Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings(max_running=AT_ONCE, threads=1))
    yield ChatPlural(engine=engine, base=small, model_name="tiny", sampling=Sampling(max_tokens=4, temperature=1.0))
    engine.check()
    engine.close()


def base_of_few_words() -> Base:
    """Random weights, and a tokenizer with tokens for what forms and prompts say again and again: a decision of so many
    bytes is then drawn in a quarter of the steps."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    ends = ["<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=800, initial_alphabet=letters, special_tokens=ends, show_progress=False)
    backend.train_from_iterator([inspect.getsource(one) for one in (prompts, forms, drafts)], trainer)
    backend.add_tokens([tokenizers.AddedToken(tag, special=False, normalized=False) for tag in CALL_TAGS])
    tokenizer = Tokenizer(backend)
    config = replace(CONFIG, max_positions=8192, vocab_size=tokenizer.vocab_size)
    chat = ChatFormat(tokenizer, TEMPLATE)
    return Base("tiny", "tiny", tiny_decoder(config=config), tokenizer, chat, config, Path())


@pytest.fixture(scope="module")
def model() -> Iterator[ChatPlural]:
    with drafter() as made:
        yield made


async def drafted_run(model: ChatPlural, seed: int, seen: Counter[str]) -> None:
    general = model.model_copy(update={"sampling": replace(model.sampling, seed=seed)})
    staff = Staff(general, {"cron": "schedules"}, lambda name: Agent(name, general), dict(list(TOOLS.items())[:1]))
    made: Any = None
    may_lack = seed % LACKING == 0  # a base that knows nothing says it of half of all tasks
    async for made in draft(f"Task {seed}.", staff, ways=WAYS, sizes=SIZES, may_lack=may_lack):
        if isinstance(made, Decided):
            seen[f"{made.by}: {made.about}"] += 1
    if isinstance(made, Missing):
        seen["missing"] += 1
    else:
        assert isinstance(made, Draft)
        await carried_out(made, staff, seen)
    await planned(general, seed, seen)
    await talked(general, seen)
    await kept(general, seen)


async def carried_out(made: Draft, staff: Staff, seen: Counter[str]) -> None:
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


class Counting(Planner):
    def __init__(self, model: ChatPlural, seen: Counter[str]) -> None:
        super().__init__(model, letters=3)
        self._seen = seen

    async def plan(self, request: str, config: Any = None) -> Plan:
        made = await super().plan(request, config)
        self._seen.update({"plans by planner": 1, "asked for plans": made.tries})
        return made


async def planned(general: ChatPlural, seed: int, seen: Counter[str]) -> None:
    """As `plural draft --by planner`."""

    async def route(task: str) -> Decision[str]:
        names = ["planner"] if task == "Both." else [("cron", "base")[len(task) % 2]]
        return Decision(names[0], 1.0, tuple(Option(name, 1.0) for name in (*names, "base", "cron")))

    staff = Staff(general, {"cron": "schedules"}, lambda name: Agent(name, general), {}, route)
    *way, made = [
        each async for each in draft_by_specialist("Both.", staff, [Counting(general, seen)], may_lack=seed % 2 == 0)
    ]
    (plan,) = [each for each in way if isinstance(each, Planned)]
    for number, step in enumerate(plan.steps, start=1):
        assert step.task.strip()
        assert all(1 <= earlier < number for earlier in step.after)
    if isinstance(made, Draft):
        assert from_yaml(to_yaml(made), staff.specialists, staff.tools) == made
        *_, last = [event async for event in team_of(made, staff).events(made.task)]
        assert isinstance(last, RunFinished)


async def talked(general: ChatPlural, seen: Counter[str]) -> None:
    names = ("ann", "bob", "cy")
    pattern = selector(names, allowed={"ann": ["bob", "cy"]}, may_end=True)
    team = Team("talk", [Agent(name, general) for name in names], pattern, model=general, max_turns=3)
    spoke = ""
    async for event in team.events("Talk."):
        if isinstance(event, Routed):
            seen["speaker"] += 1
            allowed = (
                {*names} if not spoke else {"bob", "cy", "nobody"} if spoke == "ann" else {*names, "nobody"} - {spoke}
            )
            assert {option.value for option in event.decision.options} == allowed
            assert event.decision.value in allowed
        elif isinstance(event, StepFinished):
            spoke = event.agent


async def kept(general: ChatPlural, seen: Counter[str]) -> None:
    members = [Agent(name, general) for name in ("ann", "bob")]
    pattern = ledger(["ann", "bob"], max_stalls=1, max_plans=2, letters=2)
    async for event in Team("office", members, pattern, model=general, max_turns=2).events("Work."):
        if isinstance(event, Decided):
            seen[f"ledger: {event.about}"] += 1
            text = event.decision.value["instruction" if event.about == "progress" else "text"]
            assert text.strip()
            assert len(text) <= 2
            assert event.about != "progress" or event.decision.value["next"] in ("ann", "bob")


@contextmanager
def counted(seen: Counter[str]) -> Iterator[None]:
    """How often a decision was asked for, and how often the answer could not be used."""
    decide = insisting.adecide

    async def adecide(*given: Any, **options: Any) -> Decision[Any]:
        seen["asked for decisions"] += 1
        try:
            return await decide(*given, **options)
        except ContractError:
            seen["could not be used"] += 1
            raise

    insisting.adecide = adecide  # type: ignore[assignment]
    try:
        yield
    finally:
        insisting.adecide = decide


def none_was_asked_for_again(seen: Counter[str]) -> None:
    made = {
        kind: count for kind, count in seen.items() if kind.startswith(("planner:", "agent obs", "plan obs", "ledger:"))
    }
    made |= {kind: seen[kind] for kind in ("memory", "look", "talk", "check", "plan", "speaker")}
    assert seen["asked for decisions"] == sum(made.values())
    assert seen["could not be used"] == 0
    assert seen["asked for plans"] == seen["plans by planner"] > 0


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


def test_no_text_of_a_form_is_blank() -> None:
    assert violations({"needed": " a"}, forms.memory_form(SIZES)) == []
    assert violations({"needed": " "}, forms.memory_form(SIZES))


def runs(model: ChatPlural, seeds: Iterable[int]) -> Counter[str]:
    """As many at once as the engine takes: when one ends, the next begins."""
    seen: Counter[str] = Counter()
    left = iter(seeds)

    async def one_after_the_other() -> None:
        for seed in left:
            await drafted_run(model, seed, seen)

    async def all_of_them() -> None:
        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))

    with counted(seen):
        sync.run(all_of_them())
    return seen


def some_of(seeds: range) -> Counter[str]:
    """In a process of their own."""
    with drafter() as model:
        return runs(model, seeds)


def test_a_few(model: ChatPlural) -> None:
    seen = runs(model, range(2))
    assert seen["runs"] + seen["missing"] == seen["plans by planner"] == 2
    none_was_asked_for_again(seen)


@pytest.mark.slow
def test_two_thousand() -> None:
    """A process a core: what takes long is Python's own time."""
    cores = min(len(os.sched_getaffinity(0)), 8)
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        parts = pool.map(some_of, [range(first, RUNS, cores) for first in range(cores)])
        seen = sum(parts, Counter[str]())
    print(dict(seen))
    assert seen["runs"] + seen["missing"] == seen["plans by planner"] == RUNS
    none_was_asked_for_again(seen)
    for kind in ("planner: team", "planner: plan", "agent observer: verdict", "plan observer: verdict", "speaker"):
        assert seen[kind] >= RUNS / 4
    for kind in ("memory", "look", "talk", "check", "plan", "ledger: facts", "ledger: plan", "ledger: progress"):
        assert seen[kind] >= RUNS / 20

"""What the router learns from the journal: whose word counts, which runs went well, and that it then decides so."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plural.agents import Agent
from plural.errors import DataError, LimitError, RunError, SettingsError, SpecialistError
from plural.specialists import Library
from plural.teams import Planner, Router, work
from plural.teams.journal import Journal
from plural.teams.learning import Lesson, Lessons, correction, examples, went_well
from plural.testing import ScriptedEmbedder, ScriptedModel
from plural.wiring import runs

EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off"],
    "base": ["who wrote faust", "what is a whale", "tell me a story", "why is the sky blue"],
    "planner": ["light off and every day", "lamp on and each friday", "story and every hour", "kitchen and monday"],
}
LABELS = tuple(EXAMPLES)
ODD = "let there be darkness"


async def fitted(lessons: Any = ()) -> Router:
    embedder, learned = ScriptedEmbedder(), examples(lessons, LABELS)
    vectors = {label: await embedder.aembed([*EXAMPLES[label], *learned[label]]) for label in LABELS}
    return Router.fit(vectors, threshold=0.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


async def asked(journal: Journal, request: str, *, to: str | None = None, plan: str = "", mute: str = "") -> str:
    """A run of the network, in the journal; its name. `plan` is what the planner says, `mute` has nothing to say."""
    names = [to] if to else ["cron", "home", "base"]
    agents = {name: Agent(name, ScriptedModel([] if name == mute else ["done"] * 3)) for name in names}
    working = functools.partial(
        work, agents=agents, planners=[] if to else [Planner(ScriptedModel([plan]))], embedder=ScriptedEmbedder()
    )

    async def events(request: str, *, to: str | None, **more: Any) -> Any:
        async for event in working(request, router=None if to else await fitted(), **more):
            yield event

    stream = runs.begin(journal, events, "tiny", request, to=to, history=())
    assert [event async for event in stream]
    assert stream.run is not None
    return stream.run


async def test_a_correction_is_followed_from_then_on(journal: Journal, tmp_path: Path) -> None:
    run = await asked(journal, ODD)
    assert (await (await fitted()).route(ODD, ScriptedEmbedder())).value != "home"
    lessons = Lessons.of(Library(tmp_path / "library"))
    assert lessons.add([correction(journal, run[:5], "home", LABELS)]) == 1
    assert lessons.add([correction(journal, run, "home", LABELS)]) == 0
    decision = await (await fitted(lessons.read())).route(ODD, ScriptedEmbedder())
    assert decision.value == "home"


async def test_runs_that_went_well(journal: Journal) -> None:
    sure = await asked(journal, "turn on the kitchen light")
    named = await asked(journal, ODD, to="home")
    await asked(journal, "every monday at noon", to="base")  # to see what it says
    with pytest.raises(LimitError):
        await asked(journal, "every monday at noon", mute="cron")
    found = list(went_well(journal, sure=0.4))
    assert found == [Lesson("turn on the kitchen light", "home", "run", sure), Lesson(ODD, "home", "asked", named)]
    assert [lesson.by for lesson in went_well(journal, sure=1)] == ["asked"]


async def test_the_steps_of_a_plan_are_learned_and_corrected(journal: Journal) -> None:
    plan = '{"steps":[{"task":"turn off the hall lamp"},{"task":"every day at seven"}]}'
    run = await asked(journal, "light off and every day", plan=plan)
    found = [(lesson.text, lesson.label) for lesson in went_well(journal, sure=0.3)]
    assert found == [
        ("light off and every day", "planner"), ("turn off the hall lamp", "home"), ("every day at seven", "cron"),
    ]  # fmt: skip
    assert correction(journal, run, "base", LABELS, step=2).text == "every day at seven"
    with pytest.raises(RunError, match="no step 3"):
        correction(journal, run, "base", LABELS, step=3)
    await asked(journal, "lamp on and each friday", plan=plan, mute="cron")
    assert len(list(went_well(journal, sure=0.3))) == 3, "a step of it failed"


def test_a_persons_word_counts_and_the_last_one() -> None:
    told = [
        Lesson("a", "cron", "run", "1"), Lesson("a", "home", "person", "1"), Lesson("a", "cron", "run", "2"),
        Lesson("b", "home", "run", "3"), Lesson("b", "base", "run", "4"),
        Lesson("c", "cron", "person", "5"), Lesson("c", "home", "person", "6"), Lesson("c", "base", "asked", "7"),
    ]  # fmt: skip
    assert examples(told, ["cron", "home", "base"]) == {"cron": [], "home": ["a", "c"], "base": ["b"]}
    assert examples(told, ["base"]) == {"base": ["b"]}, "who is not there waits"
    many = [Lesson(f"{number}", "cron", "run", "7") for number in range(100)]
    assert examples(many, ["cron"])["cron"] == [f"{number}" for number in range(36, 100)]


async def test_what_cannot_be_learned(journal: Journal, tmp_path: Path) -> None:
    run = await asked(journal, "light off")
    with pytest.raises(SpecialistError, match="No specialist is called 'hom'"):
        correction(journal, run, "hom", LABELS)
    with pytest.raises(SettingsError, match="sure is 2"):
        list(went_well(journal, sure=2))
    (tmp_path / "lessons.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(DataError, match="1: no lesson"):
        Lessons(tmp_path / "lessons.jsonl").read()

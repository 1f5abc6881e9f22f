"""A person in a run: what goes on while they are asked, and everything that they may be asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plural.agents import Agent, mark, tool
from plural.agents.merge import merge
from plural.agents.toolbox import ask_person
from plural.agents.waiting import Waiting
from plural.errors import SettingsError
from plural.teams import Planner, Team, work
from plural.teams.drafting import Draft, DraftedAgent, DraftedStep, Staff, Ways, team_of
from plural.teams.journal import Journal, begin, open_questions, replay, resume, shown
from plural.teams.patterns import debate, round_robin
from plural.testing import ScriptedModel, calling
from plural.types import Decided, Event, Planned, Question, RunFinished, Step, StepFinished, StepStarted
from tests.teams.test_network import ROUTER, LabelEmbedder, plan_of


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


async def all_of(events: AsyncIterable[Event]) -> list[Event]:
    return [event async for event in events]


def last(journal: Journal) -> str:
    return journal.runs()[0].id


def answer(events: list[Event]) -> str:
    assert isinstance(events[-1], RunFinished)
    return events[-1].answer


# ------------------------------------------------------------------------------------------- the others, meanwhile
async def test_who_waits_does_not_stop_the_others() -> None:
    said: list[int] = []

    async def waits(number: int) -> Any:
        yield number
        raise Waiting(Question(number, "a", "?"))

    async def counts() -> Any:
        for number in range(10, 15):
            yield number

    async def listen() -> None:
        async for each in merge([waits(1), counts(), waits(2)]):
            said.append(each)

    with pytest.raises(Waiting):
        await listen()
    assert sorted(said) == [1, 2, 10, 11, 12, 13, 14]


async def test_an_error_ends_those_who_wait_as_well() -> None:
    async def waits() -> Any:
        yield 1
        raise Waiting(Question(0, "a", "?"))

    async def fails() -> Any:
        for number in range(3):
            yield number
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        async for _ in merge([waits(), fails()]):
            pass


class World:
    """Two members that work at once: one needs approval for what it does, the other does several things unasked."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def team(self, *, both: bool = False) -> Team:
        @mark(approval=True)
        @tool
        def delete(what: str) -> str:
            """Delete something."""
            self.done.append(f"deleted {what}")
            return f"deleted {what}"

        @tool
        async def add(what: str) -> str:
            """Add something."""
            self.done.append(f"added {what}")
            return f"added {what}"

        def deletes(messages: Any) -> Any:
            return "Gone." if messages[-1].type == "tool" else calling(("delete", {"what": "logs"}))

        def adds(messages: Any) -> Any:
            turn = sum(message.type == "ai" for message in messages)
            return "Added." if turn == 3 else calling(("add", {"what": str(turn)}))

        members = [
            Agent("careful", ScriptedModel([deletes] * 2), tools=[delete]),
            Agent("quick", ScriptedModel([deletes if both else adds] * 4), tools=[delete if both else add]),
        ]
        return Team("pair", members, debate(["careful", "quick"], rounds=1))


async def test_a_question_in_one_step_loses_nothing_of_the_others(journal: Journal) -> None:
    world = World()
    events = await all_of(begin(journal, world.team(), "Go."))
    (question,) = [event for event in events if isinstance(event, Question)]
    assert question.kind == "approval"
    assert world.done == ["added 0", "added 1", "added 2"]  # all of it, while nobody had answered
    assert [event.answer for event in events if isinstance(event, StepFinished)] == ["Added."]
    run = last(journal)
    assert [asked for _, asked in open_questions(journal.entries(run))] == [question]  # and nobody is asked twice
    journal.answer(run, "approve")
    again = World()
    events = await all_of(resume(journal, run, again.team()))
    assert again.done == ["deleted logs"]
    assert isinstance(events[-1], RunFinished)


async def test_several_may_wait_at_once(journal: Journal) -> None:
    world = World()
    events = await all_of(begin(journal, world.team(both=True), "Go."))
    run = last(journal)
    asked = [event for event in events if isinstance(event, Question)]
    assert {question.agent for question in asked} == {"careful", "quick"}
    first, second = (seq for seq, _ in open_questions(journal.entries(run)))
    journal.answer(run, "approve", question=second)
    assert [type(event) for event in await all_of(resume(journal, run, world.team(both=True)))] == [Question]
    journal.answer(run, "deny: keep them", question=first)
    assert isinstance((await all_of(resume(journal, run, world.team(both=True))))[-1], RunFinished)
    assert world.done == ["deleted logs"]


# ------------------------------------------------------------------------------------------------------ ask_person
def asks(messages: Any) -> Any:
    if messages[-1].type == "tool":
        return f"So: {messages[-1].content}"
    return calling(("ask_person", {"question": "Green or black?"}))


async def test_an_agent_asks_a_person(journal: Journal) -> None:
    def team() -> Team:
        inner = Agent("buyer", ScriptedModel([asks] * 2), tools=[ask_person])

        def sends(messages: Any) -> Any:
            said = messages[-1]
            return str(said.content) if said.type == "tool" else calling(("buyer", {"input": "Buy tea."}))

        outer = Agent("clerk", ScriptedModel([sends] * 2), tools=[inner])
        return Team("shop", [outer], round_robin(["clerk"], rounds=1))

    events = await all_of(begin(journal, team(), "Tea."))
    run = last(journal)
    assert events[-1] == Question(1, "buyer", "Green or black?")
    assert list(shown(journal.entries(run)))[-1] == events[-1]
    assert journal.find(run).status == "waiting"
    journal.answer(run, "Green.")
    events = await all_of(resume(journal, run, team()))
    assert answer(events) == "So: Green."
    assert await all_of(replay(journal, run)) == events
    assert await all_of(replay(journal, run, team())) == events


async def test_where_nobody_can_be_asked_the_agent_is_told() -> None:
    agent = Agent("buyer", ScriptedModel([asks] * 2), tools=[ask_person])
    assert "There is nobody to ask" in await agent.ainvoke("Tea.")


async def test_an_agent_of_a_draft_may_ask(journal: Journal) -> None:
    agents = (DraftedAgent(name="buyer", tools=("ask_person",)),)
    draft = Draft(task="Tea.", agents=agents, steps=(DraftedStep(task="Buy it.", agents=("buyer",)),), ways=BARE)

    def team() -> Team:
        return team_of(draft, Staff(ScriptedModel([asks] * 2), tools={"ask_person": ask_person}))

    assert isinstance((await all_of(begin(journal, team(), draft.task)))[-1], Question)
    journal.answer(last(journal), "Black.")
    assert answer(await all_of(resume(journal, last(journal), team()))) == "So: Black."


# -------------------------------------------------------------------------------------------------- a network's plan
class Asked:
    """A network that has its plans approved."""

    def __init__(self, *plan: str, **agents: list[Any]) -> None:
        self.planner = Planner(ScriptedModel([plan_of(*plan)]))
        self.agents = {name: Agent(name, ScriptedModel(agents.get(name, []))) for name in ("base", "cron", "home")}

    def events(self, input: Any, config: Any = None) -> Any:
        return work(
            input,
            router=ROUTER,
            planners=[self.planner],
            agents=self.agents,
            embedder=LabelEmbedder(),
            approve=True,
            config=config,
        )


async def test_a_plan_is_approved(journal: Journal) -> None:
    events = await all_of(begin(journal, Asked("cron", "home #1"), "planner"))
    run = last(journal)
    question = events[-1]
    assert isinstance(question, Question)
    assert (question.agent, question.kind) == ("planner", "approval")
    assert question.text.startswith("1. cron\n2. home #1\nShall this be done?")
    journal.answer(run, "approve")
    worker = Asked("never asked", cron=["seven"], home=["lamp"])
    events = await all_of(resume(journal, run, worker))
    assert answer(events) == "lamp"
    assert await all_of(replay(journal, run, Asked())) == events


async def test_a_plan_is_denied(journal: Journal) -> None:
    await all_of(begin(journal, Asked("cron"), "planner"))
    journal.answer(last(journal), "deny: not today")
    events = await all_of(resume(journal, last(journal), Asked()))
    assert answer(events) == "A person denied the plan: not today"
    assert not [event for event in events if isinstance(event, StepStarted)]


async def test_a_person_writes_another_plan(journal: Journal) -> None:
    await all_of(begin(journal, Asked("cron"), "planner"))
    run = last(journal)
    journal.answer(run, json.dumps({"steps": [{"task": "home #2"}]}))  # which cannot be carried out
    again = (await all_of(resume(journal, run, Asked())))[-1]
    assert isinstance(again, Question)
    assert "refers to #2" in again.text
    journal.answer(run, json.dumps({"steps": [{"task": "home"}, {"task": "cron #1"}]}))
    events = await all_of(resume(journal, run, Asked(home=["lamp"], cron=["seven"])))
    assert [event.steps for event in events if isinstance(event, Planned)] == [
        (Step("cron"),),
        (Step("home"), Step("cron #1", after=(1,))),
    ]
    assert [event.task for event in events if isinstance(event, StepStarted)] == ["home", "cron lamp"]
    assert answer(events) == "seven"


async def test_without_a_journal_nothing_can_be_approved() -> None:
    with pytest.raises(SettingsError, match="The plan has to be approved, and this run has no journal"):
        await all_of(Asked("cron").events("planner"))


async def test_a_step_that_waits_lets_others_finish_and_holds_those_that_need_it(journal: Journal) -> None:
    def worker(**agents: list[Any]) -> Any:
        made = Asked("cron", "home", "base #1", **agents)
        made.agents["cron"] = Agent("cron", ScriptedModel(agents.get("cron", [])), tools=[ask_person])

        class Unasked:
            def events(self, input: Any, config: Any = None) -> Any:
                return work(
                    input,
                    router=ROUTER,
                    planners=[made.planner],
                    agents=made.agents,
                    embedder=LabelEmbedder(),
                    config=config,
                )

        return Unasked()

    events = await all_of(begin(journal, worker(cron=[asks], home=["lamp"]), "planner"))
    assert isinstance(events[-1], Question)
    assert [event.answer for event in events if isinstance(event, StepFinished)] == ["lamp"]
    journal.answer(last(journal), "Green.")
    events = await all_of(resume(journal, last(journal), worker(cron=[asks], base=["done"])))
    assert answer(events) == "home: lamp\nbase So: Green.: done"


# ----------------------------------------------------------------------------------------------------- a draft's plan
BARE = Ways(observers=False, refinement=False, memory=False)


def drafted(**ways: Any) -> Draft:
    steps = (DraftedStep(task="Which?", agents=("a",)), DraftedStep(task="Why?", agents=("b",), inputs=(1,)))
    agents = (DraftedAgent(name="a"), DraftedAgent(name="b"))
    return Draft(task="Tea.", agents=agents, steps=steps, ways=BARE.model_copy(update={"approve": True, **ways}))


def plan(*steps: tuple[str, str, list[int]]) -> str:
    return json.dumps(
        {"steps": [{"task": task, "agents": [who], "inputs": after, "expects": "e"} for task, who, after in steps]}
    )


async def test_the_plan_of_a_draft_is_approved(journal: Journal) -> None:
    question = (await all_of(begin(journal, team_of(drafted(), Staff(ScriptedModel([]))), "Tea.")))[-1]
    run = last(journal)
    assert isinstance(question, Question)
    assert question.kind == "approval"
    assert "2. b: Why? (builds on 1)" in question.text
    journal.answer(run, "approve")
    events = await all_of(resume(journal, run, team_of(drafted(), Staff(ScriptedModel(["Green.", "So."])))))
    assert answer(events) == "So."
    assert [event.by for event in events if isinstance(event, Decided)] == ["person"]
    assert await all_of(replay(journal, run, team_of(drafted(), Staff(ScriptedModel([]))))) == events


async def test_the_plan_of_a_draft_is_denied_or_written_anew(journal: Journal) -> None:
    await all_of(begin(journal, team_of(drafted(), Staff(ScriptedModel([]))), "Tea."))
    run = last(journal)
    fork = journal.fork(run, journal.find(run).entries - 1)
    journal.answer(fork, "deny: coffee")
    events = await all_of(resume(journal, fork, team_of(drafted(), Staff(ScriptedModel([])))))
    assert answer(events) == "A person denied the plan: coffee"
    journal.answer(run, plan(("What?", "nobody", [])))
    again = (await all_of(resume(journal, run, team_of(drafted(), Staff(ScriptedModel([]))))))[-1]
    assert isinstance(again, Question)
    assert "Your plan cannot be used" in again.text
    steps = [{"task": "What?", "agents": ["b"]}, {"task": "When?", "agents": ["a"], "inputs": [1]}]
    journal.answer(run, json.dumps({"steps": steps}))
    events = await all_of(resume(journal, run, team_of(drafted(), Staff(ScriptedModel(["This.", "Now."])))))
    assert [event.agent for event in events if isinstance(event, StepStarted)] == ["b", "a"]
    assert answer(events) == "Now."


@pytest.mark.parametrize("word", ["approve", "deny: as it was"])
async def test_a_change_of_the_plan_is_approved_too(journal: Journal, word: str) -> None:
    """The observer wants another second step."""
    change = json.dumps({"reason": "r", "good": False, "next": "change the plan", "feedback": "f"})
    fine = json.dumps({"reason": "r", "good": True, "next": "go on", "feedback": "-"})
    draft = drafted(observers=True, repeats=0, changes=1)

    def team(*replies: str) -> Team:
        return team_of(draft, Staff(ScriptedModel(replies)))

    await all_of(begin(journal, team(), "Tea."))
    run = last(journal)
    journal.answer(run, "approve")
    asked = (await all_of(resume(journal, run, team("Green.", change, plan(("How?", "b", []))))))[-1]
    assert isinstance(asked, Question)
    assert "b: How?" in asked.text
    journal.answer(run, word)
    events = await all_of(resume(journal, run, team("Thus.", fine)))
    tasks = [event.task for event in events if isinstance(event, StepStarted)]
    assert len(tasks) == 2
    assert ("How?" in tasks[1]) == (word == "approve")
    assert answer(events) == "Thus."

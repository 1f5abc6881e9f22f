"""A draft that is carried out: alone and together, watched, planned anew, stopped by its limits, resumed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from plural.agents import Agent
from plural.agents.toolbox import TOOLS
from plural.errors import PlanError
from plural.teams.drafting import Allowance, Draft, DraftedAgent, DraftedStep, Staff, Ways, team_of
from plural.teams.journal import Journal, begin, replay, resume
from plural.testing import ScriptedModel
from plural.types import Decided, Event, LimitReached, RunFinished, StepFinished, StepStarted

BARE = Ways(observers=False, refinement=False, memory=False)


def drafted(*steps: DraftedStep, ways: Ways = BARE, specialists: dict[str, str] | None = None, **more: Any) -> Draft:
    given = specialists or {}
    names = dict.fromkeys(name for step in steps for name in step.agents)
    agents = [DraftedAgent(name=name, prompt=f"You are {name}.", specialist=given.get(name, "base")) for name in names]
    return Draft(task="Tea.", agents=tuple(agents), steps=steps, ways=ways, **more)


def step(task: str, *agents: str, inputs: tuple[int, ...] = (), expects: str = "") -> DraftedStep:
    return DraftedStep(task=task, agents=agents, inputs=inputs, expects=expects)


def look(done: bool, better: str = "-") -> str:
    return json.dumps({"thought": "Hm.", "done": done, "better": better})


def checked(next: str = "go on", good: bool = True, feedback: str = "-") -> str:
    return json.dumps({"reason": "I read it.", "good": good, "next": next, "feedback": feedback})


def said(model: ScriptedModel) -> list[str]:
    return [str(asked.messages[-1].content) for asked in model.asked]


async def all_of(events: AsyncIterable[Event]) -> list[Event]:
    return [event async for event in events]


async def run(draft: Draft, model: ScriptedModel, **hired: ScriptedModel) -> list[Event]:
    def hire(name: str) -> Agent:
        return Agent(name, hired[name])

    staff = Staff(model, dict.fromkeys(hired, ""), hire, TOOLS)
    return await all_of(team_of(draft, staff).events(draft.task))


def answer(events: list[Event]) -> str:
    assert isinstance(events[-1], RunFinished)
    return events[-1].answer


async def test_a_step_reads_the_results_it_builds_on() -> None:
    model = ScriptedModel(["Green.", "Green is good."])
    events = await run(drafted(step("Which?", "a"), step("Why?", "b", inputs=(1,), expects="a line")), model)
    assert answer(events) == "Green is good."
    assert said(model)[1] == (
        "The whole task of the team: Tea.\n\nResult of step 1: Green.\n\nThe step: Why? Expected: a line"
    )
    assert str(model.asked[1].messages[0].content) == "You are b."


async def test_steps_that_need_nothing_from_each_other_are_done_at_once() -> None:
    model = ScriptedModel(["one", "two", "both"])
    events = await run(drafted(step("1", "a"), step("2", "b"), step("3", "c", inputs=(1, 2))), model)
    kinds = [(type(event), event.agent) for event in events if isinstance(event, StepStarted | StepFinished)]
    assert {agent for _, agent in kinds[:2]} == {"a", "b"}
    assert {kind for kind, _ in kinds[:2]} == {StepStarted}
    assert answer(events) == "both"


async def test_results_that_nobody_uses_are_all_the_answer() -> None:
    model = ScriptedModel(["one", "two"])
    assert answer(await run(drafted(step("First", "a"), step("Second", "b")), model)) == "First: one\nSecond: two"


async def test_a_specialist_is_asked_as_it_was_trained() -> None:
    cron, general = ScriptedModel(["30 7 * * *", "0 9 * * *"]), ScriptedModel(["half past seven"])
    steps = [step("Say when.", "a"), step("Cron of #1", "clock", inputs=(1,)), step("And 9?", "clock", inputs=(1,))]
    ways = Ways(observers=False, memory=False, attempts=1)
    events = await run(drafted(*steps, ways=ways, specialists={"clock": "cron"}), general, cron=cron)
    assert said(cron) == ["Cron of half past seven", "And 9?\nhalf past seven"]
    assert answer(events) == "Cron of half past seven: 30 7 * * *\nAnd 9?\nhalf past seven: 0 9 * * *"


async def test_another_task_stands_where_the_steps_have_a_place_for_it() -> None:
    steps = [step("Cron of {task}", "clock"), step("Say #1 of {task} aloud.", "a", inputs=(1,))]
    draft = drafted(*steps, specialists={"clock": "cron"})
    for task in ("Tea.", "every {day} at noon"):
        cron, general = ScriptedModel(["0 12 * * *"]), ScriptedModel(["Noon."])
        staff = Staff(general, {"cron": ""}, lambda _, cron=cron: Agent("cron", cron), TOOLS)  # type: ignore[misc]
        assert answer(await all_of(team_of(draft, staff).events(task))) == "Noon."
        assert said(cron) == [f"Cron of {task}"]
        assert said(general)[0].endswith(f"The step: Say #1 of {task} aloud.")


async def test_another_task_that_a_specialist_would_not_hear_of_is_refused() -> None:
    draft = drafted(step("Cron of noon.", "clock"), specialists={"clock": "cron"})
    cron = ScriptedModel(["0 12 * * *"] * 2)
    staff = Staff(ScriptedModel([]), {"cron": ""}, lambda _: Agent("cron", cron), TOOLS)
    assert await team_of(draft, staff).ainvoke("Tea.") == "0 12 * * *"
    with pytest.raises(PlanError, match=r"clock would work on that and hear nothing of 'Midnight'.*Write \{task\}"):
        await team_of(draft, staff).ainvoke("Midnight")
    assert len(cron.asked) == 1
    with pytest.raises(PlanError, match=r"those of its own task, 'Tea\.'"):
        drafted(step("Tea.", "a")).about("Coffee.")
    read = drafted(step("Write.", "a"))  # whoever is no specialist reads the task beside the step
    general = ScriptedModel(["Coffee it is."])
    assert await team_of(read, Staff(general)).ainvoke("Coffee.") == "Coffee it is."
    assert "The whole task of the team: Coffee." in said(general)[0]


async def test_an_agent_alone_makes_its_own_work_better() -> None:
    model = ScriptedModel(["Tea is.", look(False, "Rhyme."), "Tea for me.", look(True)])
    events = await run(drafted(step("Write.", "poet"), ways=Ways(observers=False, memory=False)), model)
    assert answer(events) == "Tea for me."
    assert "So far:\npoet: Tea is." in said(model)[2]
    assert "To do better: Rhyme." in said(model)[2]
    assert [event.by for event in events if isinstance(event, Decided)] == ["poet", "poet"]


async def test_short_term_memory_keeps_every_attempt_at_the_step() -> None:
    model = ScriptedModel(
        [
            "Tea is.",
            look(False, "Rhyme."),
            "Tea for me.",
            look(True),
            checked("do it again", False, "Longer."),
            "Tea for me and for thee.",
            look(True),
            checked(),
            "So it is.",
            look(True),
            checked(),
        ]
    )
    draft = drafted(step("Write.", "poet"), step("Praise it.", "poet", inputs=(1,)), ways=Ways(memory=False))
    assert answer(await run(draft, model)) == "So it is."
    asked = [each for each in said(model) if "The step: Write." in each and "Is it" not in each]
    so_far = ["poet: Tea is.", "What was found: Hm.", "poet: Tea for me.", "What was found: I read it."]
    assert ["So far:" in each for each in asked] == [False, True, True]
    assert "So far:\npoet: Tea is.\nWhat was found: Hm.\n\nTo do better: Rhyme." in asked[1]
    assert "So far:\n" + "\n".join(so_far) + "\n\nTo do better: Longer." in asked[2]
    assert "So far:" not in next(each for each in said(model) if "The step: Praise it." in each)  # another step's


async def test_self_refinement_has_a_limit() -> None:
    model = ScriptedModel(["1", look(False), "2", look(False), "3"])
    ways = Ways(observers=False, memory=False, attempts=3)
    assert answer(await run(drafted(step("Write.", "poet"), ways=ways), model)) == "3"
    assert model.left == 0


async def test_agents_talk_until_they_agree() -> None:
    def stand(agreed: bool, result: str) -> str:
        return json.dumps({"reason": "They talk.", "agreed": agreed, "result": result})

    model = ScriptedModel(
        ["Green!", "Black!", stand(False, "none"), "Well, black.", "Black.", stand(True, "Black tea")]
    )
    events = await run(drafted(step("Which?", "a", "b"), ways=Ways(observers=False, memory=False)), model)
    assert answer(events) == "Black tea"
    assert "So far:\na: Green!\nb: Black!" in said(model)[3]
    assert "You are b and work on it with a." in said(model)[1]
    once = ScriptedModel(["Green!", "Black!"])
    assert answer(await run(drafted(step("Which?", "a", "b")), once)) == "Black!"
    never = ScriptedModel(["x", "y", stand(False, "x or y")] * 2)
    ways = Ways(observers=False, memory=False, talks=2)
    assert answer(await run(drafted(step("Which?", "a", "b"), ways=ways), never)) == "x or y"


async def test_what_a_step_needs_is_written_down_for_it() -> None:
    model = ScriptedModel(["Green.", json.dumps({"needed": "It was green."}), "So it was."])
    ways = Ways(observers=False, refinement=False)
    draft = drafted(step("Which?", "a"), step("Why?", "b", inputs=(1,)), ways=ways)
    assert answer(await run(draft, model)) == "So it was."
    assert "Step 1 (a): Which?\nResult: Green." in said(model)[1]
    assert "What you need to know: It was green." in said(model)[2]


async def test_what_was_known_before_reaches_the_first_step() -> None:
    model = ScriptedModel([json.dumps({"needed": "Ann likes green."}), "Green."])
    draft = drafted(step("Which?", "a"), ways=Ways(observers=False, refinement=False), known=("Ann likes green tea.",))
    await run(draft, model)
    assert "Known from before: Ann likes green tea." in said(model)[0]
    assert "What you need to know: Ann likes green." in said(model)[1]


async def test_a_bad_result_is_done_again_and_then_the_plan_is_changed() -> None:
    new = {"steps": [{"task": "Ask Ann.", "agents": ["b", "b"], "inputs": [1], "expects": "a name"}]}
    model = ScriptedModel(
        [
            "Coffee.",
            checked("do it again", False, "It is about tea."),
            "Cocoa.",
            checked("change the plan", False, "Hopeless."),
            json.dumps(new),
            "Ann says green.",
            checked(),
        ]
    )
    ways = Ways(refinement=False, memory=False)
    events = await run(drafted(step("Which?", "a"), step("Why?", "b", inputs=(1,)), ways=ways), model)
    assert answer(events) == "Ann says green."
    assert "To do better: It is about tea." in said(model)[2]
    assert "numbered from 3" in said(model)[4]
    assert "Result of step 1: Cocoa." in said(model)[5]
    about = [event.about for event in events if isinstance(event, Decided)]
    assert about == ["check 1.0", "check 1.1", "plan 1.1", "check 3.0"]


async def test_a_changed_plan_that_cannot_be_used_is_asked_for_again() -> None:
    def plan(*inputs: int) -> str:
        return json.dumps({"steps": [{"task": "Go.", "agents": ["a"], "inputs": list(inputs), "expects": "-"}]})

    ways = Ways(refinement=False, memory=False, changes=1)
    draft = drafted(step("1", "a"), step("2", "a", inputs=(1,)), ways=ways)
    for held in (True, False):
        scripted = ScriptedModel(["x", checked("change the plan"), plan(3), plan(1), "went", checked()])
        model = scripted if held else scripted | RunnableLambda(lambda said: said)  # which no grammar holds
        assert answer(await all_of(team_of(draft, Staff(model)).events("Tea."))) == "went"
        wrong = "= 3 is none of [1]" if held else "Step 3 builds on step 3"
        assert wrong in "".join(str(message.content) for message in scripted.asked[3].messages)


async def test_an_observer_that_is_never_content_is_stopped() -> None:
    new = {"steps": [{"task": "Go on.", "agents": ["a"], "inputs": [], "expects": "more"}]}
    model = ScriptedModel(["x", checked("change the plan"), json.dumps(new), "y", checked("go on", False, "Bad.")])
    ways = Ways(refinement=False, memory=False, repeats=0, changes=1)
    events = await run(drafted(step("1", "a"), ways=ways), model)
    assert answer(events) == "y"  # what the plan was changed for is no part of the answer
    assert model.left == 0
    last = [event for event in events if isinstance(event, Decided)][-1]
    assert [option.value["next"] for option in last.decision.options] == ["go on"]


async def test_what_needs_a_result_that_failed_is_not_done() -> None:
    draft = drafted(step("When?", "clock"), step("So?", "a", inputs=(1,)), specialists={"clock": "cron"})
    broken = ScriptedModel(["Nonsense.", "Nonsense."])
    hired = Agent("cron", broken, output=r"\d+")

    class Strict(Staff):
        def agent(self, given: DraftedAgent) -> Agent:
            return Agent("clock", broken, output=r"\d+") if given.name == "clock" else super().agent(given)

    events = await all_of(team_of(draft, Strict(ScriptedModel([]), {"cron": ""}, lambda _: hired, {})).events("Tea."))
    assert answer(events) == "Not done: it needs the result of step 1, which failed."


async def test_a_budget_ends_it_with_what_it_has() -> None:
    model = ScriptedModel(["Green.", "never asked"])
    draft = drafted(step("Which?", "a"), step("Why?", "b", inputs=(1,)), budget=Allowance(steps=1))
    events = await run(draft, model)
    assert answer(events) == "Green."
    assert [event.limit for event in events if isinstance(event, LimitReached)] == ["steps"]


async def test_a_draft_that_cannot_work_says_all_that_is_wrong() -> None:
    draft = Draft(
        task="Tea.",
        agents=(DraftedAgent(name="a", tools=("telescope",)), DraftedAgent(name="a", specialist="nobody")),
        steps=(step("1", "b", inputs=(2,)), step("2", "a", inputs=(1,)), step("3", "a", inputs=(9,))),
    )
    with pytest.raises(PlanError) as raised:
        team_of(draft, Staff(ScriptedModel([])))
    for told in (
        "agents[2].name: two agents are called 'a'",
        "agents[2].specialist: there is no specialist 'nobody'",
        "agents[1].tools[1]: nobody has a tool 'telescope'",
        "steps[1].agents[1]: there is no agent 'b'",
        "steps[3].inputs[1]: there is no step 9",
        "steps 1 and 2 build on each other, a cycle without a limit",
    ):
        assert told in str(raised.value)


async def test_a_run_of_a_draft_is_resumed_and_played_back(tmp_path: Path) -> None:
    draft = drafted(step("Which?", "a"), step("Why?", "b", inputs=(1,)), ways=Ways(refinement=False))

    def reply(messages: Sequence[BaseMessage]) -> str:
        asked = str(messages[-1].content)
        if "need to know?" in asked:
            return json.dumps({"needed": "Green."})
        if "Is it good?" in asked:
            return checked()
        return "Why not." if "The step: Why?" in asked else "Green."

    def team(model: ScriptedModel) -> Any:
        return team_of(draft, Staff(model))

    with Journal(tmp_path / "journal.db") as journal:
        whole = ScriptedModel([reply] * 5)
        events = await all_of(begin(journal, team(whole), draft.task))
        assert (answer(events), whole.left) == ("Why not.", 0)
        done = journal.runs()[0].id
        entries = len(list(journal.entries(done)))
        asked = []
        for cut in range(1, entries):
            rest = ScriptedModel([reply] * 5)
            went_on = await all_of(resume(journal, journal.fork(done, cut), team(rest)))
            assert answer(went_on) == "Why not."
            asked.append(len(rest.asked))
        assert asked[0] == 5
        assert asked == sorted(asked, reverse=True)  # nothing that was finished is done again
        assert [event async for event in replay(journal, done, team(ScriptedModel([])))] == events

"""Plans, and the loop that carries them out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from plural import sync
from plural.agents import Agent, handoff_to, mark, tool
from plural.agents.schema import violations
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.errors import EngineStopped, LimitError, PlanError, RunError
from plural.teams import PLAN_SCHEMA, Planner, Router, work
from plural.teams.insisting import TRIES
from plural.teams.journal import Journal, begin, replay, resume
from plural.teams.planner import Plan, fill_in
from plural.testing import ScriptedModel, calling
from plural.types import (
    Event,
    Grammar,
    Message,
    Planned,
    Routed,
    RunFinished,
    Sampling,
    Step,
    StepFinished,
    StepStarted,
    TextDelta,
)
from tests.engine.tiny import CONFIG, tiny_base

LABELS = ["base", "cron", "home", "planner"]


class LabelEmbedder:
    """A text lies where the first label in it lies; a text without one lies with the base."""

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return [axis(next((label for label in LABELS if label in text), "base")) for text in texts]


def axis(label: str) -> list[float]:
    return [float(label == each) for each in LABELS]


ROUTER = Router.fit({label: [axis(label)] * 4 for label in LABELS})


def plan_of(*tasks: str) -> str:
    return json.dumps({"steps": [{"task": task} for task in tasks]})


async def run(request: str, plan: str | None = None, *, max_steps: int = 6, **agents: Any) -> list[Event]:
    members = {"base": [], "cron": [], "home": []} | agents
    team = {
        name: made if isinstance(made, Agent) else Agent(name, ScriptedModel(made)) for name, made in members.items()
    }
    planner = Planner(ScriptedModel([plan] if plan else []))
    return [
        event
        async for event in work(
            request, router=ROUTER, planners=[planner], agents=team, embedder=LabelEmbedder(), max_steps=max_steps
        )
    ]


def only(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# --------------------------------------------------------------------------------------------------- plans
async def test_a_plan_is_asked_for_under_its_grammar() -> None:
    tokens = [{"token": "x", "logprob": math.log(0.5)}, {"token": "y", "logprob": math.log(0.8)}]
    said = AIMessage(plan_of("a", "b with #1"), response_metadata={"logprobs": {"content": tokens}})
    model = ScriptedModel([said])
    plan = await Planner(model, instructions="Split it.").plan("Do a, then b.")
    assert plan.steps == (Step("a"), Step("b with #1", after=(1,)))
    assert plan.probability == pytest.approx(0.4)
    assert model.asked[0].grammar == Grammar.json_schema(PLAN_SCHEMA)
    assert [message.content for message in model.asked[0].messages] == ["Split it.", "Do a, then b."]


async def test_a_plan_without_log_probabilities_has_no_probability() -> None:
    assert (await Planner(ScriptedModel([plan_of("a")])).plan("Do a.")).probability is None


@settings(deadline=None)
@given(
    edges=st.lists(st.sets(st.integers(1, 6), max_size=3), min_size=1, max_size=6),
)
def test_any_plan_has_its_references_or_is_refused(edges: list[set[int]]) -> None:
    tasks = [" and ".join(["do", *(f"#{earlier}" for earlier in after)]) for after in edges]
    planner = Planner(ScriptedModel([plan_of(*tasks)] * TRIES))
    if all(earlier < number for number, after in enumerate(edges, start=1) for earlier in after):
        steps = asyncio.run(planner.plan("Go.")).steps
        assert [set(step.after) for step in steps] == edges
    else:
        with pytest.raises(PlanError, match="refers to #"):
            asyncio.run(planner.plan("Go."))


@settings(deadline=None)
@given(number=st.integers(1, 6), task=st.text("a #0123456789\n\x1f", max_size=10))
def test_the_form_of_a_plan_allows_what_can_be_carried_out_and_nothing_else(number: int, task: str) -> None:
    """Its patterns are what a grammar holds a planner to."""
    steps = [*[{"task": "do"}] * (number - 1), {"task": task}]
    told = [int(found) for found in re.findall("#([0-9]+)", task)]
    exact = not re.search("#0", task) and all(1 <= earlier < number for earlier in told)
    fine = exact and task[:1].strip() != "" and task[0] != "\x1f"
    assert (violations({"steps": steps}, PLAN_SCHEMA) == []) == fine


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (plan_of("do #1"), r"step 1 \('do #1'\) refers to #1, itself"),
        (plan_of("do #2", "b"), "refers to #2, a later step"),
        (plan_of("a", "do #3"), "refers to #3, a step that is not there"),
        (plan_of("a", "do #0"), "refers to #0, no step"),
        (plan_of("a", "  "), r"steps\[1\].task has 0 characters"),
        (plan_of("a" * 401), "more than 400"),
        (plan_of(), "fewer than 1"),
        (plan_of(*"abcdefg"), "more than 6"),
        ('{"steps": [{"task": "a"', "not JSON"),
        ('{"steps": 5}', "not of type array"),
        ('{"steps": [{"task": "a", "who": "b"}]}', "'who'"),
    ],
)
async def test_plans_that_cannot_be_carried_out(text: str, says: str) -> None:
    model = ScriptedModel([text] * TRIES)
    with pytest.raises(PlanError, match=rf"planner was asked 3 times.*{says}"):
        await Planner(model).plan("Go.")
    assert re.search(says, str(model.asked[1].messages[-1].content))


async def test_a_plan_that_cannot_be_used_is_asked_for_again_with_the_reason() -> None:
    scripted = ScriptedModel(["I would do a, then b.", plan_of("do #2", "b"), plan_of("a", "b with #1")])
    model = scripted | RunnableLambda(lambda said: said)  # which no grammar holds
    plan = await Planner(model, instructions="Split it.").plan("Do a, then b.")
    assert (plan.steps, plan.tries) == ((Step("a"), Step("b with #1", after=(1,))), 3)
    asked = [[str(message.content) for message in each.messages] for each in scripted.asked]
    assert [each[:2] for each in asked] == [["Split it.", "Do a, then b."]] * 3
    assert "not JSON" in asked[1][2]
    assert "refers to #2, a later step" in asked[2][2]
    assert plan.usage.completion == sum(
        len(text.split()) for text in ("I would do a, then b.", plan_of("do #2", "b"), plan_of("a", "b with #1"))
    )


async def test_a_plan_that_was_asked_for_again_is_played_back(tmp_path: Path) -> None:
    plans = [plan_of("do #2", "b"), plan_of("cron", "home")]
    with Journal(tmp_path / "journal.db") as journal:
        worked = Worked(ROUTER, plans, base=[], cron=["seven"], home=["on"])
        events = await all_of(begin(journal, worked, "planner: both"))
        again = Worked(ROUTER, [], base=[], cron=[], home=[])
        assert await all_of(resume(journal, journal.runs()[0].id, again)) == events
        assert [step.task for step in only(events, Planned)[0].steps] == ["cron", "home"]


def test_plans_of_a_base_that_knows_nothing_are_never_malformed() -> None:
    """Nothing but the grammar gives them their form; none is asked for again."""
    small = tiny_base(replace(CONFIG, max_positions=1024))
    with contextlib.closing(Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings())) as engine:
        model = ChatPlural(engine=engine, base=small, model_name="tiny", sampling=Sampling(temperature=1.0))

        async def plans() -> list[Plan]:
            seeded = [Planner(model.bind(seed=seed), letters=3) for seed in range(40)]
            return await asyncio.gather(*(planner.plan("Go.") for planner in seeded))

        found = sync.run(plans())
    assert {plan.tries for plan in found} == {1}
    assert {len(plan.steps) for plan in found} > {1, 2, 3}


# --------------------------------------------------------------------------------------------------- one agent
async def test_one_specialist_answers() -> None:
    events = await run("cron please", cron=["0 7 * * *"])
    assert [type(event) for event in events][:2] == [Routed, StepStarted]
    assert only(events, Routed)[0].decision.value == "cron"
    assert only(events, Routed)[0].decision.probability > 0.5
    assert events[-1].answer == "0 7 * * *"  # type: ignore[union-attr]
    assert len(only(events, RunFinished)) == 1


async def test_only_the_base_reads_what_was_said_before() -> None:
    models = {name: ScriptedModel(["ok"]) for name in ("base", "cron", "home")}
    team = {name: Agent(name, model) for name, model in models.items()}
    history = [Message("user", "I am Ada."), Message("assistant", "Hello Ada.")]
    for request in ("Who am I?", "cron please"):
        planner = Planner(ScriptedModel([]))
        run = work(request, router=ROUTER, planners=[planner], agents=team, embedder=LabelEmbedder(), history=history)
        assert [event async for event in run]
    assert [message.content for message in models["base"].asked[0].messages] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert [message.content for message in models["cron"].asked[0].messages] == ["cron please"]


async def test_without_a_router_the_only_agent_or_the_base_answers() -> None:
    for names, expected in [(["cron"], "cron"), (["cron", "base"], "base")]:
        team = {name: Agent(name, ScriptedModel([name])) for name in names}
        events = [event async for event in work("x", router=None, planners=[], agents=team, embedder=LabelEmbedder())]
        assert events[-1].answer == expected  # type: ignore[union-attr]


async def test_a_planner_may_have_any_name() -> None:
    team = {name: Agent(name, ScriptedModel([name])) for name in ("base", "cron", "home")}
    labels = {"splitter" if label == "planner" else label: [axis(label)] * 4 for label in LABELS}
    planner = Planner(ScriptedModel([plan_of("cron", "home")]), name="splitter")
    arguments: dict[str, Any] = {"router": Router.fit(labels), "agents": team, "embedder": LabelEmbedder()}
    events = [event async for event in work("planner please", planners=[planner], **arguments)]
    assert events[-1].answer == "cron: cron\nhome: home"  # type: ignore[union-attr]
    with pytest.raises(PlanError, match="knows 'splitter', which is no agent"):
        async for _ in work("planner please", planners=[], **arguments):
            pass


async def test_of_several_planners_the_router_says_which_one_plans() -> None:
    team = {name: Agent(name, ScriptedModel([name])) for name in ("base", "home")}
    labels = {{"cron": "unchain"}.get(label, label): [axis(label)] * 4 for label in LABELS}
    arguments: dict[str, Any] = {"router": Router.fit(labels), "agents": team, "embedder": LabelEmbedder()}
    for asked, planned in (("planner please", ["home"]), ("cron please", ["home", "planner", "cron"])):
        plans = {"planner": plan_of("home"), "unchain": plan_of("home", "planner", "cron")}
        planners = [Planner(ScriptedModel([plan]), name=name) for name, plan in plans.items()]
        team["home"] = Agent("home", ScriptedModel(["done"] * 3))
        team["base"] = Agent("base", ScriptedModel(["done"] * 3))
        events = [event async for event in work(asked, planners=planners, **arguments)]
        assert [step.task for step in only(events, Planned)[0].steps] == planned
        # A step is planned by nobody once more, whoever planned it.
        assert all(event.decision.value in team for event in only(events, Routed) if event.step)


async def test_one_agents_failure_is_raised() -> None:
    with pytest.raises(LimitError, match="too long"):
        await run("cron please", cron=[LimitError("too long")])


def waiting(name: str) -> Agent:
    @mark(approval=True)
    @tool
    def delete(path: str) -> str:
        """Delete a file."""
        raise AssertionError(path)

    return Agent(name, ScriptedModel([calling(("delete", {"path": "a"}))]), tools=[delete])


async def test_a_network_has_nobody_to_ask_and_follows_no_handover() -> None:
    with pytest.raises(PlanError, match=r"cron waits for a person's approval of delete. Ask the agent itself"):
        await run("cron", cron=waiting("cron"))
    leaving = ScriptedModel([calling(("hand_over_to_home", {"task": "x"}))])
    with pytest.raises(PlanError, match="cron hands over to home"):
        await run("cron", cron=Agent("cron", leaving, tools=[handoff_to("home")]))
    events = await run("planner", plan_of("cron", "home"), cron=waiting("cron"), home=["Lights."])
    ended = {event.agent: event for event in events if isinstance(event, StepFinished)}
    assert (ended["cron"].failed, ended["home"].failed) == (True, False)


async def test_teams_that_cannot_work() -> None:
    base = Agent("base", ScriptedModel([]))
    with pytest.raises(PlanError, match="knows 'cron', which is no agent"):
        async for _ in work("x", router=ROUTER, planners=[], agents={"base": base}, embedder=LabelEmbedder()):
            pass
    with pytest.raises(PlanError, match="no agent 'base'"):
        async for _ in work("x", router=None, planners=[], agents={}, embedder=LabelEmbedder()):
            pass


# --------------------------------------------------------------------------------------------------- a plan at work
async def test_a_later_step_reads_the_answer_of_an_earlier_one() -> None:
    events = await run("planner", plan_of("cron: seven", "home: light at #1"), cron=["7:00"], home=["done"])
    assert only(events, Planned)[0].steps == (Step("cron: seven"), Step("home: light at #1", after=(1,)))
    assert {event.step: event.decision.value for event in only(events, Routed)} == {0: "planner", 1: "cron", 2: "home"}
    assert [event.task for event in only(events, StepStarted)] == ["cron: seven", "home: light at 7:00"]
    assert {event.step for event in only(events, TextDelta)} == {1, 2}
    assert events[-1].answer == "done"  # type: ignore[union-attr]
    assert len(only(events, RunFinished)) == 1


async def test_a_run_costs_its_plan_and_its_steps() -> None:
    events = await run("planner", plan_of("cron", "home"), cron=["a b"], home=["c d e"])
    finished = only(events, RunFinished)[0]
    steps = only(events, StepFinished)
    plan_words = len(plan_of("cron", "home").split())
    assert finished.usage.completion == plan_words + sum(step.usage.completion for step in steps) == plan_words + 5
    assert finished.answer == "cron: a b\nhome: c d e"


async def test_steps_that_need_nothing_from_each_other_run_at_once() -> None:
    meeting = asyncio.Barrier(2)

    @tool
    async def meet() -> str:
        """Wait for the other."""
        await asyncio.wait_for(meeting.wait(), 30)
        return "met"

    def member(name: str) -> Agent:
        return Agent(name, ScriptedModel([calling(("meet", {})), f"{name} met"]), tools=[meet])

    events = await run(
        "planner", plan_of("cron", "home", "base #1 #2"), cron=member("cron"), home=member("home"), base=["both"]
    )
    assert events[-1].answer == "both"  # type: ignore[union-attr]
    assert only(events, StepStarted)[-1].task == "base cron met home met"


async def test_a_failed_step_is_visible_and_the_run_ends() -> None:
    events = await run("planner", plan_of("cron", "home with #1", "base"), cron=[LimitError("too long")], base=["fine"])
    finished = {event.step: event for event in only(events, StepFinished)}
    assert {number: event.failed for number, event in finished.items()} == {1: True, 2: True, 3: False}
    assert "too long" in finished[1].answer
    assert "step 1, which failed" in finished[2].answer
    assert [event.agent for event in only(events, StepStarted)] != ["home"]
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert "base: fine" in last.answer
    assert "step 1, which failed" in last.answer


async def test_a_stopped_engine_ends_the_run() -> None:
    with pytest.raises(EngineStopped):
        await run("planner", plan_of("cron", "home"), cron=[EngineStopped("closed")], home=["fine"])


async def test_a_step_never_plans_again() -> None:
    events = await run("planner", plan_of("planner"), base=["x"], cron=["x"], home=["x"])
    step = next(event for event in only(events, Routed) if event.step == 1)
    assert step.decision.value in ("base", "cron", "home")
    assert events[-1].answer == "x"  # type: ignore[union-attr]


async def test_a_plan_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitError, match=r"3 steps. Raise max_steps"):
        await run("planner", plan_of("cron", "home", "base"), max_steps=2)


# ------------------------------------------------------------------------------------------------- in a journal
async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


class Worked:
    """A network's loop as what works on a run."""

    def __init__(self, router: Router, plan: Sequence[str], **members: Sequence[Any]) -> None:
        self.agents = {name: Agent(name, ScriptedModel(replies)) for name, replies in members.items()}
        self.router, self.planner = router, Planner(ScriptedModel(plan))

    def events(self, input: Any, config: Any = None) -> Any:
        return work(
            input,
            router=self.router,
            planners=[self.planner],
            agents=self.agents,
            embedder=LabelEmbedder(),
            config=config,
        )


async def test_a_run_goes_on_although_the_network_changed_since(tmp_path: Path) -> None:
    plan = plan_of("cron at 7", "home, use #1")
    with Journal(tmp_path / "journal.db") as journal:
        first = Worked(ROUTER, [plan], base=[], cron=["0 7 * * *"], home=["Set to 0 7 * * *."])
        events = await all_of(begin(journal, first, "planner: both"))
        run = journal.runs()[0].id
        assert await all_of(replay(journal, run)) == events
        # Another router would route everything to the base, and another planner would plan something else.
        other = Router.fit({label: [axis("base"), axis("home")] * 2 for label in LABELS}, threshold=0.9)
        moved = Worked(other, [plan_of("nothing")], base=[], cron=[], home=["Set to 0 7 * * *."])
        routed = next(entry.seq for entry in journal.entries(run) if getattr(entry.what, "step", None) == 2)
        fork = journal.fork(run, routed)
        again = await all_of(resume(journal, fork, moved))
        assert only(again, RunFinished)[0].answer == only(events, RunFinished)[0].answer
        assert only(again, Planned) == only(events, Planned)


@pytest.mark.parametrize("fraction", ["2/3", "-26/3", "1/7000000"])
def test_the_calculator_s_fractions_are_filled_in_exactly(fraction: str) -> None:
    calculate = pytest.importorskip("plural.agents.toolbox").calculate
    said = str(calculate.invoke({"expression": fraction}))
    assert said.startswith("about ")
    assert fill_in("Calculate #1*3.", {1: said}) == f"Calculate {fraction}*3."
    assert fill_in("Say #1.", {1: "about 3 = three, or so"}) == "Say about 3 = three, or so."


async def test_a_step_is_routed_by_what_it_is_asked_when_earlier_answers_are_in_it() -> None:
    """As planned it says `#1`, which no example of a specialist says."""
    plan = plan_of("cron", "what follows #1")
    events = await run("planner", plan, cron=["about 0.667 = home"], home=["lamp"], base=["nothing"])
    assert [(event.task, event.decision.value) for event in only(events, Routed) if event.step] == [
        ("cron", "cron"),
        ("what follows home", "home"),
    ]
    assert events[-1].answer == "lamp"  # type: ignore[union-attr]


async def test_a_specialist_that_was_removed_is_named_and_the_run_can_still_be_seen(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        events = await all_of(begin(journal, Worked(ROUTER, [], base=[], cron=["* * * * *"], home=[]), "cron"))
        run = journal.runs()[0].id
        fork = journal.fork(run, 2)  # routed, and not yet answered
        few = Router.fit({label: [axis(label)] * 4 for label in LABELS if label != "cron"})
        with pytest.raises(RunError, match="goes to 'cron', which is not in the network any more"):
            await all_of(resume(journal, fork, Worked(few, [], base=[], home=[])))
        assert await all_of(replay(journal, run)) == events

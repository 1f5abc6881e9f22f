"""A team as a Runnable: patterns over real agents with scripted models, in a journal and without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from plural.agents import Agent, Budget, handoff_to, mark, tool
from plural.agents.toolbox import sandbox
from plural.errors import PlanError, SettingsError
from plural.evals import fit_temperature
from plural.teams import Proxy, Team, runs_code, stop
from plural.teams.journal import Journal, begin, replay, resume
from plural.teams.patterns import debate, graph, handoff, ledger, map_items, round_robin, selector, vote
from plural.testing import ScriptedModel, calling
from plural.types import (
    Decided,
    Decision,
    Event,
    LimitReached,
    Option,
    Question,
    Routed,
    RunFinished,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolReturned,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


async def all_of(events: AsyncIterable[Event]) -> list[Event]:
    return [event async for event in events]


def agent(name: str, *replies: Any, **options: Any) -> Agent:
    return Agent(name, ScriptedModel(replies), description=f"{name}'s part", **options)


def asked(one: Agent, call: int = 0) -> str:
    model = one.model
    assert isinstance(model, ScriptedModel)
    return str(model.asked[call].messages[-1].content)


def duo(rounds: int = 2) -> Team:
    writer = agent("writer", "A draft.", "A text.")
    critic = agent("critic", "Too short.", "Good.")
    return Team("duo", [writer, critic], round_robin(["writer", "critic"], rounds=rounds))


async def test_the_events_of_a_team() -> None:
    team = duo()
    events = await all_of(team.events("Write."))
    told = [(event.step, event.agent) for event in events if isinstance(event, StepStarted)]
    assert told == [(1, "writer"), (2, "critic"), (3, "writer"), (4, "critic")]
    assert asked(team.members["writer"], 1) == "Write.\nwriter: A draft.\ncritic: Too short."
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert finished.answer == "Good."
    parts = [event.usage for event in events if isinstance(event, StepFinished)]
    assert finished.usage.completion == sum(part.completion for part in parts) == 7


async def test_events_and_tags_reach_every_member() -> None:
    """LangChain's own events, where a team is a part of a chain."""

    @tool
    def count(text: str) -> int:
        """Count the letters of a text."""
        return len(text)

    writer = agent("writer", calling(("count", {"text": "abc"})), "Three letters.", tools=[count])
    critic = agent("critic", "Good.")
    team = Team("duo", [writer, critic], round_robin(["writer", "critic"], rounds=1))
    chain = team | RunnableLambda(str.upper)
    seen: list[Any] = []
    config: Any = {"tags": ["mine"], "metadata": {"for": "Ann"}}
    async for event in chain.astream_events("Write.", config=config, version="v2"):
        seen.append(event)
    assert all("mine" in event["tags"] for event in seen if event["event"].startswith(("on_chat_model", "on_tool")))
    assert all(event["metadata"]["for"] == "Ann" for event in seen)
    said = [event["data"]["output"].text for event in seen if event["event"] == "on_chat_model_end"]
    assert said == ["", "Three letters.", "Good."]
    assert [event["data"]["output"].content for event in seen if event["event"] == "on_tool_end"] == ["3"]
    streamed = [event["data"]["chunk"].text for event in seen if event["event"] == "on_chat_model_stream"]
    assert "".join(streamed) == "Three letters.Good."
    by_id = {event["run_id"]: event for event in seen if event["event"].endswith("_start")}
    parents = [{by_id[one]["name"] for one in event["parent_ids"] if one in by_id} for event in seen
               if event["event"] == "on_chat_model_start"]  # fmt: skip
    assert all("duo" in each for each in parents)
    assert seen[-1]["data"]["output"] == "GOOD."


async def test_it_is_a_runnable() -> None:
    assert duo().invoke("Write.") == "Good."
    assert list(duo().stream("Write.")) == ["Good."]
    assert (duo() | RunnableLambda(str.upper)).invoke("Write.") == "GOOD."
    twice = Team("w", [agent("writer", "One.", "Two.")], round_robin(["writer"], rounds=1))
    assert sorted(twice.batch(["Write.", "Write."])) == ["One.", "Two."]
    boss = agent("boss", calling(("duo", {"input": "Write."})), "It says: Good.", tools=[duo().as_tool()])
    assert boss.invoke("Have it written.") == "It says: Good."
    drawn = duo().get_graph().draw_mermaid()
    assert "writer --> critic" in drawn
    with pytest.raises(SettingsError, match="does not know temperature"):
        duo().invoke("Write.", temperature=1)


async def test_the_next_speaker_is_a_choice_with_its_probability() -> None:
    members = [agent("cook", "Soup."), agent("waiter", "Served.")]
    team = Team(
        "inn", members, selector(["cook", "waiter"], may_end=True), model=ScriptedModel(["cook", "waiter", "nobody"])
    )
    events = await all_of(team.events("Lunch."))
    routed = [event.decision for event in events if isinstance(event, Routed)]
    assert [(decision.value, decision.probability) for decision in routed] == [
        ("cook", 1),
        ("waiter", 1),
        ("nobody", 1),
    ]
    assert [option.value for option in routed[1].options] == ["waiter", "nobody"]
    assert events[-1].answer == "Served."  # type: ignore[union-attr]


async def test_a_conversation_is_handed_over() -> None:
    desk = agent(
        "desk", calling(("hand_over_to_repair", {"task": "The lamp is broken."})), tools=[handoff_to("repair")]
    )
    repair = agent("repair", "It works again.")
    team = Team("shop", [desk, repair], handoff(["desk", "repair"]))
    assert await team.ainvoke("My lamp!") == "It works again."
    assert asked(repair) == "My lamp!\ndesk: The lamp is broken."


async def test_members_work_at_once_and_one_that_fails_does_not_stop_the_others() -> None:
    meeting = asyncio.Barrier(2)

    @tool
    async def meet() -> str:
        """Wait for the other one."""
        await asyncio.wait_for(meeting.wait(), 20)
        return "met"

    members = [agent(name, calling(("meet", {})), "yes", tools=[meet]) for name in ("a", "b")]
    lost = agent("c", calling(("meet", {})), budget=Budget(steps=1))
    team = Team("three", [*members, lost], vote(["a", "b"]))
    assert await team.ainvoke("Do you agree?") == "yes"
    cut = agent("c", calling(("nothing", {})), budget=Budget(steps=1))
    crowd = Team("crowd", [agent("a", "yes"), cut], debate(["a", "c"], rounds=1))
    events = await all_of(crowd.events("Do you agree?"))
    failed = [event for event in events if isinstance(event, StepFinished) and event.failed]
    assert [event.agent for event in failed] == ["c"]
    assert events[-1].answer == "yes"  # type: ignore[union-attr]


async def test_a_member_that_is_asked_nothing_says_so_and_ends_nobody() -> None:
    """The 2,000 drafted runs found a step whose task was a space."""
    team = Team("items", [agent("a", "done")], map_items("a", ["tea", " "]))
    events = await all_of(team.events("Two things."))
    assert {event.task: False for event in events if isinstance(event, StepStarted)} == {"tea": False}
    assert sorted(event.failed for event in events if isinstance(event, StepFinished)) == [False, True]
    assert isinstance(events[-1], RunFinished)


async def test_a_team_can_be_a_member() -> None:
    inner = duo()
    outer = Team("press", [inner, agent("printer", "Printed.")], graph([("duo", "printer")]))
    events = await all_of(outer.events("A leaflet."))
    assert [(event.step, event.agent) for event in events if isinstance(event, StepFinished)] == [
        (1, "duo"),
        (2, "printer"),
    ]
    assert asked(outer.members["printer"]) == "A leaflet.\nduo: Good."


async def test_members_vote_with_their_probabilities() -> None:
    team = Team("jury", [agent("a", "guilty"), agent("b", "guilty")], vote(["a", "b"], options=["guilty", "innocent"]))
    events = await all_of(team.events("Well?"))
    assert [(event.by, event.decision.value) for event in events if isinstance(event, Decided)] == [
        ("a", "guilty"),
        ("b", "guilty"),
    ]
    assert events[-1].answer == "guilty"  # type: ignore[union-attr]


async def test_a_ledger_keeps_facts_plan_and_progress() -> None:
    def look(satisfied: bool, instruction: str = "Go.") -> str:
        fields = {
            "satisfied": satisfied,
            "in_loop": False,
            "progressing": True,
            "next": "worker",
            "instruction": instruction,
        }
        return json.dumps(fields)

    written = [json.dumps({"text": text}) for text in ("It is dark.", "Light a lamp.")]
    answer = json.dumps({"text": "There is light."})
    model = ScriptedModel([*written, look(False, "Find a match."), look(True), answer])
    worker = agent("worker", "I have a match.")
    team = Team("lamp", [worker], ledger(["worker"]), model=model)
    assert await team.ainvoke("Make light.") == "There is light."
    assert asked(worker) == "Make light.\n\nFind a match."


async def test_code_that_was_written_is_run() -> None:
    ran: list[str] = []

    def sandbox(code: str) -> str:
        ran.append(code)
        return str(eval(code))

    coder = agent("coder", "Let me see.\n```python\n6 * 7\n```", "It is 42. DONE")
    user = Proxy("user", runs_code(sandbox))
    team = Team("math", [coder, user], round_robin(["coder", "user"]), stop=stop.says("DONE", by="coder"))
    events = await all_of(team.events("Six times seven?"))
    assert ran == ["6 * 7\n"]
    assert asked(coder, 1).endswith("user: The code ran:\n42")
    assert [event.result for event in events if isinstance(event, ToolReturned)] == ["The code ran:\n42"]
    assert events[-1].answer == "It is 42. DONE"  # type: ignore[union-attr]


async def test_a_sandbox_of_the_toolbox_runs_what_was_written(journal: Journal) -> None:
    pytest.importorskip("pydantic_monty")

    def team(coder: Agent) -> Team:
        user = Proxy("user", runs_code(sandbox()), idempotent=True)
        return Team("math", [coder, user], round_robin(["coder", "user"]), stop=stop.says("DONE", by="coder"))

    program = "```python\ndef double(n):\n    return 2 * n\nprint(double(21))\n```"
    coder = agent("coder", program, "```\nopen('/etc/passwd')\n```", "```\n6 *\n```", "It is 42. DONE")
    events = await all_of(begin(journal, team(coder), "Twice twenty-one?"))
    assert asked(coder, 1).endswith("user: The code ran:\n42\n")
    assert "open" in asked(coder, 2)
    assert "SyntaxError" in asked(coder, 3)
    assert "root:" not in str(events)
    assert events[-1].answer == "It is 42. DONE"  # type: ignore[union-attr]
    assert await all_of(resume(journal, journal.runs()[0].id, team(agent("coder")))) == events


async def test_a_vote_counts_calibrated_probabilities() -> None:
    """Ann is always very sure, and was right half of the time."""

    class Says(ScriptedModel):
        yes: float

        async def achoose(self, messages: Any, options: Any) -> Decision[str]:
            shares = sorted((Option("yes", self.yes), Option("no", 1 - self.yes)), key=lambda one: -one.probability)
            return Decision(shares[0].value, shares[0].probability, tuple(shares), "logits")

    voters = [Agent(name, Says([], yes=yes)) for name, yes in {"ann": 0.95, "bob": 0.3, "cy": 0.4}.items()]
    fitted = fit_temperature([[0.95, 0.05]] * 4, [0, 1, 0, 1])
    for temperatures, answer, sure in (({}, "yes", 0.95), ({"ann": fitted}, "no", pytest.approx(0.5, abs=0.02))):
        pattern = vote(["ann", "bob", "cy"], options=["yes", "no"], temperatures=temperatures)
        events = await all_of(Team("jury", voters, pattern).events("Is it?"))
        assert events[-1].answer == answer  # type: ignore[union-attr]
        (decided,) = [event for event in events if isinstance(event, Decided) and event.by == "ann"]
        assert decided.decision.probability == sure


async def test_a_budget_is_shared_and_ends_the_run_with_what_there_is() -> None:
    talker = agent("talker", *["More words."] * 10)
    team = Team("talk", [talker], round_robin(["talker"]), budget=Budget(steps=3))
    events = await all_of(team.events("Talk."))
    assert [event for event in events if isinstance(event, LimitReached)] == [LimitReached(3, "talk", "steps", 3)]
    assert sum(isinstance(event, StepFinished) for event in events) == 3
    assert events[-1].answer == "More words."  # type: ignore[union-attr]
    outer = Team(
        "outer", [Team("talk", [talker], round_robin(["talker"]))], round_robin(["talk"]), budget=Budget(steps=2)
    )
    assert await outer.ainvoke("Talk.") == "More words."  # the inner team draws from the outer one's purse
    assert len(talker.model.asked) == 5  # type: ignore[attr-defined]


async def test_no_team_talks_for_ever() -> None:
    team = Team("talk", [agent("talker", *["Words."] * 10)], round_robin(["talker"]), max_turns=4)
    assert sum(isinstance(event, StepFinished) for event in await all_of(team.events("Talk."))) == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Team("t", [], round_robin(["a"])), "has no members"),
        (lambda: Team("t", [agent("a"), agent("a")], round_robin(["a"])), "Two members of team 't' are called 'a'"),
        (lambda: Team("t", [agent("a")], round_robin(["a", "z"])), "The round robin uses 'z', who is no member"),
        (lambda: Team("t", [agent("a"), agent("b")], selector(["a", "b"])), "needs a model that decides"),
        (lambda: Team("t", [agent("a"), Proxy("b")], vote(["a", "b"], options=["x", "y"])), "'b' has no model"),
        (lambda: Team("t", [agent("a")], round_robin(["a"]), max_turns=0), "must be above 0"),
        (lambda: Team("t", [agent("a")], round_robin(["a"]), budget=Budget(tokens=0)), "must be above 0"),
        (lambda: Team(" ", [agent("a")], round_robin(["a"])), "needs a name"),
    ],
)
def test_what_cannot_work_is_said_at_once(make: Any, said: str) -> None:
    with pytest.raises((PlanError, SettingsError), match=said):
        make()


# ------------------------------------------------------------------------------------------------------ in a journal
async def last(journal: Journal) -> str:
    return journal.runs()[0].id


async def test_a_person_takes_a_turn_and_the_run_waits_for_it(journal: Journal) -> None:
    def team() -> Team:
        guide = ScriptedModel([lambda messages: f"You said: {messages[-1].text.rpartition('user: ')[2]}"] * 3)
        members = [Proxy("user"), Agent("guide", guide)]
        return Team("tour", members, round_robin(["user", "guide"], rounds=2))

    events = await all_of(begin(journal, team(), "Begin."))
    assert [type(event) for event in events] == [StepStarted, Question]
    run = await last(journal)
    assert journal.find(run).status == "waiting"
    assert await all_of(resume(journal, run, team())) == events[1:]  # it still waits, and says for what
    journal.answer(run, "Left!")
    events = await all_of(resume(journal, run, team()))
    assert isinstance(events[-1], Question)
    assert "guide: You said: Left!" in events[-1].text
    journal.answer(run, "Right!")
    events = await all_of(resume(journal, run, team()))
    assert events[-1].answer == "You said: Right!"  # type: ignore[union-attr]
    assert next(event.text for event in events if isinstance(event, TextDelta)) == "Left!"
    assert await all_of(replay(journal, run)) == events
    assert await all_of(replay(journal, run, team())) == events
    with pytest.raises(SettingsError, match="no journal to wait in"):
        await team().ainvoke("Begin.")


@pytest.mark.parametrize(
    ("said", "done"), [("approve", ["logs"]), ("deny: keep them", []), ('{"what": "old logs"}', ["old logs"])]
)
async def test_a_tool_is_approved_after_a_restart(journal: Journal, said: str, done: list[str]) -> None:
    deleted: list[str] = []

    @mark(approval=True)
    @tool
    def delete(what: str) -> str:
        """Delete something."""
        deleted.append(what)
        return f"deleted {what}"

    def team() -> Team:
        def next_(messages: Any) -> Any:
            if messages[-1].type == "tool":
                return f"So: {messages[-1].content}"
            return calling(("delete", {"what": "logs"}))

        return Team("ops", [Agent("op", ScriptedModel([next_] * 3), tools=[delete])], round_robin(["op"], rounds=1))

    events = await all_of(begin(journal, team(), "Clean up."))
    assert isinstance(events[-1], Question)
    assert "May I call delete(what='logs')?" in events[-1].text
    run = await last(journal)
    journal.answer(run, said)
    events = await all_of(resume(journal, run, team()))
    assert deleted == done
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert finished.answer == (f"So: deleted {done[0]}" if done else "So: A person denied this call: keep them")
    assert await all_of(replay(journal, run, team())) == events
    assert deleted == done


def busy(world: list[str]) -> Team:
    """Members at once, one of them a team; a choice; tools that change the world; then a last word."""

    @tool
    def change(what: str) -> str:
        """Change something."""
        world.append(what)
        return f"changed {what}"

    def changer(name: str) -> Agent:
        def next_(messages: Any) -> Any:
            return f"{name} did it." if messages[-1].type == "tool" else calling(("change", {"what": name}))

        return Agent(name, ScriptedModel([next_] * 9), tools=[change])

    def speak(messages: Any) -> str:
        return f"After {str(messages[-1].content).count(':')}."

    pair = Team("pair", [changer("x"), changer("y")], debate(["x", "y"], rounds=1))
    choose = ScriptedModel(["b", "a"] * 9)
    chosen = Team(
        "chosen",
        [Agent("a", ScriptedModel([speak] * 9)), Agent("b", ScriptedModel([speak] * 9))],
        selector(["a", "b"], repeat=True),
        model=choose,
        stop=stop.messages(2),
    )
    return Team(
        "all", [changer("p"), changer("q"), pair, chosen], graph([("p", "pair"), ("q", "pair"), ("pair", "chosen")])
    )


def in_steps(events: list[Event]) -> dict[int, list[Event]]:
    """What happened in each step, in order. Steps that ran at once are told between each other in any order."""
    steps: dict[int, list[Event]] = {}
    for event in events:
        steps.setdefault(getattr(event, "step", 0), []).append(event)
    return steps


async def test_a_team_that_was_cut_off_anywhere_comes_to_the_same_end(journal: Journal) -> None:
    world: list[str] = []
    events = await all_of(begin(journal, busy(world), "Go."))
    run = await last(journal)
    answer = events[-1].answer  # type: ignore[union-attr]
    assert sorted(world) == ["p", "q", "x", "y"]
    assert in_steps(await all_of(replay(journal, run))) == in_steps(events)
    assert in_steps(await all_of(replay(journal, run, busy([])))) == in_steps(events)
    known = list(journal.entries(run))
    for at in range(0, len(known), 3):
        cut, world = journal.fork(run, at), []
        results = [entry.what.result for entry in known[: at + 1] if isinstance(entry.what, ToolReturned)]
        done = [result.split()[-1] for result in results]
        while isinstance((again := await all_of(resume(journal, cut, busy(world))))[-1], Question):
            assert world == []
            journal.answer(cut, "repeat")
        assert sorted([*done, *world]) == ["p", "q", "x", "y"]
        assert again[-1].answer == answer  # type: ignore[union-attr]


async def test_a_map_over_items_is_played_back(journal: Journal) -> None:
    def team() -> Team:
        shout = ScriptedModel([lambda messages: str(messages[-1].content).upper()] * 9)
        return Team("choir", [Agent("singer", shout)], map_items("singer", ["do", "re", "mi"]))

    events = await all_of(begin(journal, team(), "Sing."))
    assert events[-1].answer == "DO\nRE\nMI"  # type: ignore[union-attr]
    run = await last(journal)
    assert (
        await all_of(replay(journal, run, Team("choir", [agent("singer")], map_items("singer", ["do", "re", "mi"]))))
        == events
    )

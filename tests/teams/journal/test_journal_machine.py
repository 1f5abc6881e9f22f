"""Any program, cut off after any entry, any number of times: the same answer, and every effect once."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from langchain_core.messages import AIMessage, BaseMessage

from plural.agents import Agent, mark, tool
from plural.teams.journal import Journal, replay, resume, shown
from plural.teams.journal.entries import Entry, ToolBegun
from plural.testing import ScriptedModel, calling
from plural.types import Event, Question, RunFinished, ToolReturned

CALLS = st.tuples(st.sampled_from(["change", "look", "ask_helper"]), st.integers(0, 3))
PROGRAMS = st.lists(st.lists(CALLS, min_size=1, max_size=3), max_size=3)


@dataclass
class Life:
    """One run, and the world that it changes."""

    program: list[list[tuple[str, int]]]
    world: Counter[str] = field(default_factory=Counter)

    def agent(self) -> Agent:
        @tool
        def change(mark: str) -> str:
            """Change the world."""
            self.world[mark] += 1
            return f"changed {mark}"

        @mark(idempotent=True)
        @tool
        def look(mark: str) -> str:
            """Look at the world, which looks the same to whoever looks again."""
            return f"saw {mark}"

        helper = Agent("ask_helper", ScriptedModel([self._helper] * 20), tools=[change])
        return Agent("worker", ScriptedModel([self._worker] * 5), tools=[change, look, helper])

    def _worker(self, messages: Sequence[BaseMessage]) -> str | AIMessage:
        turn = sum(message.type == "ai" for message in messages)
        if turn == len(self.program):
            return "; ".join(str(message.content) for message in messages if message.type == "tool") or "nothing done"
        calls = [
            (name, {"input" if name == "ask_helper" else "mark": f"{turn}.{at}.{number}"})
            for at, (name, number) in enumerate(self.program[turn])
        ]
        return calling(*calls, text=f"turn {turn}")

    def _helper(self, messages: Sequence[BaseMessage]) -> str | AIMessage:
        errand = messages[0].content
        return f"helped {errand}" if len(messages) > 1 else calling(("change", {"mark": f"helper {errand}"}))

    def answer(self) -> str:
        told = {"change": "changed", "look": "saw", "ask_helper": "helped"}
        calls = [(turn, at, call) for turn, calls in enumerate(self.program) for at, call in enumerate(calls)]
        return "; ".join(f"{told[name]} {turn}.{at}.{n}" for turn, at, (name, n) in calls) or "nothing done"

    def expected(self) -> Counter[str]:
        """Every change of the program, once."""
        return Counter(
            f"{'helper ' if name == 'ask_helper' else ''}{turn}.{at}.{number}"
            for turn, calls in enumerate(self.program)
            for at, (name, number) in enumerate(calls)
            if name != "look"
        )


async def all_of(events: Any) -> list[Event]:
    return [event async for event in events]


class Journals(RuleBasedStateMachine):
    lives: Bundle[str] = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal(Path(self.folder.name) / "journal.db")
        self.known: dict[str, Life] = {}

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    @initialize(target=lives, program=PROGRAMS)
    def first(self, program: list[list[tuple[str, int]]]) -> str:
        return self.begin(program)

    @rule(target=lives, program=PROGRAMS)
    def begin(self, program: list[list[tuple[str, int]]]) -> str:
        run = self.journal.create("Go.")
        self.known[run] = Life(program)
        return run

    @rule(target=lives, run=lives, where=st.floats(0, 1), happened=st.randoms(use_true_random=False))
    def cut(self, run: str, where: float, happened: Any) -> str:
        """Another history of this run: it was killed after one of its entries. Of a call that was open then, the effect
        may have happened or not."""
        entries = list(self.journal.entries(run))
        at = int(where * (len(entries) - 1))
        cut, life = self.journal.fork(run, at), Life(self.known[run].program)
        for change, result in _changes(entries[: at + 1]).items():
            life.world[change] += result is not None or happened.random() < 0.5
        self.known[cut] = life
        return cut

    @rule(run=lives)
    def work(self, run: str) -> None:
        """Goes on to the end; a person who looks at the world answers."""
        life = self.known[run]
        events = asyncio.run(all_of(resume(self.journal, run, life.agent())))
        while isinstance(events[-1], Question):
            for question in events:
                assert isinstance(question, Question)
                assert question.call is not None
                change = question.call.arguments["mark"]
                self.journal.answer(run, f"changed {change}" if life.world[change] else "repeat")
            events = asyncio.run(all_of(resume(self.journal, run, life.agent())))
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        assert finished.answer == life.answer()
        assert +life.world == life.expected()
        assert self.journal.find(run).status == "finished"
        assert asyncio.run(all_of(replay(self.journal, run))) == events
        assert asyncio.run(all_of(replay(self.journal, run, life.agent())))[-1] == finished
        assert +life.world == life.expected()  # a replay changes nothing

    @invariant()
    def entries_are_counted_without_a_gap(self) -> None:
        for run in self.known:
            entries = list(self.journal.entries(run))
            assert [entry.seq for entry in entries] == list(range(len(entries)))
            assert all(isinstance(event, Event) for event in shown(entries))


def _changes(entries: Sequence[Entry]) -> dict[str, str | None]:
    """The changes that were begun, by mark, with their results where they have returned."""
    begun = {entry.path: entry.what for entry in entries if isinstance(entry.what, ToolBegun)}
    returned = {entry.path: entry.what.result for entry in entries if isinstance(entry.what, ToolReturned)}
    return {
        what.call.arguments["mark"]: returned.get(path) for path, what in begun.items() if what.call.name == "change"
    }


TestJournals = Journals.TestCase
TestJournals.settings = settings(
    max_examples=8, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck)
)

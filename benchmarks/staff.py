"""Who may be asked in a comparison of specialists with a generalist: all of them in one library, and each way to find a
chat model for a question.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plural import Network, sync
from plural.agents import Agent, toolbox
from plural.engine.chat import ChatPlural
from plural.errors import ModelError
from plural.evals import ChatAnswerer, Row, Task
from plural.specialists import Card, Library, adapter_digest, read_invocation
from plural.specialists.card import CARD_FILE
from plural.teams.router import without
from plural.types import Decision, Grammar, Message, Sampling, Step
from plural.wiring.generalist import NAMES
from plural.wiring.recipe import Skill

BASE = "base"
SHOTS = 4
BASE_TOKENS = 96  # where no grammar ends its answer: it rarely ends one itself


@dataclass(frozen=True)
class Chosen:
    """Who answers, as a chat model that knows what it is asked, with the names of the tools that it may call, after the
    dialogue that shows it how."""

    who: str
    model: ChatPlural
    tools: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()


# Chooses for a question of a skill; only an oracle looks at the skill's name, or one that has to be told its task.
Choose = Callable[[str, str], Awaitable[Chosen]]


class Staff:
    """All that may answer, over one engine, in at most so many tokens, at a temperature. What a card says is read once,
    before anything is measured."""

    def __init__(
        self, network: Network, skills: Mapping[str, Skill], tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> None:
        router = sync.run(network.router())
        assert router is not None  # specialists have examples
        self.network, self._skills, self._router = network, skills, router
        self._free = min(tokens, BASE_TOKENS)
        self._drawn = Sampling(temperature=temperature, seed=seed)
        self._cards = {one.name: one.card for one in network.mine()}
        self._models = {name: self._limited(network.specialist(name), tokens) for name in self._cards}
        self._models[BASE] = self._limited(network.base, self._free)
        self._planners = {planner.name: planner for planner in network.planners()}

    def base(self, shown: Mapping[str, Sequence[Message]] | None = None, *, told: str = "") -> Choose:
        """Told what the recipe tells it, with the skill's tools and contract; or else `told`, without these."""

        async def choose(skill: str, _: str) -> Chosen:
            known = self._skills[skill]
            model = self.network.model(None, told or known.asked_of_base, output=None if told else known.output)
            ends = not told and (known.output is not None or bool(known.tools))
            limit = known.max_tokens if ends else self._free
            tools = () if told else known.tools
            return Chosen(BASE, self._limited(model, limit), tools, tuple((shown or {}).get(skill, ())))

        return choose

    def generalist(self, name: str) -> Choose:
        """Told what the skill's specialist would be told, with its tools, and held to the same contract. Where no skill
        is named, the router says which one it is."""

        async def choose(skill: str, question: str) -> Chosen:
            card = self._cards[skill or await self._nearest(question)]
            grammar = Grammar(card.output.kind, card.output.source) if card.output else None
            told = {"instructions": card.instructions, "grammar": grammar}
            return Chosen(name, self._models[name].model_copy(update=told), card.tools)

        return choose

    async def right(self, skill: str, _: str) -> Chosen:
        """The oracle router."""
        return self._served(skill)

    async def routed(self, _: str, question: str) -> Chosen:
        return self._served((await self._route(question)).value)

    async def routed_step(self, _: str, question: str) -> Chosen:
        """As in the network, a step is not planned again."""
        return self._served(without(await self._route(question), self._planners).value)

    async def plan(self, question: str) -> Sequence[Step]:
        """The steps of the planner that the router chooses; one, the question itself, where it chooses none. Raises
        PlanError."""
        planner = self._planners.get((await self._route(question)).value)
        return (await planner.plan(question)).steps if planner else [Step(question)]

    async def _nearest(self, question: str) -> str:
        """The most probable specialist, however improbable."""
        decision = await self._route(question)
        return next(one.value for one in decision.options if one.value not in {BASE, *self._planners})

    async def _route(self, question: str) -> Decision[str]:
        return await self._router.route(question, self.network.reader)

    def _served(self, name: str) -> Chosen:
        return Chosen(name, self._models[name], self._cards[name].tools if name != BASE else ())

    def _limited(self, model: ChatPlural, tokens: int) -> ChatPlural:
        return model.model_copy(update={"sampling": replace(self._drawn, max_tokens=tokens)})


async def worked_out(chosen: Chosen, question: str) -> str:
    """The answer after its calls of tools, as the network has it; none where there was none within the limits."""
    agent = Agent(chosen.who, chosen.model, tools=[toolbox.TOOLS[name] for name in chosen.tools])
    said = [(message.role, message.content) for message in chosen.before]
    try:
        return str(await agent.ainvoke([*said, ("user", question)]))
    except ModelError:
        return ""


async def answered(chosen: Chosen, row: Row) -> str:
    """The answer to a test row, which has its own tools: a call of theirs is the answer."""
    return await ChatAnswerer(chosen.model, tool_choice="required").answer([*chosen.before, *row.messages], row.tools)


def shots_of(skill: Skill) -> list[Message]:
    """Training rows as a dialogue; rows with tools carry their own description of what is wanted."""
    rows = skill.train_rows()[:SHOTS]
    if "tools" in rows[0]:
        return []
    shown = Task.of(skill.name, rows, skill.checker).rows
    return [message for one in shown for message in (*one.messages, Message("assistant", one.expected))]


def gathered(library: Path, generalists: Path | None, into: Path) -> list[str]:
    """Copies the specialists into one library and, with cards that no router learns from, the generalists: the names of
    these."""
    for one in Library(library):
        shutil.copytree(one.path, into / one.name)
        base, base_name = one.card.base, one.card.base_name
    if generalists is None:
        return []
    there = [name for name in NAMES if (generalists / name).is_dir()]
    if not there:
        sys.exit(f"There is no generalist: plural school --generalist --out {generalists} makes them.")
    for name in there:
        shutil.copytree(generalists / name, into / name)
        card = Card(
            name=name,
            digest=adapter_digest(into / name),
            base=base,
            base_name=base_name,
            purpose="Is compared with specialists.",
            invocation=read_invocation(into / name),
        )
        (into / name / CARD_FILE).write_text(card.to_json())
    return there

"""Who may be asked in a comparison of specialists with a generalist: each way to find a chat model for a question."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from plural import Network, sync
from plural.engine.chat import ChatPlural
from plural.evals import ChatAnswerer, Task
from plural.types import Grammar, Message, Sampling, ToolSpec
from plural.wiring.recipe import Skill

BASE = "base"
SHOTS = 4
MAX_TOKENS = 256
BASE_TOKENS = 96  # where no grammar ends its answer: it rarely ends one itself


@dataclass(frozen=True)
class Chosen:
    """Who answers, as a chat model that knows what it is asked, after the dialogue that shows it how."""

    who: str
    model: ChatPlural
    before: tuple[Message, ...] = ()


# Chooses for a question of a skill; only an oracle looks at the skill's name, or one that has to be told its task.
Choose = Callable[[str, str], Awaitable[Chosen]]


class Staff:
    """All that may answer, over one engine. What a card says is read once, before anything is measured."""

    def __init__(self, network: Network, skills: Mapping[str, Skill]) -> None:
        router = sync.run(network.router())
        assert router is not None  # specialists have examples
        self._network, self._skills, self._router = network, skills, router
        self._cards = {one.name: one.card for one in network.mine()}
        self._models = {name: _limited(network.specialist(name)) for name in self._cards} | {
            BASE: _limited(network.base, BASE_TOKENS)
        }
        # As in the network, of several planners one plans, and a step is not planned again.
        self._planner = next((card.name for card in self._cards.values() if card.kind == "planner"), "")

    def base(self, shown: Mapping[str, Sequence[Message]] | None = None, *, told: str = "") -> Choose:
        """Told what a skill's recipe tells it, under the skill's contract; or `told` something else, without one."""

        async def choose(skill: str, _: str) -> Chosen:
            known = self._skills[skill]
            model = self._network.model(None, told or known.asked_of_base, output=None if told else known.output)
            ends = not told and (known.output is not None or bool(known.tools))
            limit = known.max_tokens if ends else BASE_TOKENS
            return Chosen(BASE, _limited(model, limit), tuple((shown or {}).get(skill, ())))

        return choose

    def generalist(self, name: str) -> Choose:
        """Told what the skill's specialist would be told, and held to the same contract."""

        async def choose(skill: str, _: str) -> Chosen:
            card = self._cards[skill]
            grammar = Grammar(card.output.kind, card.output.source) if card.output else None
            told = {"instructions": card.instructions, "grammar": grammar}
            return Chosen(name, self._models[name].model_copy(update=told))

        return choose

    async def right(self, skill: str, _: str) -> Chosen:
        """The oracle router."""
        return Chosen(skill, self._models[skill])

    async def routed(self, _: str, question: str) -> Chosen:
        name = (await self._router.route(question, self._network.base)).value
        return Chosen(name, self._models[name])

    async def routed_step(self, _: str, question: str) -> Chosen:
        decision = await self._router.route(question, self._network.base)
        barred = decision.value == self._planner
        name = decision.options[1].value if barred else decision.value
        return Chosen(name, self._models[name])


def _limited(model: ChatPlural, tokens: int = MAX_TOKENS) -> ChatPlural:
    return model.model_copy(update={"sampling": Sampling(max_tokens=tokens)})


async def answered(chosen: Chosen, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
    return await ChatAnswerer(chosen.model, tool_choice="required").answer([*chosen.before, *messages], tools)


def shots_of(skill: Skill) -> list[Message]:
    """Training rows as a dialogue; rows with tools carry their own description of what is wanted."""
    rows = skill.train_rows()[:SHOTS]
    if "tools" in rows[0]:
        return []
    shown = Task.of(skill.name, rows, skill.checker).rows
    return [message for one in shown for message in (*one.messages, Message("assistant", one.expected))]

"""Who may be asked in a comparison of specialists with a generalist: each way to find a chat model for a question."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from plural import Network
from plural.engine.chat import ChatPlural
from plural.evals import ChatAnswerer, Task
from plural.types import Grammar, Message, Sampling, ToolSpec
from plural.wiring.recipe import Skill

SHOTS = 4
MAX_TOKENS = 200  # of an answer with its steps; the base, which knows no end, gets fewer
BASE_TOKENS = 48


@dataclass(frozen=True)
class Chosen:
    """Who answers, as a chat model that knows what it is asked, after the dialogue that shows it how."""

    who: str
    model: ChatPlural
    before: tuple[Message, ...] = ()


# Chooses for a question of a skill; only an oracle looks at the skill's name, or one that has to be told its task.
Choose = Callable[[str, str], Awaitable[Chosen]]


@dataclass(frozen=True)
class Staff:
    """All that may answer, over one engine."""

    network: Network
    skills: Mapping[str, Skill]

    def base(self, shown: Mapping[str, Sequence[Message]] | None = None, *, told: str = "") -> Choose:
        async def choose(skill: str, _: str) -> Chosen:
            known = self.skills[skill]
            model = self.network.model(None, told or known.asked_of_base, output=None if told else known.output)
            held = not told and (known.output is not None or bool(known.tools))
            limit = known.max_tokens if held else BASE_TOKENS
            return Chosen("base", _limited(model, limit), tuple((shown or {}).get(skill, ())))

        return choose

    def generalist(self, name: str) -> Choose:
        """Told what the skill's specialist would be told, and held to the same contract."""

        async def choose(skill: str, _: str) -> Chosen:
            card = self.network.library.get(skill).card
            grammar = Grammar(card.output.kind, card.output.source) if card.output else None
            told = {"instructions": card.instructions, "grammar": grammar}
            return Chosen(name, _limited(self.network.specialist(name).model_copy(update=told)))

        return choose

    async def right(self, skill: str, _: str) -> Chosen:
        """The oracle router."""
        return Chosen(skill, _limited(self.network.specialist(skill)))

    async def routed(self, skill: str, question: str) -> Chosen:  # noqa: ARG002 - the skill is what it has to find out
        return await self._routed(question, barred="")

    async def routed_step(self, skill: str, question: str) -> Chosen:  # noqa: ARG002
        """As the network does it: a step is not planned again."""
        planners = [one.name for one in self.network.mine() if one.card.kind == "planner"]
        return await self._routed(question, barred=planners[0] if planners else "")

    async def _routed(self, question: str, *, barred: str) -> Chosen:
        router = await self.network.router()
        assert router is not None  # specialists have examples
        decision = await router.route(question, self.network.base)
        name = decision.value
        if name == barred:
            name = next(option.value for option in decision.options if option.value != barred)
        if name == "base":
            return Chosen(name, _limited(self.network.base, BASE_TOKENS))
        return Chosen(name, _limited(self.network.specialist(name)))


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

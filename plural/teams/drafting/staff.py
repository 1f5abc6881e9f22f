"""Who can be hired for a draft, and the team that is made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from langchain_core.tools import BaseTool

from plural.agents.agent import Agent, constrainable
from plural.agents.budget import Price
from plural.agents.decisions import Model
from plural.errors import PlanError
from plural.teams.drafting.drafts import GENERAL, Draft, DraftedAgent
from plural.teams.drafting.working import carry_out
from plural.teams.team import Team
from plural.types import Decision


@dataclass(frozen=True)
class Staff:
    """`general` is the chat model that plans and observes, and that is every agent whom no specialist suits; `price` is
    what its tokens cost.

    `specialists` are names with what each is for; `hire` makes an agent of one. `route` says whom a task suits: one of
    them, or "base" when it is not sure.
    """

    general: Model
    specialists: Mapping[str, str] = field(default_factory=dict)
    hire: Callable[[str], Agent] | None = None
    tools: Mapping[str, BaseTool] = field(default_factory=dict)
    route: Callable[[str], Awaitable[Decision[str]]] | None = None
    price: Price = Price()

    def agent(self, drafted: DraftedAgent) -> Agent:
        tools = [self.tools[name] for name in drafted.tools]
        if drafted.specialist != GENERAL:
            assert self.hire is not None  # the draft was checked: there is such a specialist
            hired = self.hire(drafted.specialist)
            more = [each for each in tools if each.name not in {own.name for own in hired.tools}]
            return Agent(
                drafted.name,
                hired.model,
                tools=[*hired.tools, *more],
                price=hired.price,
                description=drafted.description,
            )
        told = "\n\n".join(text for text in (drafted.prompt, drafted.suggestions) if text)
        return Agent(
            drafted.name,
            self.general,
            instructions=told,
            tools=tools,
            price=self.price,
            description=drafted.description,
        )


def check(draft: Draft, staff: Staff) -> None:
    """Raises PlanError that names all that is wrong, and where."""
    faults = list(draft.faults(staff.specialists, staff.tools))
    if faults:
        raise PlanError(f"The team cannot work: {'; '.join(map(str, faults))}.", hint="Change the draft.")


def team_of(draft: Draft, staff: Staff, *, name: str = "team") -> Team:
    """The team, which works on the task that it is invoked with: the draft's own, or another one (`Draft.about`).

    Raises:
        PlanError: the draft cannot be carried out by this staff.
    """
    check(draft, staff)
    pattern = carry_out(draft, exact=constrainable(staff.general))
    members = [staff.agent(agent) for agent in draft.agents]
    return Team(
        name,
        members,
        pattern,
        model=staff.general,
        price=staff.price,
        budget=draft.budget.budget,
        max_turns=_most_turns(draft),
        description=draft.task,
    )


def _most_turns(draft: Draft) -> int:
    """More than its limits allow it to have, so that they are what ends it."""
    ways = draft.ways
    planned = max(len(draft.steps), draft.sizes.steps if ways.approve else 0)  # a person may write another plan
    steps = planned + ways.changes * draft.sizes.steps
    return 1 + steps * (1 + ways.repeats) * max(ways.attempts, ways.talks * len(draft.agents))

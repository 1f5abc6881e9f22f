"""Teams over a network: its specialists are the staff; its planner specialist, its base or any chat model plans."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable

from plural.agents import Budget, Price, Purse, spending
from plural.errors import RunError, SettingsError
from plural.teams.drafting import Draft, Missing, Sizes, Staff, Ways, check, draft, draft_by_specialist, team_of
from plural.types import Decided, Decision, Event, LimitReached, Planned, Routed, RunFinished
from plural.wiring.network import BASE, Network
from plural.wiring.runs import EventStream, within
from plural.wiring.tracing import traced

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from plural.agents.decisions import Model
    from plural.teams import Team

# Who plans: the planner specialist and the router, the base itself, or MODULE:NAME of any LangChain chat model.
PLANNER = "planner"
_KIND = "team"
_REMEMBERED = 3


def staff_of(network: Network, by: str = PLANNER, price: Price | None = None) -> Staff:
    """The network's specialists and tools. `by` names the model that is everybody else, and `price` is what its tokens
    cost.

    Raises:
        SettingsError: there is no such model, or a price of the planner specialist, which computes here.
    """
    if price is not None and by == PLANNER:
        raise SettingsError("The planner specialist has no price.", hint="Give another --by, or leave --price out.")
    purposes = {name: network.library.get(name).card.purpose for name in network.names()}

    async def route(task: str) -> Decision[str]:
        router = await network.router()
        return await router.route(task, network.reader) if router else Decision(BASE, 1.0)

    general = network.base if by in (PLANNER, BASE) else _model(by)
    return Staff(general, purposes, network.agent, network.tools, route, price or Price())


async def drafted(
    network: Network,
    task: str,
    *,
    by: str = PLANNER,
    price: Price | None = None,
    ways: Ways = Ways(),
    sizes: Sizes = Sizes(),
    may_lack: bool = True,
    budget: Budget = Budget(),
) -> AsyncIterator[Routed | Planned | Decided | LimitReached | Draft | Missing]:
    """The decisions on the way to a draft, and the draft, or the skill that is missing. With `may_lack` False the base
    does what no specialist can. `budget` is what drafting may cost; used up, the last whole draft stands."""
    staff, config = staff_of(network, by, price), spending(Purse(budget, "drafting"))
    if by == PLANNER:
        planners, approve = network.planners(), ways.approve
        drafting = draft_by_specialist(task, staff, planners, may_lack=may_lack, approve=approve, config=config)
        async for each in drafting:
            yield each
        return
    known = [each.memory.text for each in await network.memory().recall(task, _REMEMBERED)] if ways.memory else []
    how: dict[str, Any] = {"ways": ways, "sizes": sizes, "known": known, "may_lack": may_lack, "config": config}
    async for made in draft(task, staff, **how):
        yield made


def run(
    network: Network, made: Draft, task: str | None = None, *, by: str = PLANNER, price: Price | None = None
) -> EventStream:
    """The team works on the draft's task, or another one; in the journal, if the network has one. What it comes to is
    remembered for later drafts, unless the draft does without memory.

    Raises:
        PlanError: the draft cannot be carried out by this network, or not on that task (`Draft.about`).
    """
    if network.settings.journal is not None:
        return resume(network, enter(network, made, task, by=by, price=price), by)
    asked = task or made.task
    team = team_of(made, staff_of(network, by, price))
    events = traced(network.settings, _KIND, lambda told: aiter(team.events(asked, told)))
    return EventStream(_remembered(network, made, asked, events))


def enter(
    network: Network,
    made: Draft,
    task: str | None = None,
    *,
    by: str = PLANNER,
    price: Price | None = None,
    about: Mapping[str, Any] | None = None,
    client: str | None = None,
) -> str:
    """A new run of the team in the journal, which nobody works on yet. `about` is kept with it.

    Raises:
        PlanError: as `run` does.
    """
    asked = task or made.task
    check(made, staff_of(network, by, price))
    made.about(asked)
    target = {
        "kind": _KIND,
        "task": asked,
        "draft": made.model_dump(mode="json"),
        "base": network.base_model.digest,
        "by": by,
        **({"price": asdict(price)} if price else {}),
        **(about or {}),
    }
    return network.journal.create(asked, target, title=asked, client=client)


def resume(network: Network, name: str, by: str | None = None, *, remember: bool = True) -> EventStream:
    """Goes on with a run of the network, or of a team. `remember` says whether what it comes to is kept for drafts.

    Raises:
        RunError: it was begun on another base, or with a chat model that `by` does not name.
    """
    from plural.teams import journal as journals

    found = network.journal.find(name).id
    target = network.journal.target(found)
    if target.get("kind") != _KIND:
        return network.resume(found)
    if target["base"] != network.base_model.digest:
        raise RunError(f"Run {found} was begun on another base.", hint="Give that one with --base.")
    if target["by"] not in (PLANNER, BASE, by):  # what a journal says is data: it does not say what is imported
        raise RunError(f"Run {found} was begun by {target['by']}.", hint=f"Give --by {target['by']}.")
    made = Draft.model_validate(target["draft"])
    price = Price(**target["price"]) if "price" in target else None
    team: Team = team_of(made, staff_of(network, target["by"], price))
    instead = network.agent(target["with"]).model if "with" in target else None

    def work(told: RunnableConfig | None) -> AsyncIterator[Event]:
        return journals.resume(network.journal, found, team, within(target, told), instead=instead)

    events = traced(network.settings, _KIND, work)
    return EventStream(_remembered(network, made, target["task"], events) if remember else events, found)


async def _remembered(network: Network, made: Draft, task: str, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events. What the whole run came to is kept; what its steps did is in the journal."""
    async for event in events:
        if isinstance(event, RunFinished) and made.ways.memory and event.answer.strip():
            text = f"{task}\n{event.answer}"
            await asyncio.to_thread(network.memory().remember, text, kind="result", source=_KIND)
        yield event


def _model(by: str) -> Model:
    """The chat model that a name in a module stands for."""
    module, _, name = by.partition(":")
    hint = f"Give {PLANNER}, {BASE}, or MODULE:NAME of a LangChain chat model."
    if not name:
        raise SettingsError(f"Nobody called {by!r} can plan.", hint=hint)
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"The chat model {by} cannot be imported: {error}.", hint=hint) from error
    if not isinstance(found, Runnable):
        raise SettingsError(f"{by} is {found!r:.80}, which is no chat model.", hint=hint)
    return found

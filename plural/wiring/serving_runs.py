"""The server's runs (plural/serve/backend.py): of the network, of offered agents and teams; of saved teams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from plural.agents import Budget
from plural.errors import PlanError, PromptError, RunError, SettingsError, StorageError, unknown_name
from plural.serve.backend import RunOrder
from plural.teams import Team
from plural.teams import journal as journals
from plural.teams.drafting import Draft, Missing, check, read_team, team_of, write_team
from plural.types import Event
from plural.wiring import drafting, runs
from plural.wiring.network import BASE, MIXED, WEIGHT, Network
from plural.wiring.offers import Offers
from plural.wiring.speakers import NETWORK, as_langchain
from plural.wiring.tracing import traced

TEAM = "team/"  # what a saved team's model id begins with
_KIND = "offered"
_MOST_TEAMS = 1000


class ServedRuns:
    """A `Runner`. Its teams lie in a folder, as `plural draft --save` writes them."""

    def __init__(self, network: Network, offers: Offers, teams: Path) -> None:
        self.network, self.offers = network, offers
        self.journal = network.journal
        self._folder = teams

    # -------------------------------------------------------------------------------------------------------- runs
    def enter(self, order: RunOrder) -> str:
        about = {"model": order.model, "metadata": dict(order.metadata), **runs.budgeted(order.budget)}
        team = order.team or self._saved(order.model)
        if team is not None:
            task = _one(order, "A team") if order.messages else None
            if order.approve:
                team = team.model_copy(update={"ways": team.ways.model_copy(update={"approve": True})})
            return drafting.enter(self.network, team, task, about=about, client=order.client)
        if not order.messages or order.messages[-1].role != "user":
            raise PromptError("The input does not end with what a user says.", hint="Say what you want.")
        *history, last = order.messages
        if order.model in self.offers.workers:
            return self._enter_offered(order, about)
        to = None if order.model == NETWORK else order.model
        if to is not None:
            self.check_speaker(to)
        if history and to not in (None, BASE):
            raise PromptError(f"{to} reads only what it is asked, no conversation.", hint="Give one message.")
        return runs.enter(
            self.journal,
            self.network.base_model.digest,
            last.content,
            to=to,
            history=history,
            approve=order.approve,
            about=about,
            client=order.client,
        )

    def resume(self, run: str) -> AsyncIterator[Event]:
        target = self.journal.target(run)
        if target.get("kind") != _KIND:
            return aiter(drafting.resume(self.network, run, remember=False))
        worker = self.offers.workers.get(target["name"])
        if worker is None:
            raise RunError(f"Run {run} was begun by {target['name']!r}, which is not offered.", hint="Give --offer.")
        instead = self.network.agent(target["with"]).model if "with" in target else None
        return traced(
            self.network.settings,
            worker.name,
            lambda told: journals.resume(self.journal, run, worker, runs.within(target, told), instead=instead),
        )

    def check_speaker(self, name: str) -> None:
        if MIXED in name or WEIGHT in name:
            self.network.mixed(name)
        elif name not in (BASE, *self.network.names()):
            raise unknown_name("specialist", name, [BASE, *self.network.names()])

    # ------------------------------------------------------------------------------------------------------- teams
    def team(self, model: str) -> Team | None:
        """The team of a model id that is a saved one's. Raises SpecialistError when that is not there."""
        draft = self._saved(model)
        return None if draft is None else team_of(draft, drafting.staff_of(self.network), name=model.replace("/", "-"))

    def teams(self) -> Mapping[str, Draft]:
        """Those that can be carried out as the library stands."""
        staff = drafting.staff_of(self.network)
        found: dict[str, Draft] = {}
        for path in sorted(self._folder.glob("*.yaml")):
            try:
                found[path.stem] = read_team(path, staff.specialists, staff.tools)
            except PlanError:  # a specialist of it is gone; it is a team again when that comes back
                continue
        return found

    def save_team(self, name: str, team: Draft) -> None:
        check(team, drafting.staff_of(self.network))
        path = self._folder / f"{name}.yaml"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists() and sum(1 for _ in self._folder.glob("*.yaml")) >= _MOST_TEAMS:
                raise SettingsError(f"There are {_MOST_TEAMS} teams already.", hint="Delete one.")
            partial = path.with_name(f".{name}.partial")
            write_team(team, partial)
            partial.replace(path)
        except OSError as error:
            raise StorageError(f"Team {name!r} could not be kept: {error.strerror}.") from error

    def drop_team(self, name: str) -> None:
        try:
            (self._folder / f"{name}.yaml").unlink()
        except FileNotFoundError:
            raise unknown_name("team", name, self.teams()) from None

    async def draft(self, task: str, *, by: str, settle: bool, budget: Budget) -> Draft | Missing:
        made: Draft | Missing | None = None
        async for each in drafting.drafted(self.network, task, by=by, may_lack=not settle, budget=budget):
            if isinstance(each, Draft | Missing):
                made = each
        assert made is not None  # what drafting ends with
        return made

    # ------------------------------------------------------------------------------------------------------ inside
    def _saved(self, model: str) -> Draft | None:
        """Raises SpecialistError for a team's id that no team has."""
        if not model.startswith(TEAM):
            return None
        teams = self.teams()
        if model.removeprefix(TEAM) not in teams:
            raise unknown_name("team", model.removeprefix(TEAM), teams)
        return teams[model.removeprefix(TEAM)]

    def _enter_offered(self, order: RunOrder, about: Mapping[str, Any]) -> str:
        worker = self.offers.workers[order.model]
        runs.check_approval(worker.name, order.approve)
        target = {"kind": _KIND, "name": worker.name, **about}
        last = order.messages[-1].content
        given: Any = last
        if len(order.messages) > 1:
            if isinstance(worker, Team):
                given = _one(order, "A team")
            given = list(map(as_langchain, order.messages))
        return self.journal.create(journals.input_to_json(given), target, title=last, client=order.client)


def _one(order: RunOrder, who: str) -> str:
    if len(order.messages) != 1 or order.messages[0].role != "user" or not order.messages[0].content.strip():
        raise PromptError(f"{who} reads one task, no conversation.", hint="Give one text.")
    return order.messages[0].content

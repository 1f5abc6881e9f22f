"""/v1/teams: teams drafted for a task, kept by name; each is a model id, team/NAME."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from plural.errors import DeadlineError, SpecialistError
from plural.serve.admin import Name
from plural.serve.errors import WireError
from plural.serve.running import Runs
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import Deleted, Drafted, Everything, KeptTeam, sends
from plural.serve.wire import Strict
from plural.teams.drafting import Allowance, Draft


class DraftBody(Strict):
    """`by` is who plans: the planner specialist and the router, or the base. With `settle` the base does what no
    specialist can; without it, the answer may be what is missing. `budget` is what drafting may cost."""

    task: Annotated[str, Field(min_length=1, max_length=20_000)]
    by: Literal["planner", "base"] = "planner"
    settle: bool = False
    budget: Allowance = Allowance()


def team_routes(service: Service, runs: Runs) -> APIRouter:
    router = APIRouter(prefix="/v1/teams", dependencies=[needs("use")])

    @router.get("", responses=sends(Everything[KeptTeam]))
    async def list_teams() -> dict[str, Any]:
        """None where no journal is kept, for teams have runs."""
        teams = service.backend.runner.teams() if service.backend.runner else {}
        return {"object": "list", "data": [team_json(name, team) for name, team in teams.items()]}

    @router.post("/draft", responses=sends(Drafted))
    async def draft_team(body: DraftBody, request: Request) -> dict[str, Any]:
        """A team for a task, which nobody keeps: look at it, change it, run it or save it."""
        with service.gate.place(visit_of(request).key.id):
            try:
                async with asyncio.timeout(service.settings.timeout):
                    made = await runs.runner.draft(body.task, by=body.by, settle=body.settle, budget=body.budget.budget)
            except TimeoutError:
                raise DeadlineError(f"No team after {service.settings.timeout} seconds.") from None
        if isinstance(made, Draft):
            return {"object": "draft", "team": made.model_dump(mode="json"), "missing": None}
        return {"object": "draft", "team": None, "missing": dataclasses.asdict(made)}

    @router.get("/{name}", responses=sends(KeptTeam))
    async def retrieve_team(name: Name) -> dict[str, Any]:
        teams = runs.runner.teams()
        if name not in teams:
            raise WireError(404, f"There is no team {name!r}.", code="not_found", param="name")
        return team_json(name, teams[name])

    return router


def team_admin_routes(runs: Runs) -> APIRouter:
    router = APIRouter(prefix="/v1/teams", dependencies=[needs("admin")])

    @router.post("/{name}", responses=sends(KeptTeam))
    async def save_team(name: Name, body: Draft) -> dict[str, Any]:
        """Keeps a team under a name, in place of the one that it had."""
        if name == "draft":
            raise WireError(400, "A team cannot be called 'draft'.", param="name")
        runs.runner.save_team(name, body)
        return team_json(name, body)

    @router.delete("/{name}", responses=sends(Deleted))
    async def delete_team(name: Name) -> dict[str, Any]:
        """Runs that it has begun go on with it as it was."""
        try:
            runs.runner.drop_team(name)
        except SpecialistError as error:
            raise WireError(404, str(error), code="not_found", param="name") from error
        return {"id": f"team/{name}", "object": "team.deleted", "deleted": True}

    return router


def team_json(name: str, team: Draft) -> dict[str, Any]:
    return {"id": f"team/{name}", "object": "team", "name": name, "team": team.model_dump(mode="json")}

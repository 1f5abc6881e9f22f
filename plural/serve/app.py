"""The server as an ASGI app: routes inside, the door around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from plural.errors import PluralError
from plural.serve.a2a import a2a_routes
from plural.serve.admin import admin_routes, library_routes
from plural.serve.admission import Gate
from plural.serve.backend import Backend
from plural.serve.chat import chat_routes
from plural.serve.completions import completion_routes
from plural.serve.door import Door, Keeper, answer_error
from plural.serve.embeddings import embedding_routes
from plural.serve.errors import ErrorBody, WireError, described, refusal, wrong_fields
from plural.serve.files import file_routes
from plural.serve.fine_tuning import fine_tuning_routes
from plural.serve.jobs import Jobs
from plural.serve.keys import Keyring
from plural.serve.metrics import Metrics
from plural.serve.models import model_routes, state_routes
from plural.serve.page import page_routes
from plural.serve.responses import response_routes
from plural.serve.running import Runs
from plural.serve.runs import run_control_routes, run_routes
from plural.serve.service import Service, known_query
from plural.serve.settings import ServeSettings
from plural.serve.store import Store
from plural.serve.stored import stored_routes
from plural.serve.teams import team_admin_routes, team_routes

# What any route may answer beside its own; schemas of refusals for those who read /openapi.json.
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503, 504, 507)
}


class Server:
    """`app` is what an ASGI server runs, `api` what it consists of."""

    def __init__(self, backend: Backend, settings: ServeSettings, keys: Keyring, store: Store, uploads: Path) -> None:
        """`uploads` is the folder for files."""
        gate = Gate(settings.max_inside, settings.max_per_key)
        metrics = Metrics(backend.stats, gate)
        self.service = Service(backend, settings, gate, metrics, store)
        self.jobs, self.runs = Jobs(backend, store, settings.max_jobs), Runs(self.service)
        working = [run_routes(self.runs), run_control_routes(self.runs)]
        teams = [team_routes(self.service, self.runs), team_admin_routes(self.runs)]
        agents = [a2a_routes(self.service, self.runs)]
        training = training_routes(self.service, uploads, self.jobs)
        self.api = _api([*routes(self.service), *training, *working, *teams, *agents], self.jobs, self.runs)
        app: ASGIApp = Keeper(self.api, settings, keys)
        if settings.origins:
            app = CORSMiddleware(
                app,
                allow_origins=list(settings.origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        self.app: ASGIApp = Door(app, settings, metrics)


def routes(service: Service) -> list[APIRouter]:
    return [
        state_routes(service),
        model_routes(service),
        chat_routes(service),
        stored_routes(service),
        response_routes(service),
        completion_routes(service),
        embedding_routes(service),
        library_routes(service),
        admin_routes(service),
        page_routes(),
    ]


def training_routes(service: Service, uploads: Path, jobs: Jobs) -> list[APIRouter]:
    return [file_routes(service, uploads), fine_tuning_routes(service, uploads, jobs)]


def _api(routers: list[APIRouter], jobs: Jobs, runs: Runs) -> FastAPI:
    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        jobs.resume()
        runs.recover()
        yield
        await runs.stop()
        await jobs.stop()

    # No pages of documentation: they would load scripts from elsewhere.
    api = FastAPI(
        title="Plural",
        version=version("plural"),
        docs_url=None,
        redoc_url=None,
        responses=_REFUSALS,
        lifespan=living,
        redirect_slashes=False,  # a redirect would name the host that the client named
        dependencies=[Depends(known_query)],
    )
    for router in routers:
        api.include_router(router)

    @api.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        message, param = wrong_fields(error.errors(), error.body)
        return refusal(400, message, param=param)

    @api.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, f"{error.detail}.", code="not_found" if error.status_code == 404 else None)

    @api.exception_handler(WireError)
    @api.exception_handler(PluralError)
    async def refused(request: Request, error: Exception) -> Response:
        return answer_error(error, request.state.visit)

    @api.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        status, message = described(error)[:2]
        return refusal(status, message)  # it goes on to the door, which logs it

    return api

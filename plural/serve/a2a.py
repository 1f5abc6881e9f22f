"""The network, agents and teams for other agents, by A2A 1.0: a card for each, and one JSON-RPC endpoint.

The protocol's part is the official sdk's. A task is a run, so that nothing of it is kept here: it goes on when its
client is gone, and is found again after a restart. `tenant` of a request is the model id that is asked.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from plural.errors import SpecialistError
from plural.serve.backend import Model
from plural.serve.errors import WireError
from plural.serve.running import Runs
from plural.serve.service import Service, needs

CARD = "/.well-known/agent-card.json"
ENDPOINT = "/a2a"
_TEXT = "text/plain"
_DEFAULT = "network"


def a2a_routes(service: Service, runs: Runs) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])
    # Not before it is asked for: the sdk takes a second to be imported.
    answering = functools.cache(lambda: _dispatcher(runs))

    @router.get(CARD)
    async def agent_card(request: Request) -> JSONResponse:
        """Of the network; its skills are the agents and teams, each with a card of its own."""
        _ = runs.runner
        return JSONResponse(card_json(service.backend.model(_DEFAULT), service.backend.models(), request))

    @router.get("/a2a/{model:path}/agent-card.json")
    async def agent_card_of(model: str, request: Request) -> JSONResponse:
        _ = runs.runner
        try:
            found = service.backend.model(model)
        except SpecialistError as error:
            raise WireError(404, str(error), code="model_not_found", param="model") from error
        return JSONResponse(card_json(found, [found], request))

    @router.post(ENDPOINT, include_in_schema=False)  # its bodies are the protocol's, and so are its errors
    async def answer_agent(request: Request) -> Response:
        _ = runs.runner
        answered: Response = await answering()(request)
        return answered

    return router


def card_json(model: Model, skills: Any, request: Request) -> dict[str, Any]:
    """An agent card. The address is the one by which the client has found it."""
    described = [
        {"id": one.id, "name": one.id, "description": one.purpose or one.id, "tags": ["plural"]} for one in skills
    ]
    return {
        "name": f"Plural: {model.id}",
        "description": model.purpose or model.id,
        "version": version("plural"),
        "supportedInterfaces": [
            {
                "url": str(request.base_url).rstrip("/") + ENDPOINT,
                "protocolBinding": "JSONRPC",
                "protocolVersion": "1.0",
                "tenant": model.id,
            }
        ],
        "capabilities": {"streaming": True, "pushNotifications": False, "extendedAgentCard": False},
        "securitySchemes": {"key": {"httpAuthSecurityScheme": {"scheme": "bearer"}}},
        "securityRequirements": [{"schemes": {"key": {"list": []}}}],
        "defaultInputModes": [_TEXT],
        "defaultOutputModes": [_TEXT],
        "skills": described,
    }


def _dispatcher(runs: Runs) -> Callable[[Request], Awaitable[Response]]:
    """Raises WireError where the sdk is not installed."""
    try:
        from a2a.server.context import ServerCallContext
        from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher

        from plural.serve.a2a_tasks import Tasks
    except ModuleNotFoundError as error:
        raise WireError(
            404, "A2A needs the package 'a2a-sdk': pip install 'plural[a2a]'.", code="not_installed"
        ) from error
    logging.getLogger("a2a").disabled = True  # it would write what clients say
    for name in ("request_handlers", "routes.jsonrpc_dispatcher"):
        logging.getLogger(f"a2a.server.{name}").disabled = True

    class Contexts:
        def build(self, request: Request) -> ServerCallContext:
            return ServerCallContext(state={"key": request.state.visit.key, "headers": dict(request.headers)})

    made = JsonRpcDispatcher(request_handler=Tasks(runs), context_builder=Contexts())
    answer: Callable[[Request], Awaitable[Response]] = made.handle_requests
    return answer

"""/v1/models, and what tells how the server is: /health, /ready, /metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from plural.errors import SpecialistError
from plural.serve.backend import Model
from plural.serve.errors import WireError
from plural.serve.service import Service, needs
from plural.serve.shapes import Deleted, Everything, ServedModel, State, sends


def model_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])

    @router.get("/v1/models", responses=sends(Everything[ServedModel]))
    async def list_models() -> dict[str, Any]:
        named = [_named(service, alias) for alias in service.settings.aliases]
        models = [*service.backend.models(), *named]
        return {"object": "list", "data": [model_json(model, service) for model in models]}

    @router.get("/v1/models/{model:path}", responses=sends(ServedModel))
    async def retrieve_model(model: str) -> dict[str, Any]:
        try:
            return model_json(_named(service, model), service)
        except SpecialistError as error:
            raise WireError(404, str(error), code="model_not_found", param="model") from error

    @router.delete("/v1/models/{model}", dependencies=[needs("admin")], responses=sends(Deleted))
    async def delete_model(model: str) -> dict[str, Any]:
        """Takes a specialist out of the library, with all its versions."""
        await service.backend.remove(_known(service, model))
        return {"id": model, "object": "model", "deleted": True}

    return router


def _named(service: Service, name: str) -> Model:
    """Raises SpecialistError for a name that nobody is asked by."""
    return replace(service.backend.model(service.meant(name)), id=name)


def _known(service: Service, name: str) -> str:
    try:
        service.backend.library.versions(name)
    except SpecialistError as error:
        raise WireError(404, str(error), code="model_not_found", param="model") from error
    return name


def state_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health", responses=sends(State))
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/ready", responses=sends(State))
    async def ready() -> dict[str, str]:
        """New requests are wanted here: not while it drains."""
        if service.draining:
            raise WireError(503, "The server is shutting down.", code="shutting_down", again=5)
        return {"status": "ok"}

    @router.get("/metrics", dependencies=[needs("use")], responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def model_json(model: Model, service: Service) -> dict[str, Any]:
    """OpenAI's fields, vLLM's root, parent and max_model_len, and what a specialist is."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "plural",
        "root": service.backend.base_name,
        "parent": model.parent,
        "max_model_len": service.backend.context,
        "version": model.version,
        "digest": model.digest,
        "purpose": model.purpose,
    }

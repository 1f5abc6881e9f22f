"""Adapters and the library from outside: vLLM's two routes, and which version a name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from plural.errors import SpecialistError
from plural.serve.errors import WireError
from plural.serve.models import model_json
from plural.serve.service import Service, needs
from plural.serve.shapes import Everything, Pinned, Published, ServedModel, WithVersions, sends
from plural.serve.wire import Strict
from plural.specialists import Card, Specialist
from plural.specialists.card import NAME_PATTERN

Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]


# Said beside JSON, which is what refusals are: a route's `response_class` would be said of them, too.
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}


class LoadBody(Strict):
    """vLLM's. `lora_path` is a directory within the library's folder, absolute or relative to it, or within the cache's
    `adapters`."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False


class UnloadBody(Strict):
    lora_name: Name
    lora_int_id: None = None


class PublishBody(Strict):
    """Either `version`, one that the library keeps; or `path`, a directory as for /v1/load_lora_adapter, of an adapter
    and its card, which becomes the next version."""

    version: Annotated[int, Field(ge=1)] | None = None
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    force: bool = False

    def what(self, shelves: Sequence[Path]) -> int | Path:
        if self.version is not None and self.path is None:
            return self.version
        if self.path is None or self.version is not None:
            raise WireError(400, "It is a version or a path that is published: give one of the two.", param="version")
        return guarded(shelves, self.path, "path")


def admin_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("admin")])
    backend = service.backend

    @router.post("/v1/load_lora_adapter", responses=_TEXT)
    async def load_lora_adapter(body: LoadBody) -> Response:
        path = guarded(backend.shelves, body.lora_path, "lora_path")
        await backend.lend(body.lora_name, path, replace=body.load_inplace)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter", responses=_TEXT)
    async def unload_lora_adapter(body: UnloadBody) -> Response:
        try:
            backend.take_back(body.lora_name)
        except SpecialistError as error:
            raise WireError(404, str(error), code="adapter_not_found", param="lora_name") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @router.post("/v1/library/{name}/publish", responses=sends(Published))
    async def publish(name: Name, body: PublishBody) -> Mapping[str, Any]:
        """Lets the name stand for one of its versions, or for an adapter as a new one, through the gate. It takes as
        long as scoring both does."""
        return await backend.publish(name, body.what(backend.shelves), force=body.force)

    @router.post("/v1/library/{name}/rollback", responses=sends(ServedModel))
    async def rollback(name: Name) -> dict[str, Any]:
        _known(service, name)
        return model_json(backend.rollback(name), service)

    @router.post("/v1/library/{name}/pin", responses=sends(Pinned))
    async def pin(name: Name) -> dict[str, Any]:
        _known(service, name)
        await backend.pin(name)
        return {"id": name, "pinned": True}

    @router.delete("/v1/library/{name}/pin", responses=sends(Pinned))
    async def unpin(name: Name) -> dict[str, Any]:
        _known(service, name)
        await backend.unpin(name)
        return {"id": name, "pinned": False}

    return router


def library_routes(service: Service) -> APIRouter:
    """What may be read by everybody who may ask."""
    router = APIRouter(dependencies=[needs("use")])

    @router.get("/v1/library", responses=sends(Everything[Card]))
    async def list_library() -> dict[str, Any]:
        cards = [card_json(specialist) for specialist in service.backend.library]
        return {"object": "list", "data": cards}

    @router.get("/v1/library/{name}", responses=sends(WithVersions))
    async def retrieve_specialist(name: Name) -> dict[str, Any]:
        current, *others = _known(service, name)
        return card_json(current) | {"versions": [card_json(one) for one in others]}

    return router


def card_json(specialist: Specialist) -> dict[str, Any]:
    """The card without the prompts that it keeps for the router: they are somebody's data."""
    return specialist.card.model_dump(mode="json", exclude={"examples"})


def _known(service: Service, name: str) -> list[Specialist]:
    try:
        return service.backend.library.versions(name)
    except SpecialistError as error:
        raise WireError(404, str(error), code="model_not_found", param="name") from error


def guarded(roots: Sequence[Path], given: str, param: str) -> Path:
    """A directory within one of the folders, links followed. Raises WireError for any other, saying no more."""
    for root in roots:
        home = root.resolve()
        try:
            path = (home / given).resolve()
            inside = path.is_relative_to(home) and path != home and path.is_dir()
            if inside and all(file.resolve().is_relative_to(home) for file in path.iterdir()):
                return path
        except (OSError, ValueError, RuntimeError):
            continue
    raise WireError(400, f"{param} is no directory within the library's folder.", param=param)

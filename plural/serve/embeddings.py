"""/v1/embeddings: texts as the router reads them, by the base's mean hidden state."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from plural.serve.completions import Ids
from plural.serve.errors import WireError
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import Embeddings, sends
from plural.serve.wire import Strict
from plural.types import Usage

_MOST = 512
Text = Annotated[str, Field(min_length=1)]


class EmbeddingBody(Strict):
    model: str
    input: Text | Ids | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=_MOST)]
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Field(max_length=128)] | None = None
    dimensions: None = None

    def texts(self) -> Sequence[str | Sequence[int]]:
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]  # then all are
        return self.input


def embedding_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])

    @router.post("/v1/embeddings", responses=sends(Embeddings))
    async def create_embedding(body: EmbeddingBody, request: Request) -> dict[str, Any]:
        visit = visit_of(request)
        base = service.backend.base_id
        if service.meant(body.model) != base:
            service.speaker(body.model, visit)  # a 404 for what is not there
            raise WireError(400, f"Only the base reads texts for embeddings: model is {base!r}.", param="model")
        visit.model, visit.user = base, body.user or ""
        with service.gate.place(visit.key.id):
            vectors, tokens = await service.backend.embed(body.texts())
        visit.usage = Usage(tokens)
        service.metrics.spent(base, visit.usage)
        write = _base64 if body.encoding_format == "base64" else list
        return {
            "object": "list",
            "model": body.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": write(vector)}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    return router


def _base64(vector: Sequence[float]) -> str:
    """Little-endian fp32, which is what every machine that this runs on has."""
    return base64.b64encode(array("f", vector).tobytes()).decode()

"""Chat completions that were asked with `store: true`: retrieved, listed, changed in their metadata, deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from plural.serve.errors import WireError
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import ChatCompletion, Deleted, Page, StoredMessage, sends
from plural.serve.store import Record, page_json
from plural.serve.wire import MOST_METADATA, Metadata, Strict

KIND = "chat"
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]


# A filter as OpenAI's client writes it: metadata[key]=value.
METADATA_FILTER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}


class MetadataBody(Strict):
    metadata: Metadata | None


def keep_answer(service: Service, owner: str, answer: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """`asked` is the request as it came."""
    metadata = asked.get("metadata") or {}
    body = {"answer": dict(answer) | {"metadata": metadata}, "messages": asked["messages"]}
    service.store.put(Record(KIND, answer["id"], owner, body, answer["model"], metadata))


def stored_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])
    store = service.store

    @router.get("/v1/chat/completions", openapi_extra=METADATA_FILTER, responses=sends(Page[ChatCompletion]))
    async def list_chat_completions(
        request: Request,
        after: str | None = None,
        limit: Limit = 20,
        order: Order = "asc",
        model: str | None = None,
    ) -> dict[str, Any]:
        records, more = store.page(
            KIND,
            visit_of(request).key.id,
            after=after,
            limit=limit,
            newest_first=order == "desc",
            model=model,
            metadata=metadata_filter(request),
        )
        return page_json([record.body["answer"] for record in records], more)

    @router.get("/v1/chat/completions/{completion_id}", responses=sends(ChatCompletion))
    async def retrieve_chat_completion(completion_id: str, request: Request) -> Mapping[str, Any]:
        found: Mapping[str, Any] = store.get(KIND, completion_id, visit_of(request).key.id).body["answer"]
        return found

    @router.get("/v1/chat/completions/{completion_id}/messages", responses=sends(Page[StoredMessage]))
    async def list_chat_messages(
        completion_id: str, request: Request, after: str | None = None, limit: Limit = 20, order: Order = "asc"
    ) -> dict[str, Any]:
        record = store.get(KIND, completion_id, visit_of(request).key.id)
        items = [
            {"id": f"{completion_id}-{index}", "content_parts": None} | message
            for index, message in enumerate(record.body["messages"])
        ]
        return paged(items, after=after, limit=limit, order=order)

    @router.post("/v1/chat/completions/{completion_id}", responses=sends(ChatCompletion))
    async def update_chat_completion(completion_id: str, body: MetadataBody, request: Request) -> dict[str, Any]:
        record = store.get(KIND, completion_id, visit_of(request).key.id)
        metadata = body.metadata or {}
        answer: dict[str, Any] = record.body["answer"] | {"metadata": metadata}
        changed = dict(record.body) | {"answer": answer}
        store.put(Record(KIND, completion_id, record.owner, changed, record.model, metadata))
        return answer

    @router.delete("/v1/chat/completions/{completion_id}", responses=sends(Deleted))
    async def delete_chat_completion(completion_id: str, request: Request) -> dict[str, Any]:
        store.delete(KIND, completion_id, visit_of(request).key.id)
        return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}

    return router


def metadata_filter(request: Request) -> dict[str, str]:
    """Raises WireError 400 for more pairs than anything has."""
    asked = request.query_params.items()
    found = {name[9:-1]: value for name, value in asked if name.startswith("metadata[") and name.endswith("]")}
    if len(found) > MOST_METADATA:
        raise WireError(400, f"metadata has at most {MOST_METADATA} pairs, not {len(found)}.", param="metadata")
    return found


def paged(items: list[dict[str, Any]], *, after: str | None, limit: int, order: Order) -> dict[str, Any]:
    """A page of what one record holds. Raises WireError 404 for an `after` that is none of it."""
    if order == "desc":
        items = items[::-1]
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise WireError(404, f"There is no item {after!r}.", code="not_found", param="after")
    start = 0 if after is None else ids.index(after) + 1
    page = items[start : start + limit]
    return page_json(page, start + limit < len(items))

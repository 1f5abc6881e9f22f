"""/v1/responses: the answer as items, whole or as events while it is drawn; and those that were stored."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from plural.serve.chat import Call, calls_of, cut, in_json
from plural.serve.errors import WireError, described
from plural.serve.ids import fresh
from plural.serve.responses_wire import Conversation, ResponseBody
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import Deleted, InputItem, InputTokens, Page, Responded, sends
from plural.serve.store import Record
from plural.serve.stored import Order, paged
from plural.serve.stream import event_stream
from plural.serve.visit import Visit
from plural.types import CutCall, Spoken, Usage

KIND = "response"
# How many responses one may go on from, one after another.
_MOST_BEFORE = 256


def response_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])
    store = service.store

    @router.post("/v1/responses", responses=sends(Responded, or_streams=True))
    async def create_response(body: ResponseBody, request: Request) -> Response:
        visit = visit_of(request)
        speaker = service.speaker(body.model, visit)
        asked = body.asked(_before(service, body.previous_response_id, visit.key.id), service.backend.max_tokens)
        visit.user = body.user or ""

        def keep(answer: Mapping[str, Any]) -> None:
            kept = {"answer": answer, "input": body.items()}
            store.put(Record(KIND, answer["id"], visit.key.id, kept, body.model, body.metadata))

        answer = _Answer(body, keep)
        speech = service.speech(speaker, [asked], visit)
        if body.stream:
            return await event_stream(_events(answer, speech, visit))
        async with aclosing(speech):
            async for piece in speech:
                answer.add(piece)
        return JSONResponse(answer.end(visit.usage))

    @router.post("/v1/responses/input_tokens", responses=sends(InputTokens))
    async def count_input_tokens(body: Conversation, request: Request) -> dict[str, Any]:
        """How many tokens a response would read. Nothing is drawn."""
        visit = visit_of(request)
        service.speaker(body.model, visit)  # a 404 for what is not there
        asked = body.said(_before(service, body.previous_response_id, visit.key.id))
        tokens = await service.backend.count(visit.model, asked)
        return {"object": "response.input_tokens", "input_tokens": tokens}

    @router.get("/v1/responses/{response_id}", responses=sends(Responded, or_streams=True))
    async def retrieve_response(response_id: str, request: Request, stream: bool = False) -> Response:
        """With `stream` it is told as events once more, each text in one piece."""
        found: Mapping[str, Any] = store.get(KIND, response_id, visit_of(request).key.id).body["answer"]
        if stream:
            return await event_stream(_told_again(found))
        return JSONResponse(found)

    @router.delete("/v1/responses/{response_id}", responses=sends(Deleted))
    async def delete_response(response_id: str, request: Request) -> dict[str, Any]:
        store.delete(KIND, response_id, visit_of(request).key.id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(response_id: str, request: Request) -> None:
        store.get(KIND, response_id, visit_of(request).key.id)
        raise WireError(400, "Only a response in the background could be cancelled; leave the stream instead.")

    @router.get("/v1/responses/{response_id}/input_items", responses=sends(Page[InputItem]))
    async def list_input_items(
        response_id: str,
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Order = "desc",
    ) -> dict[str, Any]:
        record = store.get(KIND, response_id, visit_of(request).key.id)
        items = [{"id": f"{response_id}-{index}"} | item for index, item in enumerate(record.body["input"])]
        return paged(items, after=after, limit=limit, order=order)

    return router


def _before(service: Service, previous: str | None, owner: str) -> list[Mapping[str, Any]]:
    """The items of the stored responses that one goes on from, the earliest first."""
    items: list[Mapping[str, Any]] = []
    for _ in range(_MOST_BEFORE):
        if previous is None:
            return items
        record = service.store.get(KIND, previous, owner)
        output = [
            {name: value for name, value in item.items() if value is not None}
            for item in record.body["answer"]["output"]
        ]
        items = [*record.body["input"], *output, *items]
        previous = record.body["answer"]["previous_response_id"]
    raise WireError(400, f"More than {_MOST_BEFORE} responses came before.", param="previous_response_id")


@dataclass(slots=True)
class _Answer:
    body: ResponseBody
    keep: Callable[[Mapping[str, Any]], None]
    id: str = field(default_factory=lambda: fresh("resp_"))
    created: float = field(default_factory=time.time)
    text: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    message_id: str = field(default_factory=lambda: fresh("msg_"))

    def add(self, piece: Spoken) -> None:
        self.text.append(piece.text)
        self.calls += calls_of(piece)
        self.finish = piece.finish or self.finish
        if piece.logprob is not None and self.body.logprobs:
            self.logprobs.append(cut(piece.logprob, self.body.top_logprobs or 0))

    def end(self, usage: Usage) -> dict[str, Any]:
        """The whole response, kept unless it shall not be."""
        cut_off = self.finish == "length"
        made = self.so_far("incomplete" if cut_off else "completed") | {
            "completed_at": None if cut_off else time.time(),
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
            "output": self.output(),
            "usage": _usage(usage),
        }
        if self.body.store is not False:
            self.keep(made)
        return made

    def output(self) -> list[dict[str, Any]]:
        text = "".join(self.text)
        items: list[dict[str, Any]] = []
        if text or not self.calls:
            part = _part(text, self.logprobs if text else [])
            items = [_message(self.message_id, "completed", [part])]
        return items + [_call_item(call) for call in self.calls]

    def so_far(self, status: str) -> dict[str, Any]:
        """What is known from the beginning, as the request said it or as it is by default."""
        body = self.body
        form = body.text.format if body.text else None
        choice = body.tool_choice if body.tool_choice is not None else "auto"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": body.temperature or 0.0,
            "text": {"format": form.model_dump(by_alias=True) if form else {"type": "text"}},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p or 1.0,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }


async def _events(answer: _Answer, speech: AsyncGenerator[Spoken, None], visit: Visit) -> AsyncGenerator[bytes, None]:
    write = _EventWriter(answer.message_id)
    top = answer.body.top_logprobs or 0
    async with aclosing(speech):
        try:
            async for piece in speech:
                answer.add(piece)
                said = b"" if write.begun else write.begin(answer.so_far("in_progress"))
                if piece.text or piece.logprob:
                    said += write.text(piece.text, [cut(piece.logprob, top)] if piece.logprob else [])
                if said:
                    yield said
        except Exception as error:
            if not write.begun:
                raise  # it is answered by a status, since nothing was sent
            status, message, _, _, _ = described(error)
            visit.error = type(error).__name__
            code = "server_error" if status >= 500 else "invalid_prompt"
            failed = answer.so_far("failed") | {"error": {"code": code, "message": message}}
            yield write("response.failed", response=failed)
            return
    yield write.end(answer.end(visit.usage))


async def _told_again(stored: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    """The events of a response that is whole."""
    begun = dict(stored) | {"status": "in_progress", "completed_at": None, "incomplete_details": None}
    begun |= {"output": [], "usage": None}
    write = _EventWriter(next((item["id"] for item in stored["output"] if item["type"] == "message"), ""))
    yield write.begin(begun)
    for item in stored["output"]:
        if item["type"] == "message":
            yield write.text(item["content"][0]["text"], item["content"][0]["logprobs"])
    yield write.end(stored)


class _EventWriter:
    """The events in their order: a message is opened by its first text, and closed before what comes after it."""

    def __init__(self, message_id: str) -> None:
        self._number = 0
        self._message = False
        self.begun = False
        self._message_id = message_id
        self._where = {"item_id": message_id, "output_index": 0, "content_index": 0}

    def __call__(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number} | fields
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()

    def begin(self, first: Mapping[str, Any]) -> bytes:
        self.begun = True
        return self("response.created", response=first) + self("response.in_progress", response=first)

    def text(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> bytes:
        said = b"" if self._message else self._open()
        return said + self("response.output_text.delta", **self._where, delta=text, logprobs=list(logprobs))

    def end(self, whole: Mapping[str, Any]) -> bytes:
        """All that is left to say when the whole response is known."""
        said = b""
        for index, item in enumerate(whole["output"]):
            if item["type"] == "message":
                said += b"" if self._message else self._open()
                said += self._close(item)
            else:
                said += self._call(item, index)
        return said + self(f"response.{whole['status']}", response=whole)

    def _open(self) -> bytes:
        self._message = True
        added = self("response.output_item.added", output_index=0, item=_message(self._message_id, "in_progress", []))
        return added + self("response.content_part.added", **self._where, part=_part("", []))

    def _close(self, item: Mapping[str, Any]) -> bytes:
        (part,) = item["content"]
        done = self("response.output_text.done", **self._where, text=part["text"], logprobs=part["logprobs"])
        done += self("response.content_part.done", **self._where, part=part)
        return done + self("response.output_item.done", output_index=0, item=item)

    def _call(self, item: Mapping[str, Any], index: int) -> bytes:
        where = {"item_id": item["id"], "output_index": index}
        begun = dict(item) | {"arguments": "", "status": "in_progress"}
        said = self("response.output_item.added", output_index=index, item=begun)
        said += self("response.function_call_arguments.delta", **where, delta=item["arguments"])
        said += self("response.function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"])
        return said + self("response.output_item.done", output_index=index, item=item)


def _message(id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": id, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _call_item(call: Call) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id.removeprefix('call_')}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": in_json(call.arguments),
        "status": "incomplete" if isinstance(call, CutCall) else "completed",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.prompt - usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }

"""/v1/chat/completions: asked, drawn, and written as OpenAI writes it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from plural.serve.chat_wire import ChatBody
from plural.serve.ids import fresh
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import ChatCompletion, sends
from plural.serve.stored import keep_answer
from plural.serve.stream import DONE, event_stream
from plural.serve.visit import Visit
from plural.types import CutCall, Spoken, ToolCall, Usage, event_to_json

Call = ToolCall | CutCall


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])

    @router.post("/v1/chat/completions", responses=sends(ChatCompletion, or_streams=True))
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        visit = visit_of(request)
        speaker = service.speaker(body.model, visit)
        asked = body.asked(service.backend.max_tokens)
        visit.user = body.user or ""
        speech = service.speech(speaker, [asked], visit, events=bool(body.events))
        answer = Answer.begun(body.model, service.backend.digest)

        def whole() -> dict[str, Any]:
            made = answer.whole(visit.usage, top=body.top_logprobs or 0, logprobs=bool(body.logprobs))
            if body.store:
                keep_answer(service, visit.key.id, made, body.model_dump(mode="json", exclude_none=True))
            return made

        if body.stream:
            return await event_stream(_chunks(answer, speech, body, visit, whole))
        async with aclosing(speech):
            async for piece in speech:
                answer.add(piece)
        return JSONResponse(whole())

    return router


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    calls: tuple[Call, ...] = ()
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Spoken) -> None:
        self.text.append(piece.text)
        self.calls += calls_of(piece)
        self.finish = piece.finish or self.finish
        if piece.logprob is not None:
            self.logprobs.append(piece.logprob)


@dataclass(slots=True)
class Answer:
    """All answers to one request, as far as they are drawn."""

    id: str
    created: int
    model: str
    fingerprint: str
    choices: dict[int, _Choice] = field(default_factory=dict)

    @classmethod
    def begun(cls, model: str, digest: str) -> Answer:
        return cls(fresh("chatcmpl-"), int(time.time()), model, fingerprint(digest))

    def add(self, piece: Spoken) -> None:
        self.choices.setdefault(piece.which, _Choice()).add(piece)

    def whole(self, usage: Usage, *, top: int, logprobs: bool) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": [self._choice(which, top, logprobs) for which in sorted(self.choices)],
            "usage": usage_json(usage),
        }

    def _choice(self, which: int, top: int, logprobs: bool) -> dict[str, Any]:
        choice = self.choices[which]
        text = "".join(choice.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if choice.calls else ""),
            "refusal": None,
        }
        if choice.calls:
            message["tool_calls"] = [call_json(call) for call in choice.calls]
        content = [cut(token, top) for token in choice.logprobs]
        return {
            "index": which,
            "message": message,
            "logprobs": {"content": content, "refusal": None} if logprobs else None,
            "finish_reason": choice.finish,
        }


async def _chunks(
    answer: Answer, speech: AsyncGenerator[Spoken, None], body: ChatBody, visit: Visit, whole: Callable[[], object]
) -> AsyncGenerator[bytes, None]:
    write = _ChunkWriter(answer, body)
    async with aclosing(speech):
        async for piece in speech:
            if body.store and piece.event is None:
                answer.add(piece)
            if chunk := write(piece):
                yield chunk
    if body.store:
        whole()
    yield write.end(visit.usage) + DONE


class _ChunkWriter:
    """One for each stream, since it is what every token passes through: what all chunks begin with is made once."""

    def __init__(self, answer: Answer, body: ChatBody) -> None:
        head = {
            "id": answer.id,
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.model,
            "system_fingerprint": answer.fingerprint,
        }
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        if self._with_usage:
            head["usage"] = None
        self._head = head
        self._begin = f"data: {json.dumps(head)[:-1]}, "
        self._top = body.top_logprobs or 0
        self._begun: set[int] = set()

    def __call__(self, piece: Spoken) -> bytes:
        """Empty for a piece that shows nothing."""
        if piece.event is not None:
            return _event(self._head | {"choices": [], "plural": event_to_json(piece.event)})
        delta: dict[str, Any] = {}
        if piece.which not in self._begun:
            self._begun.add(piece.which)
            delta = {"role": "assistant", "content": ""}
        if piece.text:
            delta["content"] = piece.text
        written = b""
        if delta or piece.logprob is not None:
            written = self._chunk(piece.which, delta, piece.logprob, None)
        if made := calls_of(piece):
            calls = [call_json(call) | {"index": index} for index, call in enumerate(made)]
            written += self._chunk(piece.which, {"tool_calls": calls}, None, None)
        if piece.finish is not None:
            written += self._chunk(piece.which, {}, None, piece.finish)
        return written

    def _chunk(
        self, which: int, delta: Mapping[str, Any], logprob: Mapping[str, Any] | None, finish: str | None
    ) -> bytes:
        said = "null" if logprob is None else json.dumps({"content": [cut(logprob, self._top)], "refusal": None})
        choice = (
            f'"index": {which}, "delta": {json.dumps(delta)}, "logprobs": {said}, "finish_reason": {json.dumps(finish)}'
        )
        return f'{self._begin}"choices": [{{{choice}}}]}}\n\n'.encode()

    def end(self, usage: Usage) -> bytes:
        if not self._with_usage:
            return b""
        return _event(self._head | {"choices": [], "usage": usage_json(usage)})


def _event(chunk: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def cut(token: Mapping[str, Any], top: int) -> Mapping[str, Any]:
    """The engine gives one alternative at least when it is asked for any log-probability."""
    return {**token, "top_logprobs": token["top_logprobs"][:top]}


def calls_of(piece: Spoken) -> tuple[Call, ...]:
    """The calls that are shown: of one that was cut off, as OpenAI does, what there is of its arguments."""
    return (*piece.calls, piece.cut) if piece.cut and piece.cut.name else piece.calls


def call_json(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": in_json(call.arguments)}}


def in_json(arguments: Mapping[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False)


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def fingerprint(digest: str) -> str:
    return f"fp_{digest.removeprefix('sha256:')[:12]}"

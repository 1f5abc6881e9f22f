"""/v1/completions: text goes on from text, without a chat template."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from plural.serve.chat import fingerprint, usage_json
from plural.serve.errors import WireError
from plural.serve.ids import fresh
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import TextCompletion, sends
from plural.serve.stream import DONE, event_stream
from plural.serve.visit import Visit
from plural.serve.wire import MOST_ANSWERS, Drawing, StreamOptions, StructuredOutputs
from plural.types import Asked, Spoken

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompts = str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=MOST_ANSWERS)]


class CompletionBody(Drawing):
    model: str
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    structured_outputs: StructuredOutputs | None = None
    user: Annotated[str, Field(max_length=128)] | None = None
    # vLLM's, for engines behind this server: tokens as ids, and how probable the prompt's own are.
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: Literal[0] | None = None
    # What they say is so, and nothing else can be.
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def asked(self, default_tokens: int) -> list[Asked]:
        if self.stream_options is not None and not self.stream:
            raise WireError(400, "stream_options needs stream: true.", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise WireError(400, "prompt_logprobs are not streamed.", param="prompt_logprobs")
        # A token's own text is found among the most probable ones; its id needs none of them.
        least = 0 if self.return_tokens_as_token_ids else 1
        logprobs = 0 if self.logprobs is None else max(least, self.logprobs)
        return [
            Asked(
                text=prompt,
                sampling=self.sampling(self.max_tokens or default_tokens, logprobs),
                grammar=self.structured_outputs.to_grammar() if self.structured_outputs else None,
                n=self.n or 1,
                priority=self.priority,
                deadline=self.deadline,
            )
            for prompt in self.prompts()
        ]

    def prompts(self) -> list[str | tuple[int, ...]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [tuple(self.prompt)]  # then all are
        return [one if isinstance(one, str) else tuple(one) for one in self.prompt]


def completion_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[needs("use")])

    @router.post("/v1/completions", responses=sends(TextCompletion, or_streams=True))
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        visit = visit_of(request)
        speaker = service.speaker(body.model, visit)
        visit.user = body.user or ""
        speech = service.speech(speaker, body.asked(service.backend.max_tokens), visit)
        head = {
            "id": fresh("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": fingerprint(service.backend.digest),
        }
        if body.stream:
            return await event_stream(_chunks(head, speech, body, visit))
        choices: dict[int, list[Spoken]] = {}
        async with aclosing(speech):
            async for piece in speech:
                choices.setdefault(piece.which, []).append(piece)
        made = [_choice(which, choices[which], body) for which in sorted(choices)]
        if body.prompt_logprobs is not None:
            for which, row in enumerate(await service.backend.score(visit.model, body.prompts())):
                for choice in made[which * (body.n or 1) : (which + 1) * (body.n or 1)]:
                    choice["prompt_logprobs"] = [_prompt_logprob(token, value) for token, value in row]
        return JSONResponse(head | {"choices": made, "usage": usage_json(visit.usage)})

    return router


async def _chunks(
    head: Mapping[str, Any], speech: AsyncGenerator[Spoken, None], body: CompletionBody, visit: Visit
) -> AsyncGenerator[bytes, None]:
    begin = f"data: {json.dumps(head)[:-1]}, "
    written: dict[int, int] = {}
    async with aclosing(speech):
        async for piece in speech:
            if piece.text or piece.finish or piece.logprob or body.return_token_ids:
                choice = _choice(piece.which, [piece], body, written.get(piece.which, 0))
                written[piece.which] = written.get(piece.which, 0) + len(piece.text)
                yield f'{begin}"choices": [{json.dumps(choice)}]}}\n\n'.encode()
    if body.stream_options is not None and body.stream_options.include_usage:
        last = dict(head) | {"choices": [], "usage": usage_json(visit.usage)}
        yield f"data: {json.dumps(last)}\n\n".encode()
    yield DONE


def _choice(which: int, pieces: list[Spoken], body: CompletionBody, offset: int = 0) -> dict[str, Any]:
    ids = [piece.drawn.token_id for piece in pieces if piece.drawn is not None]
    return {
        "index": which,
        "text": "".join(piece.text for piece in pieces),
        "logprobs": None if body.logprobs is None else _logprobs(pieces, body, offset),
        "finish_reason": pieces[-1].finish,
        **({"token_ids": ids} if body.return_token_ids else {}),
    }


def _logprobs(pieces: list[Spoken], body: CompletionBody, offset: int) -> dict[str, Any]:
    """The older form, in columns. `text_offset` is where in the answer a token's text begins."""
    top = body.logprobs or 0
    made: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if top else None, "text_offset": []}
    for piece in pieces:
        if (told := _told(piece, top, by_id=bool(body.return_tokens_as_token_ids))) is not None:
            token, logprob, best = told
            made["tokens"].append(token)
            made["token_logprobs"].append(logprob)
            made["text_offset"].append(offset)
            if top:
                made["top_logprobs"].append(best)
        offset += len(piece.text)
    return made


def _told(piece: Spoken, top: int, *, by_id: bool) -> tuple[str, float, dict[str, float]] | None:
    """A token, its log-probability, and the most probable ones."""
    if by_id:
        drawn = piece.drawn
        if drawn is None:
            return None
        best = {_named(token): value for token, value in drawn.top_logprobs[:top]}
        return _named(drawn.token_id), drawn.logprob, best
    if piece.logprob is None:
        return None
    shown = {one["token"]: one["logprob"] for one in piece.logprob["top_logprobs"][:top]}
    return piece.logprob["token"], piece.logprob["logprob"], shown


def _named(token: int) -> str:
    return f"token_id:{token}"


def _prompt_logprob(token: int, value: float | None) -> dict[str, Any] | None:
    return None if value is None else {str(token): {"logprob": value}}

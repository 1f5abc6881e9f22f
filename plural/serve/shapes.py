"""What is sent, for /openapi.json. Answers do not pass through these: the tests compare the two."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from plural.serve.stream import STREAMED
from plural.specialists import Card
from plural.teams.drafting import Draft

One = TypeVar("One")


class Shape(BaseModel):
    """Fields with a default may be left out; there are no others."""

    model_config = ConfigDict(extra="forbid")


def sends(shape: type[BaseModel], *, or_streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`."""
    return {200: {"model": shape, **(STREAMED[200] if or_streams else {})}}


# --------------------------------------------------------------------------------------------------------------- lists
class Everything(Shape, Generic[One]):
    object: Literal["list"]
    data: list[One]


class Page(Everything[One], Generic[One]):
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Shape):
    id: str
    object: str
    deleted: Literal[True]


# ------------------------------------------------------------------------------------------------------------- answers
class CachedTokens(Shape):
    cached_tokens: int


class Tokens(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CalledFunction(Shape):
    name: str
    arguments: str


class Call(Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class Likely(Shape):
    token: str
    bytes: list[int]
    logprob: float


class Token(Likely):
    top_logprobs: list[Likely]


class TokenLogprobs(Shape):
    content: list[Token]
    refusal: None


class Said(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] = []


class Choice(Shape):
    index: int
    message: Said
    logprobs: TokenLogprobs | None
    finish_reason: str


class ChatCompletion(Shape):
    """`metadata` is there where it is stored."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Tokens
    metadata: dict[str, str] = {}


class StoredMessage(BaseModel):
    """As it was asked, with an id."""

    id: str
    role: str
    content_parts: None


class Columns(Shape):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(Shape):
    index: int
    text: str
    logprobs: Columns | None
    finish_reason: str
    token_ids: list[int] = []
    prompt_logprobs: list[dict[str, Any] | None] = []


class TextCompletion(Shape):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Tokens


class Embedding(Shape):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class ReadTokens(Shape):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Everything[Embedding]):
    model: str
    usage: ReadTokens


class ResponseTokens(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class Responded(BaseModel):
    """With all that it was asked with."""

    id: str
    object: Literal["response"]
    status: Literal["completed", "incomplete"]
    created_at: float
    model: str
    output: list[dict[str, Any]]
    error: None
    usage: ResponseTokens
    metadata: dict[str, str]
    previous_response_id: str | None


class InputTokens(Shape):
    object: Literal["response.input_tokens"]
    input_tokens: int


class InputItem(BaseModel):
    id: str
    type: Literal["message", "function_call", "function_call_output"]


# ------------------------------------------------------------------------------------------------- models, the library
class ServedModel(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    version: int | None
    digest: str
    purpose: str


class WithVersions(Card):
    versions: list[Card]


class Published(Shape):
    """`told` is what the gate compared."""

    id: str
    version: int
    digest: str
    told: list[str]


class Pinned(Shape):
    id: str
    pinned: bool


class State(Shape):
    status: Literal["ok"]


# ------------------------------------------------------------------------------------------------------------ training
class File(Shape):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["fine-tune"]
    status: Literal["processed"]


class JobError(Shape):
    code: str
    message: str
    param: None


class Job(BaseModel):
    """With what it was begun with."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    paused: bool
    model: str
    training_file: str
    validation_file: str | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    metadata: dict[str, str]
    error: JobError | None


class JobEvent(Shape):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


# ------------------------------------------------------------------------------------------------------ runs and teams
RunStatus = Literal["queued", "running", "waiting", "finished", "failed", "cancelled", "interrupted"]


class ListedRun(BaseModel):
    id: str
    object: Literal["run"]
    created_at: float
    changed_at: float
    status: RunStatus
    model: str
    title: str
    parent: str | None
    forked_at: int | None
    metadata: dict[str, str]


class RunError(Shape):
    error: str
    message: str


class Run(ListedRun):
    last_entry: int
    questions: list[dict[str, Any]]
    answer: str | None
    usage: dict[str, int] | None
    error: RunError | None


class KeptTeam(Shape):
    id: str
    object: Literal["team"]
    name: str
    team: Draft


class Drafted(Shape):
    """A team, or what skill is missing."""

    object: Literal["draft"]
    team: Draft | None
    missing: dict[str, str] | None

"""The body of /v1/chat/completions, and what it asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from plural.serve.errors import WireError
from plural.serve.wire import (
    MOST_ANSWERS,
    Drawing,
    Metadata,
    ResponseFormat,
    StreamOptions,
    Strict,
    StructuredOutputs,
    grammar_of,
)
from plural.types import Asked, Grammar, Message, Role, ToolCall, ToolSpec


class TextPart(Strict):
    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1)]


class CalledFunction(Strict):
    name: str
    arguments: str


class Call(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Instructed(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserSaid(Strict):
    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantSaid(Strict):
    """The fields that can only be null are those that clients send back as they came."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolSaid(Strict):
    """`name` is that of the tool, which `tool_call_id` says already."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


WireMessage = Annotated[Instructed | UserSaid | AssistantSaid | ToolSaid, Field(discriminator="role")]


class Function(Strict):
    """Arguments are drawn under the grammar of `parameters`, `strict` or not."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class ChatBody(Drawing):
    model: str
    messages: Annotated[list[WireMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Chunks without choices tell what happens in the run that answers; those of base and specialists come out of none.
    events: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    # Whom it is for: in the access log.
    user: Annotated[str, Field(max_length=128)] | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    # What they say is so, and nothing else can be.
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def asked(self, default_tokens: int) -> Asked:
        """Raises WireError for fields that exclude each other."""
        self._agree()
        tools = tuple(_tool(tool.function) for tool in self.tools or ())
        logprobs = max(1, self.top_logprobs or 0) if self.logprobs else 0
        return Asked(
            messages=read_messages(self.messages),
            sampling=self.sampling(self.max_completion_tokens or self.max_tokens or default_tokens, logprobs),
            tools=tools,
            tool_choice=self._choice(tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            grammar=self._grammar(),
            n=self.n or 1,
            priority=self.priority,
            deadline=self.deadline,
        )

    def _agree(self) -> None:
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise WireError(400, "max_tokens and max_completion_tokens differ: give one.", param="max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise WireError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise WireError(400, "stream_options needs stream: true.", param="stream_options")
        if self.events and not self.stream:
            raise WireError(400, "events needs stream: true.", param="events")
        if self.metadata and not self.store:
            raise WireError(400, "metadata is kept with stored completions only: store: true.", param="metadata")

    def _choice(self, tools: Sequence[ToolSpec]) -> str:
        names = [tool.name for tool in tools]
        if self.tool_choice is None:
            return "auto"
        if not tools and self.tool_choice != "none":
            raise WireError(400, "tool_choice needs tools.", param="tool_choice")
        if isinstance(self.tool_choice, str):
            return self.tool_choice
        chosen = self.tool_choice.function.name
        if chosen not in names:
            raise WireError(
                400, f"tool_choice is {chosen!r}, which is none of {', '.join(names)}.", param="tool_choice"
            )
        return chosen

    def _grammar(self) -> Grammar | None:
        grammar = grammar_of(self.response_format)
        if self.structured_outputs is not None:
            if grammar is not None:
                raise WireError(
                    400,
                    "response_format and structured_outputs both say what answers look like.",
                    param="structured_outputs",
                )
            grammar = self.structured_outputs.to_grammar()
        if grammar is not None and self.tools and self.tool_choice != "none":
            raise WireError(
                400,
                "response_format is not supported beside tools that may be called: give one, or tool_choice: none.",
                param="response_format",
            )
        return grammar


def _tool(function: Function) -> ToolSpec:
    return ToolSpec(function.name, function.description or "", function.parameters or {})


# ------------------------------------------------------------------------------------------------------------ messages
def read_messages(messages: Sequence[Instructed | UserSaid | AssistantSaid | ToolSaid]) -> tuple[Message, ...]:
    return tuple(_message(message, index) for index, message in enumerate(messages))


def _message(message: Instructed | UserSaid | AssistantSaid | ToolSaid, index: int) -> Message:
    match message:
        case AssistantSaid():
            text = _said_by(message.name, "assistant", text_of(message.content))
            calls: tuple[ToolCall, ...] = ()
            for call in message.tool_calls or ():
                text, calls = with_call(
                    text, calls, call.id, call.function.name, call.function.arguments, f"messages.{index}.tool_calls"
                )
            if message.content is None and not message.tool_calls:
                raise WireError(
                    400,
                    f"messages.{index}.content is missing: it says nothing and calls nothing.",
                    param=f"messages.{index}.content",
                )
            return Message("assistant", text, calls)
        case ToolSaid():
            return Message("tool", text_of(message.content), tool_call_id=message.tool_call_id)
    role: Role = "user" if message.role == "user" else "system"
    return Message(role, _said_by(message.name, role, text_of(message.content)))


def _said_by(name: str | None, role: str, text: str) -> str:
    """Chat templates know roles only: who of several said something stands before it."""
    return text if name in (None, "", role) else f"{name}: {text}"


def text_of(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def with_call(
    text: str, calls: tuple[ToolCall, ...], id: str, name: str, arguments: str, where: str
) -> tuple[str, tuple[ToolCall, ...]]:
    """What was said and called, with one call more. A call that was cut off, of which answers have as much of its
    arguments as there is, is text that was said. Raises WireError for arguments that are no JSON object, nor how one
    begins."""
    try:
        begun = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise WireError(400, f"{where}: the arguments of {name} are no JSON object.", param=where)
    try:
        return text, (*calls, ToolCall(id, name, json.loads(arguments or "{}")))
    except ValueError:
        return f'{text}{{"name": {json.dumps(name)}, "arguments": {arguments}', calls

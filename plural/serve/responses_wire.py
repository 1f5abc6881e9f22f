"""The body of /v1/responses, and the conversation that its items are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from plural.serve.chat_wire import with_call
from plural.serve.errors import WireError
from plural.serve.wire import Drawing, JsonSchema, Metadata, ObjectFormat, Strict, TextFormat
from plural.types import Asked, Grammar, Message, Role, ToolSpec


class Part(Strict):
    """`annotations` and `logprobs` come back from clients that send an answer as they got it; they say nothing new."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


class MessageItem(Strict):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: None = None


class CallItem(Strict):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class ResultItem(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


Item = MessageItem | CallItem | ResultItem
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


class SchemaText(JsonSchema):
    type: Literal["json_schema"]


class TextConfig(Strict):
    format: Annotated[TextFormat | ObjectFormat | SchemaText, Field(discriminator="type")] | None = None
    verbosity: None = None


class FunctionTool(Strict):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Strict):
    type: Literal["function"]
    name: str


class Conversation(Strict):
    """What a response is asked with, but for how it is drawn."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    # What it says is so, and nothing else can be.
    truncation: Literal["disabled"] | None = None

    def items(self) -> list[dict[str, Any]]:
        """The input as items, each a dict that can be kept."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.input}]}]
        return [item.model_dump(exclude_none=True) for item in self.input]

    def said(self, before: Sequence[Mapping[str, Any]]) -> Asked:
        """`before` are the items of the responses that this one goes on from."""
        tools = tuple(ToolSpec(one.name, one.description or "", one.parameters or {}) for one in self.tools or ())
        items = [*_ITEMS.validate_python([dict(one) for one in before]), *_ITEMS.validate_python(self.items())]
        messages = tuple(_messages(items))
        if self.instructions:
            messages = (Message("system", self.instructions), *messages)
        grammar = self._grammar()
        if grammar is not None and tools and self.tool_choice != "none":
            raise WireError(400, "text.format is not supported beside tools that may be called.", param="text.format")
        return Asked(
            messages=messages,
            tools=tools,
            tool_choice=self._choice(tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            grammar=grammar,
        )

    def _choice(self, tools: Sequence[ToolSpec]) -> str:
        choice = self.tool_choice.name if isinstance(self.tool_choice, ChosenTool) else self.tool_choice
        if choice not in (None, "none", "auto") and not tools:
            raise WireError(400, "tool_choice needs tools.", param="tool_choice")
        if isinstance(self.tool_choice, ChosenTool) and choice not in [tool.name for tool in tools]:
            raise WireError(400, f"tool_choice is {choice!r}, which is no tool.", param="tool_choice")
        return choice or "auto"

    def _grammar(self) -> Grammar | None:
        match self.text.format if self.text else None:
            case ObjectFormat():
                return Grammar.json_schema({"type": "object"})
            case SchemaText() as schema:
                return Grammar.json_schema(schema.schema_)
        return None


class ResponseBody(Conversation, Drawing):
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    # Nothing is reasoned in secret, so that there is nothing encrypted to include.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    user: Annotated[str, Field(max_length=128)] | None = None
    # What they say is so, and nothing else can be.
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)

    def asked(self, before: Sequence[Mapping[str, Any]], default_tokens: int) -> Asked:
        """`before` are the items of the responses that this one goes on from."""
        logprobs = max(1, self.top_logprobs or 0) if self.logprobs else 0
        sampling = self.sampling(self.max_output_tokens or default_tokens, logprobs)
        return replace(self.said(before), sampling=sampling, priority=self.priority, deadline=self.deadline)


def _messages(items: Sequence[Item]) -> Iterator[Message]:
    """Calls belong to the assistant's message before them, if there is one: chat templates know no call by itself."""
    said: Message | None = None
    for item in items:
        match item:
            case CallItem():
                said = said or Message("assistant", "")
                text, calls = with_call(said.content, said.tool_calls, item.call_id, item.name, item.arguments, "input")
                said = Message("assistant", text, calls)
                continue
            case MessageItem(role="assistant"):
                if said is not None:
                    yield said
                said = Message("assistant", _text(item.content))
                continue
        if said is not None:
            yield said
            said = None
        if isinstance(item, ResultItem):
            yield Message("tool", _text(item.output), tool_call_id=item.call_id)
        else:
            role: Role = "user" if item.role == "user" else "system"
            yield Message(role, _text(item.content))
    if said is not None:
        yield said


def _text(content: str | Sequence[Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)

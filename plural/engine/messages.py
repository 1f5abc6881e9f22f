"""LangChain's messages, tools and counts as ours, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata

from plural.errors import PromptError, SettingsError
from plural.types import Message, Role, ToolCall, ToolSpec, Usage

_ROLES: dict[str, Role] = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}


def to_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """LangChain's messages as ours. Text only: any other content is refused by its type."""
    return tuple(_to_message(message) for message in messages)


def _to_message(message: BaseMessage) -> Message:
    role = _ROLES.get("ai" if message.type == "AIMessageChunk" else message.type)
    if role is None:
        raise PromptError(f"A message of type {message.type!r} cannot be read.", hint=f"Known: {', '.join(_ROLES)}.")
    calls: tuple[ToolCall, ...] = ()
    if isinstance(message, AIMessage):
        calls = tuple(ToolCall(str(call["id"]), call["name"], call["args"]) for call in message.tool_calls)
    answered = message.tool_call_id if isinstance(message, ToolMessage) else None
    return Message(role, _text(message), calls, answered)


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts: list[str] = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind == "text":
            parts.append(block if isinstance(block, str) else str(block["text"]))
        elif kind not in ("tool_use", "tool_call", "tool_call_chunk"):
            raise PromptError(f"Content of type {kind!r} cannot be read: this model reads text only.")
    return "".join(parts)


def tool_spec(tool: dict[str, Any]) -> ToolSpec:
    function = tool.get("function", tool)
    return ToolSpec(function["name"], function.get("description", ""), function.get("parameters") or {})


def known_choice(choice: object, tools: Sequence[ToolSpec]) -> str:
    """ "auto", "required", "none" or a tool's name, from any form in which LangChain's users say it."""
    if isinstance(choice, Mapping):  # OpenAI's form: {"type": "function", "function": {"name": ...}}
        choice = choice.get("function", choice).get("name")
        if choice in ("auto", "any", "required", "none"):
            raise SettingsError(
                f"tool_choice names the tool {choice!r}, a word that means something else there.",
                hint="Give the tool another name.",
            )
    if choice is None or choice is False:
        return "auto"
    if choice is True or choice in ("any", "required"):
        return "required"
    names = [tool.name for tool in tools]
    if choice not in ("auto", "none") and choice not in names:
        raise SettingsError(f"tool_choice is {choice!r}, which is no tool.", hint=f"Tools: {', '.join(names)}.")
    return str(choice)


def usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        input_token_details={"cache_read": usage.cached},
    )

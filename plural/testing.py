"""Fakes to test agents and teams with, without a model: what they answer is written down beforehand.

model = ScriptedModel([calling(("add", {"a": 1, "b": 2})), "It is 3."])
assert Agent("clerk", model, tools=[add]).invoke("1 + 2?") == "It is 3."
assert model.asked[1].messages[-1].content == "3"
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from plural.errors import LimitError, SettingsError
from plural.types import Decision, Grammar, Option, Usage

Reply = str | AIMessage | Exception | Callable[[Sequence[BaseMessage]], str | AIMessage]


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a `ScriptedModel`: the messages, and every option that was bound or given."""

    messages: tuple[BaseMessage, ...]
    options: Mapping[str, Any]

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the model was offered."""
        return tuple(each["function"]["name"] for each in self.options.get("tools", ()))

    @property
    def grammar(self) -> Grammar | None:
        return self.options.get("grammar")


def calling(*calls: tuple[str, Mapping[str, Any]], text: str = "") -> AIMessage:
    """The reply of a model that calls tools: each a (name, arguments). Their ids are call_0, call_1 and so on."""
    return AIMessage(
        content=text,
        tool_calls=[
            {"type": "tool_call", "id": f"call_{index}", "name": name, "args": dict(arguments)}
            for index, (name, arguments) in enumerate(calls)
        ],
    )


class ScriptedModel(BaseChatModel):
    """A chat model that gives `replies` in order: a text, a message with tool calls, an exception that it raises, or a
    function from the messages to one of the first two. It streams word by word and counts words as tokens.

    It takes tools and grammars as the engine's chat model does and records them in `asked`, but does not enforce them.
    As a `Chooser` it takes the next reply's text as the choice, with probability 1.

    Raises:
        LimitError: it was asked once more than it has replies.
    """

    grammar: Grammar | None = None
    _replies: deque[Reply] = PrivateAttr()
    _asked: list[Asked] = PrivateAttr(default_factory=list)

    def __init__(self, replies: Iterable[Reply], **fields: Any) -> None:
        super().__init__(**fields)
        self._replies = deque(replies)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What the model was asked so far, in order."""
        return tuple(self._asked)

    @property
    def left(self) -> int:
        """How many replies have not been given yet."""
        return len(self._replies)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        described = [convert_to_openai_tool(each) for each in tools]
        return self.bind(tools=described, tool_choice=tool_choice or "auto", **kwargs)

    async def achoose(self, messages: LanguageModelInput, options: Sequence[str]) -> Decision[str]:
        asked = self._convert_input(messages).to_messages()
        reply = self._next(asked, {"options": tuple(options)})
        chosen = reply.text
        if chosen not in options:
            raise SettingsError(f"The scripted choice {chosen!r} is none of {', '.join(options)}.")
        others = tuple(Option(option, 0.0) for option in options if option != chosen)
        counted = _counted(asked, reply)
        usage = Usage(counted["input_tokens"], counted["output_tokens"])
        return Decision(chosen, 1.0, (Option(chosen, 1.0), *others), "logits", usage=usage)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(self._next(messages, _options(stop, kwargs))):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(self._next(messages, _options(stop, kwargs))):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - a whole reply has no new-token events
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages, _options(stop, kwargs)))])

    def _next(self, messages: Sequence[BaseMessage], options: Mapping[str, Any]) -> AIMessage:
        self._asked.append(Asked(tuple(messages), options))
        if not self._replies:
            raise LimitError(f"The scripted model was asked {len(self._asked)} times.", hint="Give it one more reply.")
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        said = reply if isinstance(reply, str | AIMessage) else reply(messages)
        message = AIMessage(content=said) if isinstance(said, str) else said
        if message.usage_metadata is None:
            message = message.model_copy(update={"usage_metadata": _counted(messages, message)})
        return message


class ScriptedEmbedder:
    """Texts that share words are near each other: a hashed bag of words as a unit vector of length `width`."""

    def __init__(self, width: int = 256) -> None:
        self._width = width

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        counts = [0.0] * self._width
        for word in re.findall(r"\w+", text.lower()) or [""]:
            drawn = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            counts[drawn % self._width] += 1.0
        length = math.hypot(*counts)
        return [count / length for count in counts]


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    for word in re.findall(r"\S+\s*|\s+", message.text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    calls += [
        tool_call_chunk(name=call["name"], args=call["args"], id=call["id"], index=index)
        for index, call in enumerate(message.invalid_tool_calls, start=len(calls))
    ]
    last = AIMessageChunk(
        content="",
        tool_call_chunks=calls,
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
        chunk_position="last",
    )
    yield ChatGenerationChunk(message=last, generation_info={"finish_reason": "tool_calls" if calls else "stop"})


def _options(stop: list[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "stop": tuple(stop)} if stop else dict(options)


def _counted(messages: Sequence[BaseMessage], message: AIMessage) -> UsageMetadata:
    read = sum(len(each.text.split()) for each in messages)
    written = len(message.text.split()) + len(message.tool_calls)
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)

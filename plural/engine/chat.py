"""The engine as a LangChain chat model: messages go in, tokens are drawn, messages come out.

One `ChatPlural` is one way of asking the base: an adapter or none, its instructions, its output grammar. It also
implements `protocols.Chooser` and `protocols.Embedder`, for which LangChain has no word.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ConfigDict

from plural import sync
from plural.engine.engine import Engine
from plural.engine.request import Request, mixture
from plural.errors import ContractError, PromptError, SettingsError
from plural.models.base import Base
from plural.models.chat import ChatFormat
from plural.specialists import invoked_at
from plural.types import (
    AdapterRef,
    Decision,
    Grammar,
    Message,
    Mixture,
    Role,
    Sampling,
    TokenEvent,
    ToolCall,
    ToolSpec,
    Usage,
)

_ROLES: dict[str, Role] = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}
_SAMPLING = frozenset(Sampling.__dataclass_fields__)


class ChatPlural(BaseChatModel):
    """`sampling` holds the defaults; every field of `Sampling` can be given per call or with `bind`, and so can
    `priority` and `deadline` (see `Request`).

    An adapter whose digest is in `invocations` is activated: it acts from where the last of those tokens begin in each
    prompt. Several adapters are a mixture, each at its scale.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    engine: Engine
    base: Base
    model_name: str
    adapter: AdapterRef | Mixture | None = None
    invocations: Mapping[str, tuple[int, ...]] = {}
    instructions: str = ""
    grammar: Grammar | None = None
    sampling: Sampling = Sampling()

    # ------------------------------------------------------------------------------------------ LangChain's surface
    @property
    def _llm_type(self) -> str:
        return "plural"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        worn = [(ref.digest, ref.scale) for ref in mixture(self.adapter)]
        return {"model_name": self.model_name, "adapters": worn}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """`tool_choice`: "auto" (the default), "any" or "required" (a call must be made), "none", or a tool's name."""
        specs = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=specs, tool_choice=tool_choice or "auto", **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The answer is drawn under the schema's grammar, so it cannot be malformed; only its length can end it."""
        if kwargs:
            raise SettingsError(f"with_structured_output does not know {', '.join(sorted(kwargs))}.")
        model = self.bind(grammar=Grammar.json_schema(convert_to_json_schema(schema)))

        def parse(message: AIMessage) -> Any:
            try:
                value = json.loads(str(message.content))
            except json.JSONDecodeError as error:
                raise ContractError(
                    f"The answer ended before it was whole: {message.content!r}.", hint="Raise max_tokens."
                ) from error
            return schema(**value) if isinstance(schema, type) and issubclass(schema, BaseModel) else value

        def parse_raw(message: AIMessage) -> dict[str, Any]:
            try:
                return {"raw": message, "parsed": parse(message), "parsing_error": None}
            except ValueError as error:
                return {"raw": message, "parsed": None, "parsing_error": error}

        return model | RunnableLambda(parse_raw if include_raw else parse)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        tools, choice, request = self._request(messages, stop, kwargs)
        split = _CallSplitter(self.base.chat if tools and choice != "none" else None)
        logprob = 0.0
        async for event in self.engine.generate(request):
            logprob += event.logprob
            chunk = self._chunk(split.add(event), event, split, logprob)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> ChatResult:
        whole: ChatGenerationChunk | None = None
        async for chunk in self._astream(messages, stop, None, **kwargs):
            whole = chunk if whole is None else whole + chunk
        assert whole is not None  # a request always ends with an event
        said = whole.message
        assert isinstance(said, AIMessageChunk)
        message = AIMessage(
            content=said.content,
            tool_calls=said.tool_calls,
            usage_metadata=said.usage_metadata,
            response_metadata=said.response_metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=whole.generation_info)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in sync.iterate(self._astream(messages, stop, None, **kwargs)):
            if run_manager is not None:
                run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's signature
        **kwargs: Any,
    ) -> ChatResult:
        return sync.run(self._agenerate(messages, stop, None, **kwargs))

    # ------------------------------------------------------------------------------------------ decisions and reading
    async def achoose(self, messages: Sequence[Message], options: Sequence[str]) -> Decision[str]:
        """Every option's probability as the whole next assistant turn, exact from the logits."""
        prompt = self.base.chat.encode(messages, instructions=self.instructions)
        return await self.engine.choose(prompt, options, self._worn(prompt))

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        """The base's mean hidden state over each text; adapters play no part in it."""
        return await self.engine.embed([self.base.tokenizer.encode(text) for text in texts])

    # ------------------------------------------------------------------------------------------ inside
    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[tuple[ToolSpec, ...], str, Request]:
        options = dict(kwargs)
        tools = tuple(_tool_spec(tool) for tool in options.pop("tools", None) or ())
        choice: str = options.pop("tool_choice", None) or "auto"
        grammar: Grammar | None = options.pop("grammar", self.grammar)
        order = {name: options.pop(name) for name in ("priority", "deadline") if name in options}
        unknown = sorted(set(options) - _SAMPLING)
        if unknown:
            raise SettingsError(f"{self.model_name} does not know the option {', '.join(unknown)}.")
        if stop:
            options["stop"] = tuple(stop)
        chosen = {name: getattr(self.sampling, name) for name in _SAMPLING} | options
        chosen["stop"] = tuple(chosen["stop"])
        if tools and choice != "none":
            choice = _known_choice(choice, tools)
            grammar = self.base.chat.tool_grammar(tools, choice)
        elif tools and grammar is None and not chosen["stop"]:  # a grammar says where its answer ends, as stop does
            grammar = self.base.chat.tool_grammar(tools, "none")
        prompt = self.base.chat.encode(to_messages(messages), tools, instructions=self.instructions)
        return tools, choice, Request(tuple(prompt), Sampling(**chosen), self._worn(prompt), grammar, **order)

    def _worn(self, prompt: Sequence[int]) -> Mixture:
        return tuple(replace(ref, offset=self._invoked(ref.digest, prompt)) for ref in mixture(self.adapter))

    def _invoked(self, digest: str, prompt: Sequence[int]) -> int:
        """From where on the adapter acts."""
        invocation = self.invocations.get(digest)
        if not invocation:
            return 0
        offset = invoked_at(prompt, invocation)
        if offset is None:
            raise PromptError(
                f"The prompt has nowhere the tokens {list(invocation)} that {self.model_name} is invoked by.",
                hint="It was trained with another chat template.",
            )
        return offset

    def _chunk(self, text: str, event: TokenEvent, split: _CallSplitter, logprob: float) -> ChatGenerationChunk:
        info: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        if event.top_logprobs:
            metadata["logprobs"] = {"content": [self._logprob(event)]}
        calls: tuple[ToolCall, ...] = ()
        if event.finish is not None:
            rest, calls = split.finish()
            text += rest
            reason = "tool_calls" if calls else event.finish
            info["finish_reason"] = reason
            metadata |= {"finish_reason": reason, "model_name": self.model_name, "logprob": logprob}
        message = AIMessageChunk(
            content=text,
            tool_call_chunks=[
                tool_call_chunk(name=call.name, args=json.dumps(call.arguments), id=call.id, index=index)
                for index, call in enumerate(calls)
            ],
            usage_metadata=_usage(event.usage) if event.usage else None,
            response_metadata=metadata,
            chunk_position="last" if event.finish is not None else None,
        )
        return ChatGenerationChunk(message=message, generation_info=info or None)

    def _logprob(self, event: TokenEvent) -> dict[str, Any]:
        name = self.base.tokenizer.decode
        return {
            "token": name([event.token_id]),
            "logprob": event.logprob,
            "top_logprobs": [{"token": name([token]), "logprob": value} for token, value in event.top_logprobs],
        }


class _CallSplitter:
    """Tells a streamed tool call from streamed text. Holds text back only while it could still become a call."""

    def __init__(self, chat: ChatFormat | None) -> None:
        self._chat = chat
        self._held = ""
        self._calling = False
        self._open = chat is not None

    def add(self, event: TokenEvent) -> str:
        """What of the text so far may be shown now."""
        if not self._open or self._chat is None:
            return event.text
        self._held += event.text
        tag = self._chat.call_tag
        if self._calling or self._held.startswith(tag):
            self._calling = True
            return ""
        if tag.startswith(self._held):
            return ""
        self._open = False
        shown, self._held = self._held, ""
        return shown

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What was held back: the rest of the text, or the calls it turned out to be."""
        if not self._calling or self._chat is None:
            return self._held, ()
        return self._chat.parse(self._held)


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
        elif kind not in ("tool_use", "tool_call"):
            raise PromptError(f"Content of type {kind!r} cannot be read: this model reads text only.")
    return "".join(parts)


def _tool_spec(tool: dict[str, Any]) -> ToolSpec:
    function = tool.get("function", tool)
    return ToolSpec(function["name"], function.get("description", ""), function.get("parameters") or {})


def _known_choice(choice: str, tools: Sequence[ToolSpec]) -> str:
    if choice in ("any", "required"):
        return "required"
    names = [tool.name for tool in tools]
    if choice != "auto" and choice not in names:
        raise SettingsError(f"tool_choice is {choice!r}, which is no tool.", hint=f"Tools: {', '.join(names)}.")
    return choice


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        input_token_details={"cache_read": usage.cached},
    )

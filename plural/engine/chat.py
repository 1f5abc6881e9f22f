"""The engine as a LangChain chat model: messages go in, tokens are drawn, messages come out.

One `ChatPlural` is one way of asking the base: an adapter or none, its instructions, its output grammar. It also
implements `protocols.Chooser` and `protocols.Embedder`, for which LangChain has no word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, InvalidToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, model_validator

from plural import sync
from plural.engine.interface import TokenEngine
from plural.engine.messages import known_choice, to_messages, tool_spec, usage_metadata
from plural.engine.request import Request, mixture
from plural.engine.speaker import CallSplitter, End, Speaker
from plural.errors import ContractError, DeadlineError, SettingsError
from plural.models.base import Base
from plural.types import AdapterRef, Asked, Decision, Grammar, Mixture, Sampling, TokenEvent

_SAMPLING = frozenset(Sampling.__dataclass_fields__)
_OPTIONS = _SAMPLING | {"priority", "deadline", "timeout", "top_logprobs"}


class ChatPlural(BaseChatModel):
    """`sampling` holds the defaults; every field of `Sampling` can also be given here by its name, per call or with
    `bind`. So can, per call, `priority` and `deadline` (see `Request`), and `timeout`: the seconds that a whole answer
    may take. With `own_last` instructions and tools stand after the messages, so that they are read once for all models
    that read them.

    An adapter whose digest is in `invocations` is activated: it acts from where the last of those tokens begin in each
    prompt. Several adapters are a mixture, each at its scale. With `streaming`, `invoke` tells callbacks every token.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    engine: TokenEngine
    base: Base
    model_name: str
    adapter: AdapterRef | Mixture | None = None
    invocations: Mapping[str, tuple[int, ...]] = {}
    instructions: str = ""
    grammar: Grammar | None = None
    sampling: Sampling = Sampling()
    timeout: float | None = None
    own_last: bool = False
    streaming: bool = False

    @model_validator(mode="before")
    @classmethod
    def _take_sampling(cls, fields: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in fields.items() if name in _SAMPLING}
        rest = {name: value for name, value in fields.items() if name not in _SAMPLING}
        return rest | {"sampling": _sampling(fields.get("sampling", Sampling()), given)} if given else fields

    # ------------------------------------------------------------------------------------------ LangChain's surface
    @property
    def _llm_type(self) -> str:
        return "plural"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on but the messages: LangChain's cache looks answers up by it."""
        return {
            "model_name": self.model_name,
            "base": self.base.digest,
            "adapters": [(ref.digest, ref.scale) for ref in mixture(self.adapter)],
            "instructions": self.instructions,
            "own_last": self.own_last,
            "grammar": self.grammar,
            "sampling": self.sampling,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        known = LangSmithParams(ls_temperature=self.sampling.temperature, ls_max_tokens=self.sampling.max_tokens)
        return known | super()._get_ls_params(stop=stop, **kwargs)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """All inputs are in the engine at once, where LangChain's own would let in as many as it has threads."""
        return sync.run(self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool = True,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """`tool_choice`: "auto" (the default), "any", "required" or True (a call must be made), "none", or a tool's
        name, bare or in OpenAI's dict. Without `parallel_tool_calls` there is at most one call."""
        specs = [convert_to_openai_tool(tool) for tool in tools]
        chosen = known_choice(tool_choice, [tool_spec(spec) for spec in specs])
        return self.bind(tools=specs, tool_choice=chosen, parallel_tool_calls=parallel_tool_calls, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "json_mode", "function_calling"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The answer is drawn under the schema's grammar, so it cannot be malformed; only its length can end it.

        That holds for every `method` and whether `strict` or not. "function_calling" shows the schema to the model as a
        tool and takes the call's arguments; the other two leave it to the prompt to say what is wanted. Options such as
        max_tokens are bound.
        """
        unknown = sorted(set(kwargs) - _OPTIONS)
        if unknown:
            raise SettingsError(f"with_structured_output does not know {', '.join(unknown)}.")
        described = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        model: Runnable[LanguageModelInput, AIMessage]
        if method == "function_calling":
            model = self.bind_tools(
                [schema],
                tool_choice="required",
                parallel_tool_calls=False,
                ls_structured_output_format=described,
                **kwargs,
            )
        elif method in ("json_schema", "json_mode"):
            grammar = Grammar.json_schema(convert_to_json_schema(schema))
            model = self.bind(grammar=grammar, ls_structured_output_format=described, **kwargs)
        else:
            raise SettingsError(f"method is {method!r}.", hint="Known: json_schema, json_mode, function_calling.")

        def parse(message: AIMessage) -> Any:
            return _structured(message, schema)

        def parse_raw(message: AIMessage) -> dict[str, Any]:
            try:
                return {"raw": message, "parsed": parse(message), "parsing_error": None}
            except ContractError as error:
                return {"raw": message, "parsed": None, "parsing_error": error}

        return model | RunnableLambda(parse_raw if include_raw else parse, name="parse")

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        timeout = kwargs.pop("timeout", self.timeout)
        request, calls = self._request(messages, stop, kwargs)
        split = CallSplitter(self.base.chat if calls else None)
        logprob = 0.0
        # Leaving this stream must end the request now, not when somebody collects the generator.
        async with aclosing(self.engine.generate(request)) as drawn:
            async for event in drawn if timeout is None else _within(drawn, timeout):
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
            invalid_tool_calls=[_told(call, said) for call in said.invalid_tool_calls],
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

    @property
    def speaker(self) -> Speaker:
        """The same way of asking without LangChain."""
        return Speaker(
            self.engine,
            self.base,
            self.model_name,
            self.adapter,
            self.invocations,
            self.instructions,
            self.grammar,
            self.own_last,
        )

    # ------------------------------------------------------------------------------ samples, decisions and reading
    async def asample(self, messages: LanguageModelInput, n: int, **options: Any) -> list[str]:
        """`n` answers to one conversation, which is read once. `seed` is the first one's, the next has the next."""
        request, _ = self._request(self._convert_input(messages).to_messages(), None, options)
        said = [""] * n
        async with aclosing(self.engine.samples(request, n)) as drawn:
            async for which, event in drawn:
                said[which] += event.text
        return said

    async def achoose(self, messages: LanguageModelInput, options: Sequence[str]) -> Decision[str]:
        """Every option's probability as the whole next assistant turn, exact from the logits."""
        read = to_messages(self._convert_input(messages).to_messages())
        prompt = self.base.chat.encode(read, instructions=self.instructions, own_last=self.own_last)
        return await self.engine.choose(prompt, options, self.speaker.worn(prompt))

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        """The base's mean hidden state over each text; adapters play no part in it."""
        return await self.engine.embed([self.base.tokenizer.encode(text) for text in texts])

    # ------------------------------------------------------------------------------------------ inside
    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Request, bool]:
        """The request, and whether its answer may be tool calls."""
        options = dict(kwargs)
        tools = tuple(tool_spec(tool) for tool in options.pop("tools", None) or ())
        choice = known_choice(options.pop("tool_choice", None), tools)
        parallel: bool = options.pop("parallel_tool_calls", True)
        grammar: Grammar | None = options.pop("grammar", self.grammar)
        own_last: bool = options.pop("own_last", self.own_last)
        order = {name: options.pop(name) for name in ("priority", "deadline") if name in options}
        if top := options.pop("top_logprobs", None):  # OpenAI's way to say how many: logprobs is then a bool
            options["logprobs"] = top
        unknown = sorted(set(options) - _SAMPLING)
        if unknown:
            raise SettingsError(f"{self.model_name} does not know the option {', '.join(unknown)}.")
        sampling = _sampling(self.sampling, options | ({"stop": stop} if stop else {}))
        asked = Asked(to_messages(messages), "", sampling, tools, choice, parallel_tool_calls=parallel, **order)
        return replace(self.speaker, grammar=grammar, own_last=own_last).request(asked)

    def _chunk(self, text: str, event: TokenEvent, split: CallSplitter, logprob: float) -> ChatGenerationChunk:
        info: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        if event.top_logprobs:
            metadata["logprobs"] = {"content": [self.speaker.logprob(event)]}
        calls: list[ToolCallChunk] = []
        if event.finish is not None:
            end = split.finish(event.finish)
            text += end.text
            calls = _call_chunks(end)
            info["finish_reason"] = end.finish
            metadata |= {"finish_reason": end.finish, "model_name": self.model_name, "logprob": logprob}
        message = AIMessageChunk(
            content=text,
            tool_call_chunks=calls,
            usage_metadata=usage_metadata(event.usage) if event.usage else None,
            response_metadata=metadata,
            chunk_position="last" if event.finish is not None else None,
        )
        return ChatGenerationChunk(message=message, generation_info=info or None)


def _call_chunks(end: End) -> list[ToolCallChunk]:
    """LangChain closes the brackets of arguments that break off and takes the call for whole: of a call that was cut
    off it gets all that was written, from the tag on, which it cannot mend."""
    written = [(call.name, json.dumps(call.arguments), call.id) for call in end.calls]
    if end.cut is not None:
        written.append((end.cut.name, end.cut.text, end.cut.id))
    return [tool_call_chunk(name=name, args=args, id=id, index=index) for index, (name, args, id) in enumerate(written)]


def _told(call: InvalidToolCall, said: AIMessageChunk) -> InvalidToolCall:
    """The call with what is wrong with it."""
    written = said.usage_metadata["output_tokens"] if said.usage_metadata else 0
    why = "raise max_tokens" if said.response_metadata.get("finish_reason") == "length" else "a stop string ended it"
    error = f"The call of {call['name'] or 'a tool'} was cut off after {written} tokens: {why}."
    return invalid_tool_call(name=call["name"], args=call["args"], id=call["id"], error=error)


def _sampling(defaults: Sampling, options: Mapping[str, Any]) -> Sampling:
    """`options` in the place of the defaults; None leaves one as it is."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in {"stop", "stop_token_ids"} & given.keys():
        given[name] = (given[name],) if isinstance(given[name], str | int) else tuple(given[name])
    if "logprobs" in given:
        given["logprobs"] = int(given["logprobs"])
    return replace(defaults, **given)


async def _within(events: AsyncIterator[TokenEvent], seconds: float) -> AsyncIterator[TokenEvent]:
    """The same events, all of them within so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(end):
                event = await anext(events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineError(
                f"The answer was not whole after {seconds} seconds.", hint="Raise timeout or lower max_tokens."
            ) from None
        yield event


def _structured(message: AIMessage, schema: dict[str, Any] | type) -> Any:
    """The value that was drawn under the schema's grammar. Raises ContractError when its end is missing, or when a
    pydantic model asks for more than its schema says."""
    text = json.dumps(message.tool_calls[0]["args"]) if message.tool_calls else str(message.text)
    text = str(message.invalid_tool_calls[0]["args"]) if message.invalid_tool_calls else text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ContractError(f"The answer ended before it was whole: {text!r}.", hint="Raise max_tokens.") from error
    if not (isinstance(schema, type) and is_basemodel_subclass(schema)):
        return value
    try:
        return schema.model_validate_json(text) if issubclass(schema, BaseModel) else _of_old(schema, text)
    except ValueError as error:
        raise ContractError(f"The answer {text!r} is not a valid {schema.__name__}: {error}.") from error


def _of_old(schema: Any, text: str) -> Any:
    """An instance of a model of pydantic 1, which LangChain's users may still have."""
    return schema.parse_raw(text)

"""Puts the journal between agents and the world: their models and tools, played back where they finished before."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import TypeAdapter

from plural import sync
from plural.agents.budget import Purse, purse_in, spending
from plural.agents.effects import through
from plural.agents.loop import ChatRunnable, Equipment
from plural.agents.marks import MARKS, marks_of
from plural.agents.tools import call_tool
from plural.errors import EngineStopped, RunError, StorageError
from plural.teams.journal.entries import Kept, ToolBegun
from plural.teams.journal.tape import ModelCallKnown, Tape, digest, raised
from plural.types import Question, TextDelta, ToolCall, ToolReturned, Usage

T = TypeVar("T")


class Recorder:
    """The effects of one run, or of the part of it that is under `path` ("", or ending in "/").

    Args:
        instead: a model that makes the calls that are not in the journal, in place of the agents' own; it is held to
            the tools and the grammar that are bound to theirs.
    """

    def __init__(self, tape: Tape, path: str = "", *, instead: ChatRunnable | None = None) -> None:
        self.tape, self.path, self._instead = tape, path, instead

    def under(self, path: str) -> Recorder:
        """The same for what happens inside `path`."""
        return Recorder(self.tape, f"{path}/", instead=self._instead)

    def outfit(self, kit: Equipment, step: int) -> Equipment:
        seat = _Seat(self, self.tape.visit(f"{self.path}{step}.{_part(kit.name)}"), step, kit.name)
        tools: dict[str, BaseTool] = {name: _tool(seat, tool) for name, tool in kit.tools.items()}
        plain, calling, speaking = (
            RecordedModel(seat, self.hired(model)) for model in (kit.plain, kit.calling, kit.speaking)
        )
        return replace(kit, plain=plain, calling=calling, speaking=speaking, tools=tools)

    def model(self, name: str, model: ChatRunnable) -> ChatRunnable:
        # One level down, where nothing is shown.
        path = self.tape.visit(f"{self.path}{_part(name)}")
        return RecordedModel(_Seat(self, f"{path}/model", 0, name), model)

    def tool(self, name: str, step: int, tool: BaseTool) -> BaseTool:
        return _tool(_Seat(self, self.tape.visit(f"{self.path}{step}.{_part(name)}"), step, name), tool)

    def inside(self, name: str, step: int) -> Recorder:
        return self.under(self.tape.visit(f"{self.path}{step}.{_part(name)}"))

    async def once(self, path: str, about: Any, kind: type[T], make: Callable[[], Awaitable[T]]) -> T:
        place, asked = self.tape.visit(f"{self.path}{path}"), digest(about)
        form: TypeAdapter[T] = _form(cast(Any, kind))
        if known := self.tape.value(place, asked):
            return form.validate_python(known.value)
        value = await make()
        self.tape.decided(place, Kept(asked, form.dump_python(value, mode="json")))
        return value

    def ask(self, path: str, question: Question) -> str:
        return self.tape.ask(self.tape.visit(f"{self.path}{path}"), question)

    def hired(self, model: ChatRunnable) -> ChatRunnable:
        """The model that makes new calls."""
        if self._instead is None:
            return model
        bound: dict[str, Any] = {}
        while isinstance(model, RunnableBinding):
            bound = {**model.kwargs, **bound}
            model = model.bound
        return self._instead.bind(**bound)


class _Seat:
    """Where one agent works once: its path, and how often it asked its model so far."""

    def __init__(self, recorder: Recorder, path: str, step: int, agent: str) -> None:
        self.recorder, self.tape, self.path = recorder, recorder.tape, path
        self.step, self.agent = step, agent
        self._calls = 0

    def next_call(self) -> int:
        self._calls += 1
        return self._calls - 1


class RecordedModel(Runnable[LanguageModelInput, AIMessage]):
    """A model whose finished calls are in the journal. It streams what it played back as it was streamed before."""

    def __init__(self, seat: _Seat, model: ChatRunnable) -> None:
        self._seat, self._model = seat, model

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        seat, tape, call = self._seat, self._seat.tape, self._seat.next_call()
        asked = digest([_content(message) for message in _messages(input)])
        if known := tape.model(seat.path, call, asked):
            for chunk in _played(known):
                yield chunk
            if known.error:
                raise raised(known.error)
            return
        tape.model_called(seat.path, call, asked)
        texts: list[str] = []
        chunks: list[AIMessageChunk] = []
        try:
            async for said in self._model.astream(input, config, **kwargs):
                if isinstance(said, AIMessageChunk):
                    chunks.append(said)
                    if text := str(said.text):
                        texts.append(text)
                        tape.said(seat.path, TextDelta(seat.step, seat.agent, text))
                yield said
        except (EngineStopped, RunError, StorageError):
            raise  # of this process, not of the model: the call is made again
        except Exception as error:
            tape.model_failed(seat.path, call, error)
            raise
        first, *rest = chunks or [AIMessageChunk(content="")]
        tape.model_returned(seat.path, call, _rest(first + rest, texts))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        first, *rest = [chunk async for chunk in self.astream(input, config, **kwargs)] or [AIMessageChunk(content="")]
        message = message_chunk_to_message(first + rest)
        assert isinstance(message, AIMessage)  # what an AIMessageChunk becomes
        return message

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        return sync.run(self.ainvoke(input, config, **kwargs))


class RecordedTool(BaseTool):
    """A tool whose finished calls are in the journal. An agent that is a tool works under its call's path."""

    seat: Any
    inner: BaseTool

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> ToolMessage:  # noqa: ARG002
        seat, tape = self.seat, self.seat.tape
        call = ToolCall(str(input["id"]), self.name, input["args"])
        path = tape.visit(f"{seat.path}/{_part(call.id)}")
        known, purse = tape.tool(path, call), Purse(name=self.name, parent=purse_in(config or {}))
        if known is None:
            tape.tool_begun(path, ToolBegun(seat.step, seat.agent, call, _repeatable(self.inner)))
            inside = through(seat.recorder.under(path), spending(purse, config))
            known = await call_tool({self.name: self.inner}, call, inside)
            if cost := _cost(purse):
                tape.decided(f"{path}/cost", Kept("", cost))
            tape.tool_returned(path, ToolReturned(seat.step, seat.agent, call, *known))
        elif cost := tape.value(f"{path}/cost", ""):
            purse.pay(steps=cost.value["steps"], usage=Usage(**cost.value["usage"]), money=cost.value["money"])
        result, failed = known
        return ToolMessage(result, tool_call_id=call.id, name=self.name, status="error" if failed else "success")

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        return self.inner.get_input_schema(config)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner._run(*args, **kwargs)


def _cost(purse: Purse) -> Mapping[str, Any] | None:
    """What agents spent inside of a tool, for when they are not asked again."""
    steps, money = purse.spent.steps, purse.spent.money
    return {"steps": steps, "usage": asdict(purse.used), "money": money} if steps or money else None


def _part(name: str) -> str:
    """A name as one part of a path."""
    return name.replace("/", "_")


def _repeatable(tool: BaseTool) -> bool:
    """May a call be made again whose first attempt may have worked? MCP's own marks count, too."""
    said = tool.metadata or {}
    return marks_of(tool).idempotent or said.get("idempotentHint") is True or said.get("readOnlyHint") is True


def _tool(seat: _Seat, tool: BaseTool) -> RecordedTool:
    # Time-out, further tries and another process are the inner tool's: together they are one call, written down here.
    marks = replace(marks_of(tool), timeout=None, retries=0, long=False)
    return RecordedTool(
        seat=seat,
        inner=tool,
        name=tool.name,
        description=tool.description,
        args_schema=tool.args_schema,
        return_direct=tool.return_direct,
        metadata={**(tool.metadata or {}), MARKS: marks},
        tags=tool.tags,
    )


@functools.cache
def _form(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _messages(input: LanguageModelInput) -> Sequence[BaseMessage]:
    if isinstance(input, PromptValue):
        return input.to_messages()
    return convert_to_messages([input] if isinstance(input, str) else input)


def _content(message: BaseMessage) -> list[Any]:
    """What a model reads of a message; its id, usage and metadata differ when it is asked the same again."""
    calls = [[call["name"], call["args"], call["id"]] for call in getattr(message, "tool_calls", ())]
    return [message.type, message.content, calls, getattr(message, "tool_call_id", None)]


def _rest(whole: AIMessageChunk, texts: Sequence[str]) -> Mapping[str, Any]:
    """All of a message that its texts do not say."""
    fields = whole.model_dump(exclude={"type", "tool_calls", "invalid_tool_calls"})
    if whole.content == "".join(texts):
        del fields["content"]
    kept = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    plain: Mapping[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def _played(known: ModelCallKnown) -> Sequence[AIMessageChunk]:
    """The chunks of a closed call: its texts, then the rest; or one chunk, when its content was more than texts."""
    message = known.message
    if message is not None and "content" in message:
        return [AIMessageChunk(**message)]
    texts = [AIMessageChunk(content=text.text) for text in known.texts]
    return texts if message is None else [*texts, AIMessageChunk(content="", **message)]

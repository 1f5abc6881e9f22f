"""The loop of one agent: ask the model, call what it wants called, tell it what came back, until it answers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool

from plural.agents.contract import Contract
from plural.agents.merge import merge
from plural.agents.tools import call_tool
from plural.errors import ContractError, LimitError, SettingsError
from plural.types import Event, StepFinished, StepStarted, TextDelta, ToolCall, ToolCalled, ToolReturned, Usage

ChatRunnable = Runnable[LanguageModelInput, AIMessage]
AGAIN = "This call was made before and gave the same result. Answer now, without calling a tool."


@dataclass(frozen=True, slots=True)
class Equipment:
    """What one agent works with. `speaking` is its model kept from calling tools, and to the contract, if it can be."""

    name: str
    calling: ChatRunnable
    speaking: ChatRunnable
    tools: dict[str, BaseTool]
    contract: Contract | None
    max_steps: int


@dataclass(frozen=True, slots=True)
class Answer:
    text: str


@dataclass(frozen=True, slots=True)
class CallTools:
    """`unread` holds, by call id, why a call's arguments could not be read."""

    calls: tuple[ToolCall, ...]
    unread: dict[str, str]


@dataclass(frozen=True, slots=True)
class Mend:
    """The answer broke the contract, for `error`."""

    error: ContractError


@dataclass(slots=True)
class Desk:
    """What one run has so far. Only the loop writes on it."""

    messages: list[BaseMessage]
    usage: Usage = field(default_factory=Usage)
    seen: set[str] = field(default_factory=set)
    mended: bool = False


async def work(
    kit: Equipment, messages: Sequence[BaseMessage], step: int, config: RunnableConfig
) -> AsyncIterator[Event]:
    """The events of one agent's work, from StepStarted to StepFinished.

    Raises:
        LimitError: no answer within `max_steps` model calls, or calls that go in a circle.
        ContractError: the answer broke the contract, and so did the second attempt.
    """
    started, desk, model = time.monotonic(), Desk(list(messages)), kit.calling
    yield StepStarted(step, kit.name, _task(messages))
    for _ in range(kit.max_steps):
        said: AIMessageChunk | None = None
        answer: Answer | None = None
        async for chunk in model.astream(desk.messages, config):
            said = _joined(said, chunk)
            if chunk.text:
                yield TextDelta(step, kit.name, str(chunk.text))
        match _next_move(_heard(said, desk), kit.contract):
            case Answer() as answer:
                pass
            case Mend(error):
                _ask_again(desk, error)
                model = kit.speaking
            case CallTools() as move:
                if model is kit.speaking:
                    raise LimitError(f"{kit.name} keeps calling tools where it has to answer: {_listed(move.calls)}.")
                returned: dict[str, ToolReturned] = {}
                async for event in _called(kit, move, step, config):
                    yield event
                    if isinstance(event, ToolReturned):
                        returned[event.call.id] = event
                answer = _direct(kit, move, returned)
                if _observe(desk, [returned[call.id] for call in move.calls]):
                    model = kit.speaking
        if answer is not None:
            yield StepFinished(step, kit.name, answer.text, desk.usage, time.monotonic() - started)
            return
    raise LimitError(f"{kit.name} gave no answer within {kit.max_steps} steps.", hint="Raise max_steps.")


def _next_move(said: AIMessage, contract: Contract | None) -> Answer | CallTools | Mend:
    if said.tool_calls or said.invalid_tool_calls:
        good = [ToolCall(str(call["id"]), call["name"], call["args"]) for call in said.tool_calls]
        bad = [ToolCall(str(call["id"]), call["name"] or "", {}) for call in said.invalid_tool_calls]
        why = [f"The arguments of {call['name']} are not JSON: {call['args']!r}." for call in said.invalid_tool_calls]
        unread = {call.id: reason for call, reason in zip(bad, why, strict=True)}
        return CallTools((*good, *bad), unread)
    answer = str(said.text)
    if contract is not None:
        try:
            contract.parse(answer)
        except ContractError as error:
            return Mend(error)
    return Answer(answer)


async def _called(kit: Equipment, move: CallTools, step: int, config: RunnableConfig) -> AsyncIterator[Event]:
    """Every call of one turn, announced in order and run at once; the results come as they arrive."""

    async def one(call: ToolCall) -> AsyncIterator[Event]:
        if call.id in move.unread:
            result, failed = move.unread[call.id], True
        else:
            result, failed = await call_tool(kit.tools, call, config)
        yield ToolReturned(step, kit.name, call, result, failed)

    for call in move.calls:
        yield ToolCalled(step, kit.name, call)
    async for event in merge([one(call) for call in move.calls]):
        yield event


def _direct(kit: Equipment, move: CallTools, returned: dict[str, ToolReturned]) -> Answer | None:
    """The result that is the answer, when a tool marked `return_direct` was called and worked."""
    for call in move.calls:
        if call.name in kit.tools and kit.tools[call.name].return_direct and not returned[call.id].failed:
            if kit.contract is not None:
                kit.contract.parse(returned[call.id].result)
            return Answer(returned[call.id].result)
    return None


def _observe(desk: Desk, returned: Sequence[ToolReturned]) -> bool:
    """Puts the results in front of the model. True when all of them were there before: it goes in a circle."""
    circles = 0
    for event in returned:
        mark = json.dumps([event.call.name, event.call.arguments, event.result], sort_keys=True, default=str)
        again = mark in desk.seen
        desk.seen.add(mark)
        circles += again
        status = "error" if event.failed else "success"
        text = f"{event.result}\n{AGAIN}" if again else event.result
        desk.messages.append(ToolMessage(text, tool_call_id=event.call.id, name=event.call.name, status=status))
    return circles == len(returned)


def _ask_again(desk: Desk, error: ContractError) -> None:
    if desk.mended:
        raise error
    desk.mended = True
    desk.messages.append(HumanMessage(f"{error.message} Answer again."))


def _joined(so_far: AIMessageChunk | None, chunk: object) -> AIMessageChunk:
    if not isinstance(chunk, AIMessageChunk):
        raise SettingsError(f"The agent's model answers with {type(chunk).__name__}.", hint="Give it a chat model.")
    return chunk if so_far is None else so_far + chunk


def _heard(said: AIMessageChunk | None, desk: Desk) -> AIMessage:
    """The whole message, put on the desk and paid for."""
    message = message_chunk_to_message(said or AIMessageChunk(content=""))
    assert isinstance(message, AIMessage)  # what an AIMessageChunk becomes
    desk.messages.append(message)
    if counted := message.usage_metadata:
        cached = counted.get("input_token_details", {}).get("cache_read", 0)
        desk.usage += Usage(counted["input_tokens"], counted["output_tokens"], cached)
    return message


def _listed(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name}({json.dumps(dict(call.arguments), default=str)})" for call in calls)


def _task(messages: Sequence[BaseMessage]) -> str:
    return next((str(message.text) for message in reversed(messages) if message.type == "human"), "")

"""The loop of one agent: ask the model, call what it wants called, tell it what came back, until it answers."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool

from plural.agents.approval import Deny
from plural.agents.budget import Price, usage_of
from plural.agents.contract import Contract
from plural.agents.desk import Answer, CallTools, Desk, HandOver, put_away
from plural.agents.marks import Marks, marks_of
from plural.agents.merge import merge
from plural.agents.middleware import Middleware, Observation, ToolRunner, Turn
from plural.agents.tools import call_tool
from plural.errors import ContractError, LimitError, SettingsError
from plural.types import (
    Event,
    HandedOff,
    LimitReached,
    Paused,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCall,
    ToolCalled,
    ToolReturned,
)

ChatRunnable = Runnable[LanguageModelInput, AIMessage]
AGAIN = "This call was made before and gave the same result. Answer now, without calling a tool."


@dataclass(frozen=True, slots=True)
class Equipment:
    """What one agent works with: its model as it is, with the tools, and kept from calling them and to the contract, if
    it can be `held` to anything. `last` stands after the transcript whenever the model reads it."""

    name: str
    plain: ChatRunnable
    calling: ChatRunnable
    speaking: ChatRunnable
    held: bool
    tools: dict[str, BaseTool]
    contract: Contract | None
    middleware: tuple[Middleware, ...]
    price: Price
    last: tuple[BaseMessage, ...]

    def marks(self, call: ToolCall) -> Marks:
        return marks_of(self.tools[call.name]) if call.name in self.tools else Marks()


async def work(kit: Equipment, desk: Desk, config: RunnableConfig) -> AsyncIterator[Event]:
    """The events of one agent's work, from StepStarted (unless it goes on) to StepFinished, HandedOff or Paused.

    Raises:
        LimitError: the budget is used up and there is no answer, or calls go in a circle.
        ContractError: the answer broke the contract, and so did the second attempt.
    """
    if desk.move is None:
        yield StepStarted(desk.step, kit.name, desk.task)
    try:
        while (outcome := _outcome(kit, desk)) is None:
            stage = _think if desk.move is None else _act
            async with aclosing(stage(kit, desk, config)) as events:
                async for event in events:
                    yield event
    except LimitError as error:
        if not error.limit:
            raise
        yield LimitReached(desk.step, kit.name, error.limit, error.value)
        if kit.contract or not desk.spoken:
            raise
        outcome = _finished(kit, desk, desk.spoken)
    yield outcome


def _outcome(kit: Equipment, desk: Desk) -> StepFinished | HandedOff | Paused | None:
    """What the work came to, if nothing is left to do, or nothing without a person."""
    match desk.move:
        case Answer(text, probability):
            return _finished(kit, desk, text, probability)
        case HandOver(to, task):
            return HandedOff(desk.step, kit.name, to, task, desk.usage, desk.seconds, desk.money)
        case CallTools() as move if waiting := _unapproved(kit, move):
            return Paused(desk.step, kit.name, waiting, put_away(desk, move), desk.usage, desk.seconds)
    return None


def _finished(kit: Equipment, desk: Desk, answer: str, probability: float | None = None) -> StepFinished:
    told = (desk.step, kit.name, answer, desk.usage, desk.seconds)
    return StepFinished(*told, money=desk.money, probability=probability)


# ------------------------------------------------------------------------------------------------------------- think
async def _think(kit: Equipment, desk: Desk, config: RunnableConfig) -> AsyncGenerator[Event, None]:
    """One model call, and the move that it stands for."""
    desk.spoken = ""
    turn = await _prepared(kit, desk, config)
    chunks: list[AIMessageChunk] = []
    desk.purse.draw(steps=1)
    desk.turns += 1
    model = kit.speaking if desk.closing else kit.calling
    async with aclosing(desk.purse.within(model.astream([*desk.messages, *kit.last], config))) as stream:
        async for chunk in stream:
            chunks.append(_checked(chunk))
            if text := str(chunk.text):
                desk.spoken += text
                yield TextDelta(desk.step, kit.name, text)
    drawn = said = _whole(chunks)
    _pay(kit, desk, said)
    for each in reversed(kit.middleware):
        said = await each.after_model(turn, said)
    desk.messages.append(said)
    if said.tool_calls or said.invalid_tool_calls:
        desk.spoken = ""
        desk.move = _calls(kit, desk, said)
    else:
        sure = _probability(drawn) if said.text == drawn.text else None
        desk.move = _answer(kit, desk, str(said.text), _cut_off(said), sure)
        if _cut_off(said) and desk.move is not None:
            yield LimitReached(desk.step, kit.name, "max_tokens", float(usage_of(said).completion))


async def _prepared(kit: Equipment, desk: Desk, config: RunnableConfig) -> Turn:
    async def ask(messages: Sequence[BaseMessage]) -> str:
        desk.purse.draw(steps=1)
        stream = desk.purse.within(kit.plain.astream(messages, config))
        said = _whole([_checked(chunk) async for chunk in stream])
        _pay(kit, desk, said)
        return str(said.text)

    def turn() -> Turn:
        return Turn(kit.name, desk.step, desk.turns, tuple(desk.messages), ask)

    for each in kit.middleware:
        desk.messages = list(await each.before_model(turn()))
    return turn()


def _calls(kit: Equipment, desk: Desk, said: AIMessage) -> CallTools:
    good = [ToolCall(str(call["id"]), call["name"], call["args"]) for call in said.tool_calls]
    bad = [ToolCall(str(call["id"]), call["name"] or "", {}) for call in said.invalid_tool_calls]
    if desk.closing:
        raise LimitError(f"{kit.name} keeps calling tools where it has to answer: {_listed((*good, *bad))}.")
    if cut := _cut_off(said):
        # What was written of it is not told, so that a tool's call that is cut off once more is a circle.
        told = f"{cut}, before its arguments were whole, and was not made. Make it shorter."
        why = [f"The call of {call['name'] or 'a tool'} {told}" for call in said.invalid_tool_calls]
    else:
        why = [f"The arguments of {call['name']} are not JSON: {call['args']!r}." for call in said.invalid_tool_calls]
    unread = {call.id: reason for call, reason in zip(bad, why, strict=True)}
    return CallTools((*good, *bad), unread)


def _answer(kit: Equipment, desk: Desk, text: str, cut: str, probability: float | None) -> Answer | None:
    """None when it broke the contract and is asked for once more. `cut` says that it was cut off."""
    try:
        if kit.contract is not None:
            kit.contract.parse(text)
        if cut and not text.strip():
            raise LimitError(f"The answer of {kit.name} {cut} and says nothing.", hint="Raise max_tokens.")
        return Answer(text, probability)
    except ContractError as error:
        told = f"The answer {cut}. {error.message}" if cut else error.message
        if desk.mended:
            raise ContractError(told, hint="Raise max_tokens." if cut else error.hint) from error
        desk.mended = desk.closing = True
        wish = HumanMessage(f"{told} Answer again.", additional_kwargs={"plural": "again"})  # is no new task
        desk.messages.append(wish)
        return None


# --------------------------------------------------------------------------------------------------------------- act
def _unapproved(kit: Equipment, move: CallTools) -> tuple[ToolCall, ...]:
    settled = {*move.unread, *move.verdicts}
    return tuple(call for call in move.calls if kit.marks(call).approval and call.id not in settled)


async def _act(kit: Equipment, desk: Desk, config: RunnableConfig) -> AsyncGenerator[Event, None]:
    """Every call of one turn, announced in order and run at once; the results come as they arrive. Then the move that
    they leave: an answer, a handover, or none."""
    move = desk.move
    assert isinstance(move, CallTools)  # what is no outcome

    async def call(one: ToolCall) -> Observation:
        return Observation(*await call_tool(kit.tools, one, config))

    run: ToolRunner = call
    for each in reversed(kit.middleware):
        run = functools.partial(each.around_tool, run=run)

    async def observed(one: ToolCall) -> AsyncIterator[ToolReturned]:
        result, failed = refused[one.id] if one.id in refused else await run(one)
        yield ToolReturned(desk.step, kit.name, one, result, failed)

    refused = _refused(move)
    desk.purse.draw(money=sum(kit.marks(one).cost for one in move.calls if one.id not in refused))
    for one in move.calls:
        yield ToolCalled(desk.step, kit.name, one)
    returned: dict[str, ToolReturned] = {}
    async for event in desk.purse.within(merge([observed(one) for one in move.calls])):
        returned[event.call.id] = event
        yield event
    results = [returned[one.id] for one in move.calls]
    _observe(kit, desk, results)
    desk.move = _settled(kit, [event for event in results if not event.failed])


def _refused(move: CallTools) -> Mapping[str, Observation]:
    """The calls that are not made, by their ids: unreadable ones, and those that a person denied."""
    unread = {key: Observation(reason, True) for key, reason in move.unread.items()}
    denied = {
        key: Observation(f"A person denied this call: {verdict.reason}", True)
        for key, verdict in move.verdicts.items()
        if isinstance(verdict, Deny)
    }
    return unread | denied


def _observe(kit: Equipment, desk: Desk, returned: Sequence[ToolReturned]) -> None:
    """Puts the results in front of the model. When all of them were there before, it goes in a circle. A model that can
    be kept from calling is not told so: small ones copy what they are told, and the result alone is what they need."""
    circles = 0
    for event in returned:
        mark = json.dumps([event.call.name, event.call.arguments, event.result], sort_keys=True, default=str)
        again = mark in desk.seen
        desk.seen.add(mark)
        circles += again
        status = "error" if event.failed else "success"
        text = f"{event.result}\n{AGAIN}" if again and not kit.held else event.result
        desk.messages.append(ToolMessage(text, tool_call_id=event.call.id, name=event.call.name, status=status))
    desk.closing |= circles == len(returned)


def _settled(kit: Equipment, worked: Sequence[ToolReturned]) -> Answer | HandOver | None:
    """What the calls that worked come to: the result of a tool marked `return_direct` is the answer."""
    for event in worked:
        if to := kit.marks(event.call).handoff:
            return HandOver(to, str(event.call.arguments["task"]))
    for event in worked:
        if event.call.name in kit.tools and kit.tools[event.call.name].return_direct:
            if kit.contract is not None:
                kit.contract.parse(event.result)
            return Answer(event.result)
    return None


# ----------------------------------------------------------------------------------------------------- what was said
def _checked(chunk: object) -> AIMessageChunk:
    if not isinstance(chunk, AIMessageChunk):
        raise SettingsError(f"The agent's model answers with {type(chunk).__name__}.", hint="Give it a chat model.")
    return chunk


def _whole(chunks: list[AIMessageChunk]) -> AIMessage:
    first, *rest = chunks or [AIMessageChunk(content="")]
    whole = first + rest
    message = message_chunk_to_message(whole)
    assert isinstance(message, AIMessage)  # what an AIMessageChunk becomes
    broken = {chunk["id"] for chunk in whole.tool_call_chunks if not _is_json(chunk["args"] or "{}")}
    if mended := [call for call in message.tool_calls if call["id"] in broken]:
        # LangChain closes the brackets of arguments that break off. They are not what the model meant.
        written = {chunk["id"]: chunk["args"] for chunk in whole.tool_call_chunks}
        unread = [invalid_tool_call(name=c["name"], args=written[c["id"]], id=c["id"], error=None) for c in mended]
        message.tool_calls = [call for call in message.tool_calls if call["id"] not in broken]
        message.invalid_tool_calls = [*message.invalid_tool_calls, *unread]
    return message


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except ValueError:
        return False
    return True


def _cut_off(said: AIMessage) -> str:
    """Whether its length ended it, as any provider says it."""
    told = [said.response_metadata.get(key) for key in ("finish_reason", "stop_reason", "done_reason")]
    if not any(why in ("length", "max_tokens", "MAX_TOKENS") for why in told):
        return ""
    written = usage_of(said).completion
    return f"was cut off after {written} tokens" if written else "was cut off"


def _probability(said: AIMessage) -> float | None:
    """Of the whole text, where the model tells."""
    logprob = said.response_metadata.get("logprob")
    return math.exp(logprob) if isinstance(logprob, float) else None


def _pay(kit: Equipment, desk: Desk, said: AIMessage) -> None:
    usage = usage_of(said)
    desk.purse.pay(usage=usage, money=kit.price.of(usage))


def _listed(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name}({json.dumps(dict(call.arguments), default=str)})" for call in calls)

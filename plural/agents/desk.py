"""What one run of an agent has so far, and the next move. Plain data: it can be put away as JSON and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, messages_from_dict, messages_to_dict

from plural.agents.approval import Approve, Reviewed, Verdict
from plural.agents.budget import Budget, Purse, Spent
from plural.errors import SettingsError
from plural.types import ToolCall, Usage

_VERSION = 1


# ------------------------------------------------------------------------------------------------------------- moves
@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class CallTools:
    """`unread` holds, by call id, why a call's arguments could not be read; `verdicts` what a person said of one."""

    calls: tuple[ToolCall, ...]
    unread: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandOver:
    to: str
    task: str


# -------------------------------------------------------------------------------------------------------------- desk
@dataclass(slots=True)
class Desk:
    """Only the loop writes on it.

    `messages` is the transcript, `turns` counts the model calls, `spoken` is what the model has said in the turn under
    way. `seen` holds every call with its result. After a contract was broken, or a circle closed, the model has to
    answer: it is `closing`.
    """

    step: int
    purse: Purse
    messages: list[BaseMessage]
    turns: int = 0
    spoken: str = ""
    seen: set[str] = field(default_factory=set)
    closing: bool = False
    mended: bool = False
    move: Answer | CallTools | HandOver | None = None

    @property
    def task(self) -> str:
        return next((str(message.text) for message in reversed(self.messages) if message.type == "human"), "")

    @property
    def usage(self) -> Usage:
        """With that of agents which are its tools."""
        return self.purse.used

    @property
    def seconds(self) -> float:
        return self.purse.spent.seconds

    @property
    def money(self) -> float:
        return self.purse.spent.money


def put_away(desk: Desk, move: CallTools) -> dict[str, Any]:
    """The desk as plain JSON, with calls that wait for a person."""
    return {
        "version": _VERSION,
        "messages": messages_to_dict(desk.messages),
        "usage": asdict(desk.usage),
        "spent": asdict(desk.purse.spent),
        "turns": desk.turns,
        "seen": sorted(desk.seen),
        "closing": desk.closing,
        "mended": desk.mended,
        "calls": [asdict(call) for call in move.calls],
        "unread": dict(move.unread),
    }


def taken_up(reviewed: Reviewed, name: str, budget: Budget, parent: Purse | None) -> Desk:
    """The desk as it was put away, with the person's verdicts. Edited arguments stand in the transcript as well, so
    that the model reads which call its result belongs to.

    Raises:
        SettingsError: another agent's run, or a state that `put_away` did not make.
    """
    paused, state = reviewed.paused, reviewed.paused.state
    if paused.agent != name:
        raise SettingsError(f"The run of agent {paused.agent!r} cannot go on with {name!r}.")
    if state.get("version") != _VERSION:
        raise SettingsError(f"The paused run has version {state.get('version')!r}; this Plural reads {_VERSION}.")
    try:
        calls = tuple(ToolCall(**call) for call in state["calls"])
        desk = Desk(
            paused.step,
            Purse(budget, name, parent=parent, spent=Spent(**state["spent"]), used=Usage(**state["usage"])),
            messages_from_dict(state["messages"]),
            turns=state["turns"],
            seen=set(state["seen"]),
            closing=state["closing"],
            mended=state["mended"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"The paused run of {name!r} is damaged: {error!r}.") from error
    edited = {
        key: verdict.arguments
        for key, verdict in reviewed.verdicts.items()
        if isinstance(verdict, Approve) and verdict.arguments is not None
    }
    if edited:
        calls = tuple(replace(call, arguments=edited.get(call.id, call.arguments)) for call in calls)
        desk.messages[-1] = _edited(desk.messages[-1], edited)
    desk.move = CallTools(calls, state["unread"], reviewed.verdicts)
    return desk


def _edited(message: BaseMessage, arguments: Mapping[str, Mapping[str, Any]]) -> BaseMessage:
    assert isinstance(message, AIMessage)  # a run pauses right after what the model said
    calls: Sequence[Any] = [
        {**call, "args": dict(arguments[str(call["id"])])} if call["id"] in arguments else call
        for call in message.tool_calls
    ]
    return message.model_copy(update={"tool_calls": calls})

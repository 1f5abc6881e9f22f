"""Conversations: in turn, by choice, by handing over. After AutoGen (arXiv 2308.08155)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plural.errors import PlanError, SettingsError
from plural.teams.patterns.state import Decide, Finish, Next, Pattern, State, distinct, say

_NOBODY = "nobody"


def round_robin(names: Sequence[str], *, rounds: int | None = None) -> Pattern:
    """Each in turn, again and again; the last word is the answer. Without `rounds` a condition has to end it.

    Two members, one of them a `Proxy`, are AutoGen's two-agent chat.
    """
    names = distinct(names, "round_robin")
    if rounds is not None and rounds < 1:
        raise SettingsError(f"rounds is {rounds}; it must be at least 1.")

    def next_(state: State) -> Next:
        spoken = len(state.turns)
        if rounds is not None and spoken == rounds * len(names):
            return Finish(state.turns[-1].text)
        return say(names[spoken % len(names)])

    tells = tuple((name, names[(at + 1) % len(names)], False) for at, name in enumerate(names))
    return Pattern("round robin", next_, names, tells=tells)


def selector(
    names: Sequence[str],
    *,
    allowed: Mapping[str, Sequence[str]] | None = None,
    repeat: bool = False,
    may_end: bool = False,
) -> Pattern:
    """The team's model chooses who speaks next: a choice among names, with its probability, that cannot be anything
    else.

    Args:
        allowed: who may speak after whom; a member that is not in it may be followed by anybody.
        repeat: whether one may speak twice in a row.
        may_end: whether "nobody" is an option too, which ends the conversation.

    Raises:
        PlanError: unknown names in `allowed`, or one after whom nobody may speak.
    """
    names = distinct(names, "selector", least=2)
    after = {name: tuple(allowed[name]) if allowed and name in allowed else names for name in names}
    for name, others in (allowed or {}).items():
        for other in (name, *others):
            if other not in names:
                raise PlanError(f"allowed names {other!r}, who is no member.", hint=f"Members: {', '.join(names)}.")
    if not repeat:
        after = {name: tuple(other for other in others if other != name) for name, others in after.items()}
    alone = [name for name, others in after.items() if not others and not may_end]
    if alone:
        raise PlanError(f"Nobody may speak after {alone[0]!r}.", hint="Allow somebody, or repeat=True.")

    def next_(state: State) -> Next:
        key = f"speaker {len(state.turns)}"
        if made := state.decisions(key):
            return Finish(state.turns[-1].text) if made[0].value == _NOBODY else say(made[0].value)
        options = names if state.last is None else after[state.last.agent]
        if may_end and state.last is not None:
            options = (*options, _NOBODY)
        if len(options) == 1 and options[0] != _NOBODY:
            return say(options[0])
        return (Decide(key, _who_next(state, options), options, speaker=True),)

    tells = tuple((name, other, True) for name, others in after.items() for other in others)
    return Pattern("selector", next_, names, decides=True, tells=tells)


def _who_next(state: State, options: Sequence[str]) -> str:
    """The question as a role-play: AutoGen's pilot study found it better than a question about the task."""
    known = "\n".join(f"{name}: {state.members[name]}" for name in options if name != _NOBODY)
    end = " Say nobody when the task is done." if _NOBODY in options else ""
    return f"You are in a conversation of these roles:\n{known}\n\n{state.transcript()}\n\nWho speaks next?{end}"


def handoff(names: Sequence[str], *, start: str | None = None) -> Pattern:
    """A swarm: who has the conversation keeps it until a tool of `plural.agents.handoff_to` hands it over; the first
    one who answers without handing over has answered.

    Raises:
        PlanError: `start` is no member.
    """
    names = distinct(names, "handoff")
    first = names[0] if start is None else start
    if first not in names:
        raise PlanError(f"start is {first!r}, who is no member.", hint=f"Members: {', '.join(names)}.")

    def next_(state: State) -> Next:
        if state.last is None:
            return say(first)
        to = state.last.handed_to
        if not to:
            return Finish(state.last.text)
        if to not in names:
            raise PlanError(f"{state.last.agent} hands over to {to!r}, who is no member.")
        return say(to)

    tells = tuple((name, other, True) for name in names for other in names if name != other)
    return Pattern("handoff", next_, names, tells=tells)

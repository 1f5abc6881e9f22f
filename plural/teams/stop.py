"""When a team's run ends, whatever its pattern would do next: conditions that combine with & and |.

stop = messages(20) | (says("DONE") & messages(3)) | seconds(60)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plural.agents.budget import Price
from plural.errors import SettingsError
from plural.teams.patterns.state import State


@dataclass(frozen=True, slots=True)
class Condition:
    """`why` says of a state why the run ends there, or nothing."""

    why: Callable[[State], str]

    def __or__(self, other: Condition) -> Condition:
        return Condition(lambda state: self.why(state) or other.why(state))

    def __and__(self, other: Condition) -> Condition:
        def both(state: State) -> str:
            first, second = self.why(state), other.why(state)
            return f"{first} and {second}" if first and second else ""

        return Condition(both)


def messages(most: int) -> Condition:
    """After so many turns."""
    _positive("messages", most)
    return Condition(lambda state: f"{most} messages" if len(state.turns) >= most else "")


def tokens(most: int) -> Condition:
    """After so many tokens, read (and not found in the cache) or written."""
    _positive("tokens", most)

    def why(state: State) -> str:
        used = state.usage.prompt - state.usage.cached + state.usage.completion
        return f"{used} tokens" if used >= most else ""

    return Condition(why)


def money(most: float, prices: Mapping[str, Price | tuple[float, float]] | None = None) -> Condition:
    """After so much money: all that the run has spent, at the prices of its agents, its tools and its team. With
    `prices`, what the turns and decisions of their members cost, and "team" is the team's own model; who is not named
    costs nothing."""
    _positive("money", most)
    known = {name: each if isinstance(each, Price) else Price(*each) for name, each in (prices or {}).items()}

    def spent(state: State) -> float:
        turns = [(turn.agent, turn.usage) for turn in state.turns]
        decisions = zip(state.deciders, (decision.usage for _, decision in state.decided), strict=False)
        return sum(known[name].of(usage) for name, usage in (*turns, *decisions) if name in known)

    def why(state: State) -> str:
        so_far = state.money if prices is None else spent(state)
        return f"{so_far:.6g} spent" if so_far >= most else ""

    return Condition(why)


def seconds(most: float) -> Condition:
    """After so many seconds of work. What is under way is finished; a run that waits for a person does not work."""
    _positive("seconds", most)
    return Condition(lambda state: f"{state.seconds:.1f} seconds" if state.seconds >= most else "")


def says(text: str, *, by: str | None = None) -> Condition:
    """When the last turn (of `by`) contains the text."""
    if not text:
        raise SettingsError("says needs a text.")

    def why(state: State) -> str:
        turn = state.last
        said = turn is not None and text in turn.text and by in (None, turn.agent)
        return f"{text!r} was said" if said else ""

    return Condition(why)


def calls(tool: str) -> Condition:
    """When this tool was called, and worked, in the last turn."""

    def why(state: State) -> str:
        called = state.last is not None and any(call.name == tool for call in state.last.calls)
        return f"{tool} was called" if called else ""

    return Condition(why)


def hands_to(name: str) -> Condition:
    """When the last turn hands the conversation over to `name`, who need not be a member: a person, say."""

    def why(state: State) -> str:
        handed = state.last is not None and state.last.handed_to == name
        return f"handed to {name}" if handed else ""

    return Condition(why)


def no_progress(turns: int = 3) -> Condition:
    """When the last so many turns all repeat, by word, what the same member said before."""
    _positive("no_progress", turns)

    def why(state: State) -> str:
        seen: set[tuple[str, str]] = set()
        again = 0
        for turn in state.turns:
            mark = turn.agent, " ".join(turn.text.casefold().split())
            again = again + 1 if mark in seen else 0
            seen.add(mark)
        return f"{again} turns without anything new" if again >= turns else ""

    return Condition(why)


class Switch:
    """Ends runs from outside: `switch = Switch()`, `stop=switch.condition`, and later `switch.off()`, in any thread."""

    def __init__(self) -> None:
        self._off = False
        self.condition = Condition(lambda _: "stopped from outside" if self._off else "")

    def off(self) -> None:
        self._off = True


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise SettingsError(f"{name} is {value!r}; it must be above 0.")

"""Short-term memory: the transcript, kept within a budget of tokens by forgetting its oldest part or summarising it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import count_tokens_approximately

from plural.agents.middleware import Middleware, Turn
from plural.errors import SettingsError

_LETTERS = 4  # of a token, about
_WISH = (
    "Below is the earlier part of a conversation. Write down, in at most {words} words, what has to be remembered of "
    "it: facts, results, decisions, and what is still to do. Write nothing else.\n\n{text}"
)
_SUMMARY = "What was said and done before, in short: {text}"

Unit = tuple[BaseMessage, ...]


class ShortTerm(Middleware):
    """When the transcript has more than `tokens`, its oldest part goes, down to half of them, so that what stays in the
    prefix cache is good for many turns. System messages, the task and the newest turn always stay, and a call and its
    results stay or go together. The instructions that come last, and the tools, are not counted.

    Args:
        tokens: the budget.
        how: "summarise": the agent's model writes down what has to be remembered, at the run's expense. "forget".
        count: tokens of some messages; about a quarter of their characters if left out.
    """

    def __init__(
        self,
        tokens: int,
        *,
        how: Literal["summarise", "forget"] = "summarise",
        count: Callable[[Sequence[BaseMessage]], int] = count_tokens_approximately,
    ) -> None:
        if tokens < 1:
            raise SettingsError(f"tokens of a short-term memory is {tokens}; it must be at least 1.")
        if how not in ("summarise", "forget"):
            raise SettingsError(f"how is {how!r}.", hint="Known: summarise, forget.")
        self.tokens = tokens
        self._summarises = how == "summarise"
        self._count = count

    async def before_model(self, turn: Turn) -> Sequence[BaseMessage]:
        if self._count(turn.messages) <= self.tokens:
            return turn.messages
        first = [message for message in turn.messages if isinstance(message, SystemMessage)]
        units = list(_units(turn.messages))
        kept = self._kept(units, self._count(first))
        gone = [message for unit, stays in zip(units, kept, strict=True) for message in unit if not stays]
        stayed = [message for unit, stays in zip(units, kept, strict=True) for message in unit if stays]
        if not gone:
            return turn.messages
        summary = await self._summary(turn, gone) if self._summarises else ""
        return [*first, *([AIMessage(_SUMMARY.format(text=summary))] if summary else []), *stayed]

    def _kept(self, units: Sequence[Unit], used: int) -> list[bool]:
        """Which units stay: the newest that fit into half the budget, and always the newest and the task."""
        task = max((at for at, unit in enumerate(units) if _is_task(unit[0])), default=-1)
        if task >= 0:
            used += self._count(units[task])
        kept = [at == task for at in range(len(units))]
        for at in reversed(range(len(units))):
            if at == task:
                continue
            used += self._count(units[at])
            if used > self.tokens // 2 and at < len(units) - 1:
                break
            kept[at] = True
        return kept

    async def _summary(self, turn: Turn, gone: Sequence[BaseMessage]) -> str:
        longest = max(200, self.tokens * _LETTERS // len(gone))
        text = "\n".join(_short(line, longest) for message in gone for line in _lines(message))
        wish = _WISH.format(words=max(20, self.tokens // 8), text=text)
        return _short((await turn.ask([HumanMessage(wish)])).strip(), max(100, self.tokens * _LETTERS // 4))


def _units(messages: Sequence[BaseMessage]) -> Iterator[Unit]:
    """What stays or goes together: a turn of the model with all results of its calls; any other message alone."""
    unit: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        if unit and message.type != "tool":
            yield tuple(unit)
            unit = []
        unit.append(message)
    if unit:
        yield tuple(unit)


def _is_task(message: BaseMessage) -> bool:
    """Said by whom the agent works for, and not by its loop."""
    return message.type == "human" and "plural" not in message.additional_kwargs


def _lines(message: BaseMessage) -> Iterator[str]:
    who = {"human": "User", "tool": f"Result of {message.name}"}.get(message.type, "Assistant")
    if text := str(message.text).strip():
        yield f"{who}: {text}"
    for call in getattr(message, "tool_calls", ()):
        yield f"Assistant called {call['name']}({', '.join(f'{key}={value!r}' for key, value in call['args'].items())})"


def _short(text: str, longest: int) -> str:
    """Cut in the middle: beginnings and ends say most."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"

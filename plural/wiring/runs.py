"""The network's runs: the stream that a caller reads, and how a run in a journal is begun and gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plural import sync
from plural.errors import PromptError, RunError
from plural.types import Event, Message

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from plural.agents.loop import ChatRunnable
    from plural.teams.journal import Journal

# Of a request, with the keywords `to`, `history` and `config`.
Work = Callable[..., AsyncIterator[Event]]
_KIND = "network"


class EventStream:
    """The events of one run, once: `for event in ...` or `async for event in ...`. `run` is its name in the journal."""

    def __init__(self, events: AsyncIterator[Event], run: str | None = None) -> None:
        self._events, self.run = events, run

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    def __iter__(self) -> Iterator[Event]:
        return sync.iterate(self._events)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What works on a run: the network, and who in it is asked."""

    work: Work
    to: str | None

    async def events(self, input: Any, config: RunnableConfig | None = None) -> AsyncIterator[Event]:
        history = [Message(**said) for said in input["history"]]
        async for event in self.work(input["request"], to=self.to, history=history, config=config):
            yield event


def enter(
    journal: Journal,
    base: str,
    request: str,
    *,
    to: str | None,
    history: Sequence[Message],
    about: Mapping[str, Any] | None = None,
    client: str | None = None,
) -> str:
    """A new run, which nobody works on yet. `base` is the digest of the base that shall; `about` is kept with it."""
    if not request.strip():
        raise PromptError("The request is empty.", hint="Say what you want.")
    said = [{"role": message.role, "content": message.content} for message in history]
    target = {"kind": _KIND, "to": to, "base": base, **(about or {})}
    return journal.create({"request": request, "history": said}, target, title=request, client=client)


def begin(
    journal: Journal, work: Work, base: str, request: str, *, to: str | None, history: Sequence[Message]
) -> EventStream:
    from plural.teams import journal as journals

    run = enter(journal, base, request, to=to, history=history)
    return EventStream(journals.resume(journal, run, _Asked(work, to)), run)


def resume(journal: Journal, work: Work, base: str, run: str, model: Callable[[str], ChatRunnable]) -> EventStream:
    """Goes on with a run. `model` gives that of the one that a fork is to go on with.

    Raises:
        RunError: there is no such run, or it was begun by something else or on another base.
    """
    from plural.teams import journal as journals

    found = journal.find(run).id
    target = journal.target(found)
    if target.get("kind") != _KIND:
        raise RunError(
            f"Run {found} was not begun by `plural ask` or `plural chat`.",
            hint="Resume it with plural.teams.journal.resume and what worked on it.",
        )
    if target["base"] != base:
        raise RunError(f"Run {found} was begun on another base.", hint="Give that one with --base.")
    instead = model(target["with"]) if "with" in target else None
    return EventStream(journals.resume(journal, found, _Asked(work, target["to"]), instead=instead), found)

"""The network's runs: the stream that a caller reads, and how a run in a journal is begun and gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plural import sync
from plural.agents import Budget, Purse, spending
from plural.agents.budget import purse_in
from plural.errors import PromptError, RunError, SettingsError
from plural.types import Event, Message

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from plural.agents.loop import ChatRunnable
    from plural.teams.journal import Journal

# Of a request, with the keywords `to`, `history`, `budget` and `config`, and `approve` where a plan has to be approved.
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
    """What works on a run: the network, and how it is asked."""

    work: Work
    target: Mapping[str, Any]

    async def events(self, input: Any, config: RunnableConfig | None = None) -> AsyncIterator[Event]:
        history = [Message(**said) for said in input["history"]]
        how: dict[str, Any] = {"to": self.target["to"], "budget": budget_of(self.target)}
        if self.target.get("approve"):
            how["approve"] = True
        async for event in self.work(input["request"], **how, history=history, config=config):
            yield event


def budgeted(budget: Budget) -> Mapping[str, Any]:
    """What a run says of its budget, of which `budget_of` reads it again; nothing where there is no limit."""
    limits = {name: value for name, value in asdict(budget).items() if value is not None}
    return {"budget": limits} if limits else {}


def budget_of(target: Mapping[str, Any]) -> Budget:
    return Budget(**target.get("budget", {}))


def within(target: Mapping[str, Any], config: RunnableConfig | None) -> RunnableConfig:
    """A config under which everybody pays from the run's budget."""
    return spending(Purse(budget_of(target), "the run", parent=purse_in(config or {})), config)


def enter(
    journal: Journal,
    base: str,
    request: str,
    *,
    to: str | None,
    history: Sequence[Message],
    budget: Budget = Budget(),
    approve: bool = False,
    about: Mapping[str, Any] | None = None,
    client: str | None = None,
) -> str:
    """A new run, which nobody works on yet. `base` is the digest of the base that shall; `about` is kept with it.

    Raises:
        PromptError: the request is empty.
        SettingsError: somebody is asked by name, who makes no plan that could be approved.
    """
    if not request.strip():
        raise PromptError("The request is empty.", hint="Say what you want.")
    check_approval(to, approve)
    said = [{"role": message.role, "content": message.content} for message in history]
    target = {"kind": _KIND, "to": to, "base": base, **budgeted(budget), **(about or {})}
    if approve:
        target["approve"] = True
    return journal.create({"request": request, "history": said}, target, title=request, client=client)


def check_approval(to: str | None, approve: bool) -> None:
    """Raises SettingsError as `enter` does."""
    if approve and to is not None:
        raise SettingsError(f"{to} makes no plan that could be approved.", hint="Ask the network, or leave it out.")


def begin(
    journal: Journal,
    work: Work,
    base: str,
    request: str,
    *,
    to: str | None,
    history: Sequence[Message],
    budget: Budget = Budget(),
    approve: bool = False,
) -> EventStream:
    from plural.teams import journal as journals

    run = enter(journal, base, request, to=to, history=history, budget=budget, approve=approve)
    return EventStream(journals.resume(journal, run, _Asked(work, journal.target(run))), run)


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
    return EventStream(journals.resume(journal, found, _Asked(work, target), instead=instead), found)

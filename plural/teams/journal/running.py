"""Working on a run that is in a journal: begin it, go on with it, play it back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from langchain_core.messages import BaseMessage, messages_from_dict, messages_to_dict
from langchain_core.runnables import Runnable, RunnableConfig

from plural.agents.agent import Agent
from plural.agents.asking import approved
from plural.agents.effects import through
from plural.agents.loop import ChatRunnable
from plural.agents.waiting import Waiting
from plural.errors import EngineStopped, RunError, StorageError
from plural.teams.journal.entries import Entry, RunStarted
from plural.teams.journal.owner import LEASE_S
from plural.teams.journal.recorder import Recorder
from plural.teams.journal.store import Journal, Log
from plural.teams.journal.tape import Tape, shown
from plural.types import Event, RunFinished, Usage


class Worker(Protocol):
    """What can work on a run: an agent, a team, the network."""

    def events(self, input: Any, config: RunnableConfig | None = None) -> AsyncIterable[Event]: ...


Works = Worker | Runnable[Any, Any]


async def begin(
    journal: Journal, worker: Works, input: Any, config: RunnableConfig | None = None
) -> AsyncIterator[Event]:
    """A new run: each event is written, then yielded. `input` is a text, messages, or what JSON can say."""
    run = journal.create(input_to_json(input))
    async for event in resume(journal, run, worker, config):
        yield event


async def resume(
    journal: Journal,
    run: str,
    worker: Works,
    config: RunnableConfig | None = None,
    *,
    instead: ChatRunnable | None = None,
) -> AsyncIterator[Event]:
    """All of a run's events: those that were shown before, from the journal, then what comes after them.

    Nothing that was finished is done again. When a person has to answer first, the last events are `Question`s, after
    all that could be done without the answers, and the run waits for `Journal.answer`.

    Args:
        worker: what worked on the run before. Any Runnable will do; the agents inside of it are recorded.
        instead: the model that makes new calls, in place of the agents' own (for a fork).

    Raises:
        RunError: another process works on it, or the worker does something else than the journal says.
    """
    run = journal.find(run).id
    with journal.owned(run) as log:
        tape = Tape(log)
        if tape.finished is not None:
            log.settle("finished")  # it may have been killed before it could say so
            for event in shown(log.entries):
                yield event
            return
        if len(log.entries) > 1:
            log.resumed()
        if questions := tape.questions():
            log.settle("waiting")
            for question in questions:
                yield question
            return
        async with _kept(log):
            async for event in _worked(tape, log, worker, Recorder(tape, instead=instead), config):
                yield event


async def replay(journal: Journal, run: str, worker: Works | None = None) -> AsyncIterator[Event]:
    """The run's events as the journal has them, to the token, without any model.

    With a worker the run is done again from the journal's answers alone, and has to come out the same.

    Raises:
        RunError: it does something else, or more, than was recorded.
    """
    known = list(journal.entries(journal.find(run).id))
    if worker is None:
        for event in shown(known):
            yield event
        return
    tape = Tape(_Past(known), sealed=True)
    async for event in _events(worker, tape, through(Recorder(tape))):
        yield tape.event(event)


@dataclass(frozen=True, slots=True)
class _Past:
    entries: Sequence[Entry]

    def append(self, what: Any, path: str = "", *, firmly: bool = False) -> int:
        raise AssertionError(f"a sealed tape wrote {what!r} at {path!r}, firmly: {firmly}")


async def _worked(
    tape: Tape,
    log: Log,
    worker: Works,
    recorder: Recorder,
    config: RunnableConfig | None,
) -> AsyncIterator[Event]:
    try:
        async for event in _events(worker, tape, through(recorder, config)):
            yield tape.event(event)
        log.settle("finished")
    except Waiting:
        log.settle("waiting")
        for question in tape.asked():
            yield question
    except Exception as error:
        # These say that the run cannot go on here, not how it ended.
        if not isinstance(error, RunError | EngineStopped | StorageError):
            tape.failed(error)
            log.settle("failed")
        raise


async def _events(worker: Works, tape: Tape, config: RunnableConfig) -> AsyncIterator[Event]:
    assert isinstance(tape.started, RunStarted)  # the first entry of every run
    input = _read(tape.started.input)
    if isinstance(worker, Agent):
        async for event in approved(worker, input, config, 0):
            yield event
        return
    if hasattr(type(worker), "events"):  # of the type: langchain-core's wrappers answer for what they wrap
        async for event in cast(Worker, worker).events(input, config):
            yield event
        return
    started = time.monotonic()
    answer = await cast(Runnable[Any, Any], worker).ainvoke(input, config)
    text = answer.text if isinstance(answer, BaseMessage) else answer
    yield RunFinished(str(text), Usage(), time.monotonic() - started)


@contextlib.asynccontextmanager
async def _kept(log: Log) -> AsyncIterator[None]:
    """Moves the lease on while the run is worked on, however long a model thinks."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(StorageError):  # the next entry will say so
                log.keep()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


_MESSAGES = "__messages"


def input_to_json(input: Any) -> Any:
    """What a run is given, as `Journal.create` takes it: messages in LangChain's form, all else as it is."""
    if isinstance(input, BaseMessage):
        input = [input]
    if isinstance(input, Sequence) and input and all(isinstance(each, BaseMessage) for each in input):
        return {_MESSAGES: messages_to_dict(input)}
    return input


def _read(input: Any) -> Any:
    if isinstance(input, dict) and input.keys() == {_MESSAGES}:
        return messages_from_dict(input[_MESSAGES])
    return input

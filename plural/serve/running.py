"""Runs that the server works on. Who started one may leave: it goes on, and after the server itself was killed, too.

Everything is the event loop's. What happens in a run is written into the journal before it is told, so whoever listens
reads the journal, woken by a bell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, cast

from plural.errors import PluralError, RunError
from plural.serve.backend import Runner, RunOrder
from plural.serve.errors import WireError
from plural.serve.run_wire import KEEP_ALIVE, WAITS, Teller, end, model_of, run_of, sse
from plural.serve.service import Service
from plural.teams.journal import Journal, RunInfo, Texts, open_questions, shown, shown_entries
from plural.teams.journal.entries import Entry
from plural.types import Event, RunFinished, event_to_json

OVER = ("finished", "failed", "cancelled")
NOBODY = ""  # the client of a run that was begun at a terminal
_SWEEP_S = 10.0  # between two looks for runs of processes that were killed
_ALIVE_S = 15.0  # between two signs of life in a stream
_LEAVE_S = 10.0  # for a run that waits to let go of its journal
_READ_S = 0.02  # between two readings of the journal in a stream
_WATCHERS = 8  # streams for each answer that may be inside
_FAULTS = logging.getLogger("plural.serve")


class Runs:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: set[str] = set()  # for room
        self._cancelling: set[str] = set()
        self._bell = asyncio.Event()
        self._watchers = 0
        self._left_alone: set[str] = set()  # they cannot be gone on with here
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def runner(self) -> Runner:
        """Raises WireError where no journal is kept."""
        if self._service.backend.runner is None:
            raise WireError(404, "This server keeps no runs: it has no journal.", code="no_journal")
        return self._service.backend.runner

    @property
    def journal(self) -> Journal:
        return self.runner.journal

    # ---------------------------------------------------------------------------------------------------- one run
    def start(self, order: RunOrder) -> RunInfo:
        """Raises WireError 429 when there is no room, and what is wrong with the order."""
        return self._begin(order.client, lambda: self.runner.enter(order))

    def fork(self, info: RunInfo, at: int, speaker: str | None, client: str | None) -> RunInfo:
        """A run that begins as this one did up to entry `at`; from there on `speaker` speaks, if it is given.

        Raises WireError 429 when there is no room, RunError for an entry that there is not, SpecialistError for a
        speaker that there is not.
        """
        if speaker is not None:
            self.runner.check_speaker(speaker)
        target = None if speaker is None else {"with": speaker}
        return self._begin(client, lambda: self.journal.fork(info.id, at, target, client=client))

    def resume(self, info: RunInfo) -> RunInfo:
        """Goes on with a run that failed, was cancelled or left. Raises WireError 429, and 409 for any other."""
        if self.status(info) not in ("failed", "cancelled", "interrupted"):
            raise WireError(409, f"The run is {self.status(info)}.", code="run_error")
        return self._begin(info.client, lambda: info.id)

    async def answer(self, info: RunInfo, question: int, answer: str) -> None:
        """Goes on when nothing else is asked. Raises RunError for what it does not ask."""
        if task := self._tasks.get(info.id):  # it has written its question and is about to leave
            await asyncio.wait({task}, timeout=_LEAVE_S)
        self.journal.answer(info.id, answer, question=question)
        self._ring()
        if not open_questions(self.journal.entries(info.id)):
            self.go_on(info)

    def _begin(self, client: str | None, make: Callable[[], str]) -> RunInfo:
        place = ExitStack()
        place.enter_context(self._service.gate.place(client or NOBODY))
        try:
            run = make()
        except BaseException:
            place.close()
            raise
        self._work_on(run, client, place)
        return self.journal.find(run)

    def go_on(self, info: RunInfo) -> None:
        """Works on it as soon as there is room; does nothing if it is worked on."""
        if info.id not in self._tasks:
            self._work_on(info.id, info.client, None)

    async def cancel(self, info: RunInfo, why: str) -> None:
        """Raises RunError for a run that is over, or that another process works on."""
        await asyncio.shield(self._cancel(info, why))  # who asks for it may leave meanwhile

    async def _cancel(self, info: RunInfo, why: str) -> None:
        self._cancelling.add(info.id)
        try:
            if task := self._tasks.get(info.id):
                task.cancel()
                await asyncio.wait({task})
            self.journal.cancel(info.id, why)
        finally:
            self._cancelling.discard(info.id)
            self._ring()

    def status(self, info: RunInfo) -> str:
        """As the journal says, but for one that is in hand here, if only just."""
        if info.id in self._waiting:
            return "queued"
        begun = info.id in self._tasks and info.status not in ("finished", "waiting")
        return "running" if begun else info.status

    def of(self, id: str, clients: Sequence[str | None]) -> RunInfo:
        """The run, if one of these clients began it. Raises WireError 404."""
        try:
            found = self.journal.find(run_of(id))
        except RunError:
            found = None
        if found is None or found.id != run_of(id) or found.client not in clients:
            raise WireError(404, f"There is no run {id!r}.", code="not_found", param="run_id")
        return found

    # ----------------------------------------------------------------------------------------------- start and end
    def recover(self) -> None:
        """Goes on with every unfinished run that nobody works on, and later with those of processes that are killed."""
        if self._service.backend.runner is None:
            return
        for info in self.journal.interrupted():
            self.go_on(info)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Lets the runs under way come to their ends for a while; what is left is gone on with at the next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        until = min(self._service.until, time.monotonic() + self._service.settings.drain)
        queued = [self._tasks[run] for run in self._waiting]
        while self._tasks and time.monotonic() < until and not self._service.hurried:
            for task in queued:
                task.cancel()
            await asyncio.wait(set(self._tasks.values()), timeout=0.05)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                for info in self.journal.interrupted(killed=True):
                    if info.id not in self._left_alone | self._cancelling:
                        self.go_on(info)
            except PluralError as error:  # the journal's database is locked or full: it is looked at again
                _FAULTS.warning("runs cannot be looked for: %s", error)

    # -------------------------------------------------------------------------------------------------- listening
    async def events(self, info: RunInfo, after: int) -> AsyncGenerator[bytes, None]:
        """The same as server-sent events."""
        async with aclosing(self.lines(info, after)) as lines:
            async for line in lines:
                yield KEEP_ALIVE if line is None else sse(line)

    async def lines(self, info: RunInfo, after: int) -> AsyncGenerator[Mapping[str, Any] | None, None]:
        """What happens in a run after entry `after`, until it is over; while it waits for a person, so does this. None
        is a sign of life; the first one comes at once."""
        if self._watchers >= _WATCHERS * self._service.gate.most:
            raise WireError(429, "Too many listen already.", code="rate_limit_exceeded", again=5)
        self._watchers += 1
        try:
            yield None
            async for line in self._listen(info, after):
                yield line
        finally:
            self._watchers -= 1

    async def _listen(self, info: RunInfo, after: int) -> AsyncIterator[Mapping[str, Any] | None]:
        teller, told, said, waited, texts = Teller(), -1, time.monotonic(), False, Texts()
        while not self._service.draining:
            bell = self._bell
            now = self.journal.find(info.id)
            for entry in list(self.journal.entries(info.id, after=told, texts=texts)):
                told = entry.seq
                line = teller.tell(entry)
                if line is not None and entry.seq > after:
                    said = time.monotonic()
                    yield line
            if self._is_still(now):
                yield end(now.status)
                return
            waits = now.status == "waiting" and now.id not in self._tasks
            if waits and not waited:
                yield WAITS
            waited = waits
            if time.monotonic() - said > _ALIVE_S:
                said = time.monotonic()
                yield None
            await _rung(bell)

    def _is_still(self, info: RunInfo) -> bool:
        """Nothing more will come of it unless somebody asks for that."""
        mine = info.id in self._tasks or info.id in self._cancelling
        return not mine and info.status in (*OVER, "interrupted")

    async def replay(self, info: RunInfo, speed: float) -> AsyncGenerator[bytes, None]:
        """What was shown, at `speed` times the pace of then; at once with 0."""
        before: Entry | None = None
        for entry in list(shown_entries(self.journal.entries(info.id))):
            if speed and before is not None and not self._service.draining:
                await asyncio.sleep(min(60.0, max(0.0, entry.at - before.at) / speed))
            before = entry
            yield sse({"seq": entry.seq, "at": entry.at, **event_to_json(cast(Event, entry.what))})
        yield sse(end(info.status))

    # -------------------------------------------------------------------------------------------------- working
    def _work_on(self, run: str, client: str | None, place: ExitStack | None) -> None:
        self._left_alone.discard(run)
        task = asyncio.create_task(self._work(run, client, place))
        self._tasks[run] = task
        task.add_done_callback(lambda _: self._over(run, place))

    def _over(self, run: str, place: ExitStack | None) -> None:
        if place is not None:  # of a task that was cancelled before it began, too
            place.close()
        del self._tasks[run]
        self._ring()

    async def _work(self, run: str, client: str | None, place: ExitStack | None) -> None:
        with ExitStack() as room:
            if place is None:
                await self._room(run, client or NOBODY, room)
            try:
                await self._drive_in_time(run)
            except RunError as error:  # somebody else works on it, or this server cannot
                self._left_alone.add(run)
                _FAULTS.warning("run %s is left alone: %s", run, error)
            except PluralError as error:
                _FAULTS.info("run %s failed: %s", run, type(error).__name__)
            except Exception as error:  # noqa: BLE001 - the journal has it; the server goes on
                _FAULTS.error("run %s failed", run, exc_info=error)

    async def _room(self, run: str, client: str, room: ExitStack) -> None:
        self._waiting.add(run)
        try:
            while not self._service.gate.has_room(client):
                await asyncio.sleep(0.1)
            room.enter_context(self._service.gate.place(client))
        finally:
            self._waiting.discard(run)

    async def _drive_in_time(self, run: str) -> None:
        seconds = self._service.settings.run_timeout
        try:
            async with asyncio.timeout(seconds) as limit:
                await self._drive(run)
        except TimeoutError:
            if not limit.expired():
                raise
            self.journal.cancel(run, f"It took longer than {seconds:g} seconds.")

    async def _drive(self, run: str) -> None:
        known = sum(1 for _ in shown(self.journal.entries(run)))  # counted when it happened
        model = model_of(self.journal.target(run))
        events = cast(AsyncGenerator[Event, None], self.runner.resume(run))
        async with aclosing(events):
            async for event in events:
                self._ring()
                known -= 1
                if known < 0:
                    self._service.metrics.told(event)
                    if isinstance(event, RunFinished):
                        self._service.metrics.spent(model, event.usage)

    def _ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()


async def _rung(bell: asyncio.Event) -> None:
    """Runs of other processes ring no bell here."""
    try:
        async with asyncio.timeout(1.0):
            await bell.wait()
    except TimeoutError:
        return
    await asyncio.sleep(_READ_S)  # what comes meanwhile is read in one go

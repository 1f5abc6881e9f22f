"""Trainings under way: one at a time, on a thread of its own, beside the engine; the others wait.

What a job says is kept as it is said, so that a server that was stopped goes on with its jobs when it starts again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plural.errors import PluralError
from plural.serve.backend import Backend, Lesson, News
from plural.serve.errors import WireError
from plural.serve.store import Record, Store

JOB, EVENT = "job", "event"
_UNFINISHED = ("validating_files", "queued", "running")
_AGAIN_S = 60  # a training takes minutes
_FAULTS = logging.getLogger("plural.serve")


class Jobs:
    """All methods are the event loop's; only `_work` runs on the thread. `most` jobs are under way or wait."""

    def __init__(self, backend: Backend, store: Store, most: int) -> None:
        self._backend = backend
        self._store = store
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plural-training")
        self._stops: dict[str, threading.Event] = {}
        self._inside: set[str] = set()

    def start(self, owner: str, body: Mapping[str, Any], lesson: Lesson) -> Mapping[str, Any]:
        """A new job, queued. `body` is what the client is shown of it.

        Raises what is wrong with the lesson, and WireError 429 when too many wait.
        """
        self._backend.train(lesson)
        self._check_room()
        id = f"ftjob-{secrets.token_hex(12)}"
        job = {"id": id, "object": "fine_tuning.job", "created_at": int(time.time()), "status": "queued", **body}
        record = Record(JOB, id, owner, {"job": job, "lesson": lesson.to_json()}, lesson.name, body["metadata"])
        self._store.put(record)
        self._say(record, "Created fine-tuning job.", {})
        self._submit(record, lesson)
        return job

    def cancel(self, id: str, owner: str) -> Mapping[str, Any]:
        """Raises WireError for a job that has ended."""
        record = self._store.get(JOB, id, owner)
        if record.body["job"]["status"] not in _UNFINISHED:
            raise _not_possible("cancelled", record)
        if id in self._stops:  # a job that was paused before the server started again has none
            self._stops[id].set()
        self._say(record, "The job was cancelled.", {})
        return self._change(record, status="cancelled", paused=False, finished_at=int(time.time()))

    def pause(self, id: str, owner: str) -> Mapping[str, Any]:
        """Ends the training after its step, to be gone on with; `queued` is the nearest that OpenAI has a word for.

        Raises WireError for a job that has ended or is paused.
        """
        record = self._store.get(JOB, id, owner)
        if record.body["job"]["status"] not in _UNFINISHED or record.body["job"].get("paused"):
            raise _not_possible("paused", record)
        self._stops[id].set()
        self._say(record, "The job was paused.", {})
        return self._change(record, status="queued", paused=True)

    def go_on(self, id: str, owner: str) -> Mapping[str, Any]:
        """Goes on with a paused job, from its last step.

        Raises WireError for one that is not paused, and 429 when too many wait.
        """
        record = self._store.get(JOB, id, owner)
        if not record.body["job"].get("paused"):
            raise _not_possible("resumed", record)
        self._check_room()
        self._say(record, "The job was resumed.", {})
        job = self._change(record, paused=False)
        self._submit(record, Lesson.from_json(record.body["lesson"] | {"resume": True}))
        return job

    def resume(self) -> None:
        """Goes on with the jobs that an earlier server left."""
        for record in self._store.everybodys(JOB):
            if record.body["job"]["status"] in _UNFINISHED and not record.body["job"].get("paused"):
                lesson = Lesson.from_json(record.body["lesson"] | {"resume": record.body["job"]["status"] == "running"})
                self._say(record, "The server was started again; the job goes on.", {})
                self._submit(record, lesson)

    async def stop(self) -> None:
        """Ends the training after its step; the job stays unfinished, to be gone on with."""
        for stop in self._stops.values():
            stop.set()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------- inside
    def _check_room(self) -> None:
        if len(self._inside) >= self._most:
            said = f"{len(self._inside)} trainings are under way or wait, of {self._most} at most."
            raise WireError(429, said, code="rate_limit_exceeded", again=_AGAIN_S)

    def _submit(self, record: Record, lesson: Lesson) -> None:
        self._inside.add(record.id)
        stop = self._stops[record.id] = threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                self._work(record, lesson, stop, loop)
            except RuntimeError:  # the loop is closed: the server has ended, and nobody listens
                _FAULTS.info("job %s stopped with the server", record.id)

        self._thread.submit(work)

    def _work(self, record: Record, lesson: Lesson, stop: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread: trains until the end, an error, or the stop."""
        if stop.is_set():
            return
        loop.call_soon_threadsafe(self._began, record)
        try:
            stages = self._backend.train(lesson)
            for news in stages:
                if stop.is_set():
                    return
                loop.call_soon_threadsafe(self._heard, record, news)
        except Exception as error:  # noqa: BLE001 - the job says what went wrong, and the next one has its turn
            if not stop.is_set():
                loop.call_soon_threadsafe(self._failed, record, error, lesson.data.parent)
        else:
            loop.call_soon_threadsafe(self._succeeded, record, lesson)

    def _began(self, record: Record) -> None:
        if not self._stops[record.id].is_set():
            self._change(record, status="running")

    def _heard(self, record: Record, news: News) -> None:
        self._say(record, news.message, news.facts)
        if "tokens" in news.facts and "steps" in news.facts:
            self._change(record, trained_tokens=news.facts["tokens"])

    def _failed(self, record: Record, error: Exception, folder: Path) -> None:
        if self._stops[record.id].is_set():
            return
        if isinstance(error, PluralError):
            code, message = type(error).__name__, str(error).replace(f"{folder}/", "")
        else:
            code, message = "server_error", "Something went wrong in the server; its log has the details."
            _FAULTS.error("job %s failed", record.id, exc_info=error)
        self._say(record, message, {}, level="error")
        error_json = {"code": code, "message": message, "param": None}
        self._change(record, status="failed", finished_at=int(time.time()), error=error_json)

    def _succeeded(self, record: Record, lesson: Lesson) -> None:
        """Also after a cancellation that came too late: the specialist is there."""
        self._say(record, "The job has successfully completed.", {})
        self._change(record, status="succeeded", finished_at=int(time.time()), fine_tuned_model=lesson.name)

    def _change(self, record: Record, **fields: Any) -> Mapping[str, Any]:
        now = self._store.get(JOB, record.id, record.owner)
        job: dict[str, Any] = {**now.body["job"], **fields}
        if job["status"] not in _UNFINISHED or job.get("paused"):
            self._inside.discard(record.id)
        self._store.put(Record(JOB, now.id, now.owner, {**now.body, "job": job}, now.model, now.metadata))
        return job

    def _say(self, record: Record, message: str, facts: Mapping[str, Any], *, level: str = "info") -> None:
        id = f"ftevent-{secrets.token_hex(12)}"
        event = {
            "id": id,
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": "metrics" if facts else "message",
            "data": dict(facts),
        }
        self._store.put(Record(EVENT, id, record.owner, event, record.id))


def _not_possible(what: str, record: Record) -> WireError:
    status = record.body["job"]["status"]
    why = "is paused" if record.body["job"].get("paused") else f"is {status}"
    if status not in _UNFINISHED:
        why = f"has ended: it {why}"
    return WireError(400, f"The job cannot be {what}: it {why}.", code="job_state")

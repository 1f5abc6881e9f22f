"""Runs whose process died, gone on with by another one."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from plural.errors import PluralError, RunError, StorageError
from plural.teams.journal.store import Journal, Orphan

_LOG = logging.getLogger(__name__)


class Adopter:
    """Looks every `every` seconds for orphans of a journal and lets `resume` go on with them, `at_once` at a time.

    `resume` blocks until the run has come as far as it can. Of several adopters one gets a run: taking it is one
    statement of the database. What cannot be done here is left to others: each orphan is tried once by each.
    """

    def __init__(self, journal: Journal, resume: Callable[[str], object], *, every: float = 5.0, at_once: int = 4):
        self._journal, self._resume, self._every = journal, resume, every
        self._stop = threading.Event()
        self._tried: set[Orphan] = set()
        self._going: list[Future[None]] = []
        self._workers = ThreadPoolExecutor(at_once, thread_name_prefix="plural-adopted")
        self._thread = threading.Thread(target=self._look, name="plural-adopter", daemon=True)
        self._thread.start()

    def close(self, patience: float = 0.0) -> None:
        """Looks no more. What is gone on with has so many seconds to come to its end."""
        self._stop.set()
        self._thread.join()
        self._workers.shutdown(wait=False, cancel_futures=True)
        concurrent.futures.wait(self._going, patience)

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                for orphan in self._journal.orphans():
                    if orphan not in self._tried:
                        self._tried.add(orphan)
                        self._going = [one for one in self._going if not one.done()]
                        self._going.append(self._workers.submit(self._go_on, orphan.run))
            except StorageError as error:
                _LOG.warning("%s", error)
            self._stop.wait(self._every)

    def _go_on(self, run: str) -> None:
        try:
            self._resume(run)
        except RunError as error:
            _LOG.info("Run %s is not gone on with here: %s", run, error)
        except PluralError as error:
            _LOG.warning("Run %s: %s", run, error)

"""Who computes which tokens in the next step. Pure bookkeeping: no torch, nothing is computed here.

There is no prefill and no decode, only tokens still to compute and a budget of tokens for one step. Whoever has one
token left goes first, so that nobody's stream waits for somebody's long prompt; prompts share what is left in chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plural.engine.kv_cache import ROOT, KVCache, page_hash
from plural.engine.request import Job
from plural.engine.settings import EngineSettings
from plural.errors import PluralError

# A job passed over this often is waited for: nothing behind it is let in before it.
PATIENCE = 64


class AdapterSlots(Protocol):
    """Where adapters are kept resident; a slot in use is not given to another adapter."""

    def acquire(self, digest: str) -> bool:
        """False when every slot is in use now. Raises what loading raises."""
        ...

    def release(self, digest: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """Positions start..stop-1 of one job are computed in this step."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's work, and the jobs that failed while it was planned."""

    work: tuple[Work, ...] = ()
    failed: tuple[tuple[Job, PluralError], ...] = ()


@dataclass(slots=True)
class Counters:
    """Counted since the scheduler exists."""

    computed: int = 0
    cached: int = 0
    preempted: int = 0
    finished: int = 0


@dataclass(slots=True)
class _Draft:
    budget: int
    work: list[Work] = field(default_factory=list)
    preempted: bool = False

    def add(self, job: Job) -> None:
        count = min(job.remaining, self.budget)
        self.work.append(Work(job, job.num_computed, job.num_computed + count))
        self.budget -= count


class Scheduler:
    def __init__(self, settings: EngineSettings, cache: KVCache, adapters: AdapterSlots) -> None:
        self.settings = settings
        self.cache = cache
        self.adapters = adapters
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.counters = Counters()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, job: Job) -> None:
        self.waiting.append(job)

    def schedule(self) -> Plan:
        """Running jobs first, then as many waiting ones as fit."""
        draft = _Draft(self.settings.step_tokens)
        for job in sorted(self.running, key=lambda job: job.remaining > 1):
            if draft.budget and job in self.running and self._make_room(job, draft):
                draft.add(job)
        failed = () if draft.preempted else tuple(self._admit(draft))
        return Plan(tuple(draft.work), failed)

    def commit(self, plan: Plan) -> None:
        """The plan's tokens have their keys and values now; full pages become known to the prefix cache.

        Jobs that were finished since the plan was made have no part in it.
        """
        for work in plan.work:
            if work.job.done:
                continue
            self.counters.computed += work.stop - work.start
            work.job.num_computed = work.stop
            self._register(work.job)

    def fork(self, parent: Job, children: Iterable[Job]) -> list[tuple[int, int]]:
        """Lets children start where the parent stands. They share its full pages and get copies of its last,
        unfinished one: returns those copies as (from page, to page). A child that finds no page waits its turn."""
        copies: list[tuple[int, int]] = []
        full = parent.num_computed // self.cache.page_size
        for child in children:
            own = self.cache.take(len(parent.pages) - full)
            if own is None:
                self.waiting.append(child)
                continue
            if child.adapter is not None:
                self.adapters.acquire(child.adapter.digest)  # resident: the parent holds it
            self.cache.share(parent.pages[:full])
            copies += zip(parent.pages[full:], own, strict=True)
            child.pages = [*parent.pages[:full], *own]
            child.num_computed = parent.num_computed
            child.hashes = list(parent.hashes)
            self.running.append(child)
        return copies

    def finish(self, job: Job) -> None:
        """Gives back all that the job holds, wherever it stands. May be called again."""
        job.done = True
        if job in self.running:
            self.running.remove(job)
            self._give_back(job)
            self.counters.finished += 1
        elif job in self.waiting:
            self.waiting.remove(job)

    def check(self) -> None:
        """Raises MachineError when pages are lost or held by nobody."""
        self.cache.check([job.pages for job in self.running])

    # ---------------------------------------------------------------------------------------------------- inside
    def _make_room(self, job: Job, draft: _Draft) -> bool:
        """Pages for what `job` computes in this step; the latest arrivals lose theirs if there are none."""
        upto = job.num_computed + min(job.remaining, draft.budget)
        planned = {id(work.job) for work in draft.work}
        while not self._grow(job, upto):
            victim = next(other for other in reversed(self.running) if id(other) not in planned)
            self._preempt(victim)
            draft.preempted = True
            if victim is job:
                return False
        return True

    def _grow(self, job: Job, upto: int) -> bool:
        missing = self.cache.pages_for(upto) - len(job.pages)
        if missing <= 0:
            return True
        taken = self.cache.take(missing)
        if taken is None:
            return False
        job.pages += taken
        return True

    def _preempt(self, job: Job) -> None:
        self.running.remove(job)
        self._give_back(job)
        job.restart()
        self.waiting.appendleft(job)
        self.counters.preempted += 1

    def _give_back(self, job: Job) -> None:
        self.cache.release(job.pages)
        job.pages = []
        if job.adapter is not None:
            self.adapters.release(job.adapter.digest)

    def _admit(self, draft: _Draft) -> Iterable[tuple[Job, PluralError]]:
        """Lets in every waiting job that fits, in order; one that does not fit now blocks nobody, up to a point."""
        for job in list(self.waiting):
            if not draft.budget or len(self.running) >= self.settings.max_running:
                return
            try:
                fits = job.adapter is None or self.adapters.acquire(job.adapter.digest)
            except PluralError as error:
                self.waiting.remove(job)
                job.done = True
                yield job, error
                continue
            if fits and self._enter(job):
                draft.add(job)
                continue
            if fits and job.adapter is not None:
                self.adapters.release(job.adapter.digest)
            job.skipped += 1
            if job.skipped > PATIENCE:
                return

    def _enter(self, job: Job) -> bool:
        """Finds the job's known prefix and takes pages for all its tokens and one more."""
        pages: Sequence[int] = ()
        if job.cacheable:
            # At least one token is computed: its logits are not in the cache.
            pages = self.cache.match(job.tokens[: len(job.tokens) - 1], job.worn)
        found = len(pages) * self.cache.page_size
        own = self.cache.take(self.cache.pages_for(len(job.tokens) + 1) - len(pages))
        if own is None:
            self.cache.release(pages)
            return False
        self.waiting.remove(job)
        self.running.append(job)
        job.pages = [*pages, *own]
        job.num_computed = found
        self.counters.cached += found
        if job.cached < 0:
            job.cached = found
        return True

    def _register(self, job: Job) -> None:
        size = self.cache.page_size
        while (len(job.hashes) + 1) * size <= job.num_computed:
            at = len(job.hashes)
            end = (at + 1) * size
            chained = page_hash(job.hashes[-1] if at else ROOT, job.tokens[at * size : end], end, job.worn)
            job.hashes.append(chained)
            self.cache.register(job.pages[at], chained)

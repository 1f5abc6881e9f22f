"""Who computes which tokens in the next step. Pure bookkeeping: no torch, nothing is computed here.

There is no prefill and no decode, only tokens still to compute and a budget of tokens for one step. Whoever has one
token left goes first, so that nobody's stream waits for somebody's long prompt; prompts share what is left in chunks.
In which order those who wait are let in is the queue's affair (queue.py, and docs/scheduling.md).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plural.engine.adapter_pool import ON_THEIR_WAY
from plural.engine.deadlines import doomed
from plural.engine.page_pool import PagePool
from plural.engine.queue import WaitingQueue
from plural.engine.request import Job
from plural.engine.settings import EngineSettings
from plural.errors import DeadlineError, MachineError, PluralError, PoolError

# Of the measured speed this share is remembered from step to step: some twenty steps count, and so many must be known.
MEMORY = 0.95
MEASURED = 20


class Adapters(Protocol):
    """Where adapters are kept, and how they come (see adapter_pool.py)."""

    @property
    def pinned_pages(self) -> Mapping[str, int]: ...

    def pages_for(self, digest: str) -> int | None: ...

    def acquire(self, digest: str) -> bool: ...

    def release(self, digest: str) -> None: ...

    @property
    def held(self) -> Mapping[str, int]: ...

    def hold(self, digest: str) -> None: ...

    def let_go(self, digest: str) -> None: ...

    def collect(self) -> None: ...

    def want(self, digest: str) -> None: ...

    def forget_all_but(self, wanted: Container[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """Positions start..stop-1 of one job are computed in this step."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's work, the jobs that failed while it was planned, and what is copied, page to page, before the work."""

    work: tuple[Work, ...] = ()
    failed: tuple[tuple[Job, PluralError], ...] = ()
    copies: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Counters:
    """Counted since the scheduler exists."""

    computed: int = 0
    cached: int = 0
    preempted: int = 0
    finished: int = 0


@dataclass(slots=True)
class _Pace:
    """How fast the engine was of late."""

    tokens: float = 0.0
    seconds: float = 0.0
    steps: int = 0

    def add(self, tokens: int, seconds: float) -> None:
        self.steps += 1
        self.tokens = MEMORY * self.tokens + tokens
        self.seconds = MEMORY * self.seconds + seconds

    @property
    def rate(self) -> float:
        """Tokens per second; 0 as long as nothing is known."""
        return self.tokens / self.seconds if self.steps >= MEASURED else 0.0


@dataclass(slots=True)
class _Draft:
    """A plan in the making. `wanted` are the adapters that somebody waits for; `kept` those that are here and whose
    wearers need more: they keep their pages until all were looked at, so that two that need much cannot take turns in
    evicting each other's."""

    budget: int
    failed: list[tuple[Job, PluralError]]
    work: list[Work] = field(default_factory=list)
    preempted: bool = False
    wanted: set[str] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)

    def add(self, job: Job) -> None:
        count = min(job.ready, self.budget)
        self.work.append(Work(job, job.num_computed, job.num_computed + count))
        self.budget -= count


class Scheduler:
    """`clock` gives seconds, as time.monotonic does."""

    def __init__(
        self, settings: EngineSettings, pages: PagePool, adapters: Adapters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.pages = pages
        self.adapters = adapters
        self.clock = clock
        self.waiting: WaitingQueue[Job] = WaitingQueue()
        self.running: list[Job] = []
        self.counters = Counters()
        # Pages that running jobs have begun to fill, by what will be in them.
        self._filling: dict[bytes, Job] = {}
        self._pace = _Pace()
        # What the plan of this step copies: the pages that are copied from are held until the next one.
        self._copies: list[tuple[int, int]] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, job: Job) -> None:
        self.waiting.add(job)

    def schedule(self) -> Plan:
        """Running jobs first, then as many waiting ones as fit."""
        self.adapters.collect()
        self.pages.release([source for source, _ in self._copies])
        self._copies = []
        draft = _Draft(self.settings.step_tokens, failed=list(self._give_up()))
        self._make_way()
        for job in sorted(self.running, key=lambda job: (job.remaining > 1, -job.priority)):
            if job not in self.running:
                continue  # it gave way to one before it
            if job.ahead and not self._catch_up(job, draft):
                continue
            self._charge(job)
            if draft.budget and job.ready and self._make_room(job, draft):
                draft.add(job)
        if not draft.preempted:
            self._admit(draft)
            self.adapters.forget_all_but(draft.wanted)
        for digest in draft.kept:
            self.adapters.release(digest)
        return Plan(tuple(draft.work), tuple(draft.failed), tuple(self._copies))

    def commit(self, plan: Plan, seconds: float = 0.0) -> None:
        """The plan's tokens have their keys and values now, after so many seconds; full pages become known to the
        prefix cache.

        Jobs that were finished since the plan was made have no part in it.
        """
        if seconds:
            self._pace.add(sum(work.stop - work.start for work in plan.work), seconds)
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
        full = parent.num_computed // self.pages.page_size
        for child in children:
            own = self.pages.take(len(parent.pages) - full)
            if own is None:
                self.waiting.add(child)
                self._hold(child)
                continue
            for ref in child.adapters:
                self.adapters.acquire(ref.digest)  # it is here: the parent wears it
            self.pages.share(parent.pages[:full])
            copies += zip(parent.pages[full:], own, strict=True)
            child.pages = [*parent.pages[:full], *own]
            child.num_computed = parent.num_computed
            child.num_registered = full
            child.cached = parent.cached
            self._start(child)
        return copies

    def finish(self, job: Job) -> None:
        """Gives back all that the job holds, wherever it stands. May be called again."""
        job.done = True
        if job in self.running:
            self.running.remove(job)
            self.waiting.remove(job)
            self._give_back(job)
            self.counters.finished += 1
        elif job in self.waiting:
            self._leave(job)

    def check(self, users: Iterable[str] = ()) -> None:
        """Raises MachineError when pages are lost, or held by nobody. `users` hold an adapter besides the jobs."""
        worn = [ref.digest for job in self.running if not job.ahead for ref in job.adapters]
        copied = [source for source, _ in self._copies]
        self.pages.check([copied, *(job.pages for job in self.running)], [*worn, *users])
        self.waiting.check()
        held = Counter(ref.digest for job in self.waiting if job.held for ref in job.adapters)
        if held != self.adapters.held:
            raise MachineError(f"Adapters are held as {dict(self.adapters.held)}, and waited for as {dict(held)}.")
        if any(job not in self.running for job in self._filling.values()):
            raise MachineError("A page is waited for that nobody fills.")

    # ---------------------------------------------------------------------------------------------------- inside
    def _make_room(self, job: Job, draft: _Draft) -> bool:
        """Pages for what `job` computes in this step; without any, the latest of the lowest priority lose theirs."""
        upto = job.num_computed + min(job.ready, draft.budget)
        planned = {id(work.job) for work in draft.work}
        while not self._grow(job, upto):
            victim = _last(other for other in self.running if id(other) not in planned)
            self._preempt(victim)
            draft.preempted = True
            if victim is job:
                return False
        return True

    def _grow(self, job: Job, upto: int) -> bool:
        missing = self.pages.pages_for(upto) - len(job.pages)
        if missing <= 0:
            return True
        taken = self.pages.take(missing)
        if taken is None:
            return False
        job.pages += taken
        return True

    def _preempt(self, job: Job) -> None:
        self.running.remove(job)
        self._hold(job)
        self._give_back(job)
        job.restart()
        self.waiting.put_back(job)
        self.counters.preempted += 1

    def _hold(self, job: Job) -> None:
        """It has begun and waits: its adapters are not lost meanwhile."""
        job.held = True
        for ref in job.adapters:
            self.adapters.hold(ref.digest)

    def _let_go(self, job: Job) -> None:
        if job.held:
            job.held = False
            for ref in job.adapters:
                self.adapters.let_go(ref.digest)

    def _leave(self, job: Job) -> None:
        """A job that waits is over."""
        self.waiting.remove(job)
        self._let_go(job)
        job.done = True

    def _make_way(self) -> None:
        """The first that waits does not wait for anybody of a lower priority: they give way, the latest first."""
        first = next(self.waiting.walk(self._known), None)
        while first is not None and self._is_kept_out(first):
            lower = [job for job in self.running if job.priority < first.priority]
            if not lower:
                return
            self._preempt(_last(lower))

    def _is_kept_out(self, job: Job) -> bool:
        here = [ref.digest for ref in job.adapters if self.pages.pages_of(ref.digest)]
        return len(self.running) >= self.settings.max_running or self._lacks_room(job, here)

    def _give_up(self) -> Iterable[tuple[Job, PluralError]]:
        """Ends those early whose first token cannot come in time, the fewest that are possible. As long as the pace is
        not known that is only those that are due."""
        rate, now = self._pace.rate, self.clock()
        if all(job.due is None for job in self.waiting):
            return
        late = [job for job in self.waiting if job.due is not None and job.due <= now]
        if rate:
            late = doomed(list(self.waiting), rate, now + self._first_place() / rate)
        for job in late:
            self._leave(job)
            yield job, DeadlineError("The first token could not have come in time.", hint="Ask again later.")

    def _first_place(self) -> float:
        """How many tokens it takes until the next job begins. `doomed` thinks of jobs one after another; where places
        are free, that many begin at once, and on the average each gets half of its work done beside those after it."""
        free = self.settings.max_running - len(self.running)
        if free > 0:
            return -free * sum(job.need for job in self.waiting) / len(self.waiting) / 2
        return min(job.need for job in self.running) * len(self.running)

    def _start(self, job: Job) -> None:
        self.running.append(job)
        self._let_go(job)
        self.waiting.admit(job)
        job.num_charged = len(job.tokens)

    def _charge(self, job: Job) -> None:
        """The tokens that came up since it was let in."""
        self.waiting.charge(job, len(job.tokens) - job.num_charged)
        job.num_charged = len(job.tokens)

    def _give_back(self, job: Job) -> None:
        for chained in job.hashes(self.pages.page_size)[job.num_registered :]:
            if self._filling.get(chained) is job:
                del self._filling[chained]
        if not job.ahead:
            for ref in job.adapters:  # before its pages: an adapter is copied in again sooner than a prefix is computed
                self.adapters.release(ref.digest)
        job.ahead = False
        self.pages.release(job.pages)
        job.pages = []

    def _admit(self, draft: _Draft) -> None:
        """Lets in every waiting job that fits, in order; one that does not fit now blocks nobody, up to a point."""
        over = 0
        for job in self.waiting.walk(self._known):
            if not draft.budget or len(self.running) >= self.settings.max_running or not self.pages.available:
                over += 1
                if over > ON_THEIR_WAY:
                    break
                self.waiting.defer(job)
                self._want(job, draft)
                continue
            try:
                self._check_room(job)
                worn = self._dress(job)
            except PluralError as error:
                self._leave(job)
                draft.failed.append((job, error))
                continue
            whole = len(worn) == len(job.adapters)
            if whole and self._enter(job):
                draft.add(job)
                continue
            draft.kept += worn
            lacks = self._lacks_room(job, worn)
            if not (whole or lacks) and self._gains_by_running_ahead(job) and self._enter(job, ahead=True):
                if job.ready:
                    draft.add(job)
            elif not lacks:
                self.waiting.defer(job)  # it waits for an adapter that is on its way, or for a prefix
            self._want(job, draft)

    def _gains_by_running_ahead(self, job: Job) -> bool:
        """Is there something of it to read that its adapters leave to the base? Who has begun before and gave way waits
        for all that it lacks."""
        return not job.held and job.bare > self._known(job) * self.pages.page_size

    def _catch_up(self, job: Job, draft: _Draft) -> bool:
        """A job that runs ahead of its adapters wears them as soon as all are here. It goes back to those who wait when
        there is no room for them: the pages that it holds may be what they lack. Does it still run?"""
        try:
            worn = self._dress(job)
        except PluralError as error:
            self.finish(job)
            draft.failed.append((job, error))
            return False
        job.ahead = len(worn) < len(job.adapters)
        if not job.ahead:
            return True
        draft.kept += worn
        if self._pages_missing(job, worn) > self.pages.available:
            self._preempt(job)
            return False
        self._want(job, draft)
        return True

    def _want(self, job: Job, draft: _Draft) -> None:
        """Lets the job's adapters come: at once, so that nobody behind it takes the pages that were made free for
        it."""
        for ref in job.adapters:
            draft.wanted.add(ref.digest)
            self.adapters.want(ref.digest)

    def _check_room(self, job: Job) -> None:
        """Raises PoolError if the job and its adapters never fit. Not all may be known yet: then it is asked again."""
        others = {ref.digest: self.adapters.pages_for(ref.digest) or 0 for ref in job.adapters}
        needed = self.pages.pages_for(job.most + 1) + sum({**self.adapters.pinned_pages, **others}.values())
        if needed > self.pages.num_pages:
            raise PoolError(
                f"The request may come to {job.most} tokens; with its adapters, and those that are pinned, it takes "
                f"{needed} pages, the pool has {self.pages.num_pages}.",
                hint="Raise memory, or ask for fewer tokens.",
            )

    def _dress(self, job: Job) -> list[str]:
        """Acquires those of the job's adapters that are here. Raises what loading one of them raised."""
        worn: list[str] = []
        try:
            for ref in job.adapters:
                if self.adapters.acquire(ref.digest):
                    worn.append(ref.digest)
        except PluralError:
            for digest in worn:
                self.adapters.release(digest)
            raise
        return worn

    def _lacks_room(self, job: Job, worn: Sequence[str]) -> bool:
        """Is it memory that the job waits for, not an adapter under way or a prefix? What is known of its prefix counts
        as used now, not to be evicted meanwhile."""
        known = self.pages.match(self._prefix(job))
        own = self.pages.pages_for(len(job.tokens) + 1) - len(known)
        lacks = own + self._pages_missing(job, worn) > self.pages.available
        self.pages.release(known)
        return lacks

    def _pages_missing(self, job: Job, worn: Sequence[str]) -> int:
        """How many pages must be found for those of its adapters that have none yet."""
        missing = (ref.digest for ref in job.adapters if ref.digest not in worn)
        return sum(self.adapters.pages_for(one) or 0 for one in missing if not self.pages.pages_of(one))

    def _enter(self, job: Job, *, ahead: bool = False) -> bool:
        """Finds the job's known prefix and takes pages for all its tokens and one more. A page that somebody is about
        to fill is waited for. It wears its adapters, or runs `ahead` of them."""
        size = self.pages.page_size
        hashes = self._prefix(job)
        pages = self.pages.match(hashes)
        if len(pages) < len(hashes) and hashes[len(pages)] in self._filling:
            self.pages.release(pages)
            return False
        part, known = self._part(job, len(pages))
        own = self.pages.take(self.pages.pages_for(len(job.tokens) + 1) - len(pages))
        if own is None:
            self.pages.release([*pages, *part])
            return False
        self._copies += ((page, own[0]) for page in part)
        job.pages = [*pages, *own]
        job.num_registered = len(pages)
        job.num_computed = found = len(pages) * size + known
        for chained in hashes[len(pages) :]:
            self._filling.setdefault(chained, job)
        job.ahead = ahead
        self._start(job)
        self.counters.cached += found
        if job.cached < 0:
            job.cached = found
        return True

    def _prefix(self, job: Job) -> Sequence[bytes]:
        """The full pages that the job need not compute if they are known."""
        if not (job.skippable and self.pages.prefix_cache):
            return ()
        size = self.pages.page_size
        return job.hashes(size)[: job.skippable // size]

    def _known(self, job: Job) -> int:
        return self.pages.known(self._prefix(job))

    def _part(self, job: Job, page: int) -> tuple[list[int], int]:
        """The known beginning of a page, where somebody ended within it: that page, a reference taken to it, and how
        many tokens are known."""
        size = self.pages.page_size
        most = min(size - 1, job.skippable - page * size) if self.pages.prefix_cache else 0
        for count in range(most, 0, -1):
            if found := self.pages.match([job.part_hash(page, count, size)]):
                return found, count
        return [], 0

    def _register(self, job: Job) -> None:
        size = self.pages.page_size
        full, rest = divmod(len(job.tokens), size)
        if rest and job.goes_on and job.remaining == 0:
            self.pages.register(job.pages[full], job.part_hash(full, rest, size))
        hashes = job.hashes(size)
        for at in range(job.num_registered, job.num_computed // self.pages.page_size):
            self.pages.register(job.pages[at], hashes[at])
            if self._filling.get(hashes[at]) is job:
                del self._filling[hashes[at]]
            job.num_registered += 1


def _last(jobs: Iterable[Job]) -> Job:
    """Of the lowest priority the latest."""
    return min(reversed(list(jobs)), key=lambda job: job.priority)

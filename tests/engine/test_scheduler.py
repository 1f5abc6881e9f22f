"""Who works next, without any model: budgets, order, room, preemption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from hypothesis import given, settings
from hypothesis import strategies as st

from plural.engine.page_pool import PagePool
from plural.engine.queue import PATIENCE
from plural.engine.request import Job
from plural.engine.scheduler import MEASURED, Plan, Scheduler
from plural.engine.settings import EngineSettings
from plural.errors import DeadlineError, SpecialistError
from plural.types import AdapterRef


class Slots:
    """Adapter slots without adapters: they take no pages, whatever `sizes` says that they need."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.users: dict[str, int] = {}
        self.pinned_pages: dict[str, int] = {}
        self.held: Counter[str] = Counter()
        self.sizes: dict[str, int] = {}
        self.wanted: set[str] = set()

    def hold(self, digest: str) -> None:
        self.held[digest] += 1

    def let_go(self, digest: str) -> None:
        self.held[digest] -= 1
        self.held += Counter()

    def pages_for(self, digest: str) -> int:
        return self.sizes.get(digest, 0)

    def collect(self) -> None: ...

    def want(self, digest: str) -> None:
        self.wanted.add(digest)

    def forget_all_but(self, wanted: Container[str]) -> None:
        self.wanted = {digest for digest in self.wanted if digest in wanted}

    def acquire(self, digest: str) -> bool:
        if digest not in self.users and len(self.users) == self.count:
            return False
        self.users[digest] = self.users.get(digest, 0) + 1
        return True

    def release(self, digest: str) -> None:
        self.users[digest] -= 1
        if not self.users[digest]:
            del self.users[digest]


def scheduler(slots: int = 4, **options: int) -> Scheduler:
    chosen = EngineSettings(**{"max_running": 4, "step_tokens": 32, "kv_tokens": 256, **options})
    return Scheduler(chosen, PagePool(chosen.num_pages(1, 0), chosen.page_size), Slots(slots))


def job(tokens: int, digest: str | None = None, first: int = 0, offset: int = 0) -> Job:
    worn = (AdapterRef(digest, offset=offset),) if digest else ()
    return Job(range(first, first + tokens), worn, lambda result: True)


def shares(plan: Plan) -> list[tuple[Job, int]]:
    return [(work.job, work.stop - work.start) for work in plan.work]


def advance(s: Scheduler, plan: Plan) -> None:
    """Commits, and gives every job that is all computed its next token."""
    s.commit(plan)
    for work in plan.work:
        if work.job.remaining == 0:
            work.job.tokens.append(7)


def test_a_long_prompt_is_cut_into_chunks_and_streams_go_first() -> None:
    s = scheduler()
    stream, long = job(5), job(100, first=1000)
    s.add(stream)
    advance(s, s.schedule())
    s.add(long)
    plan = s.schedule()
    assert shares(plan) == [(stream, 1), (long, 31)]
    advance(s, plan)
    assert shares(s.schedule()) == [(stream, 1), (long, 31)]


def test_what_does_not_fit_now_does_not_block_what_does() -> None:
    s = scheduler(slots=1)
    s.add(job(5, "a"))
    blocked, base = job(5, "b"), job(5)
    s.add(blocked)
    s.add(base)
    plan = s.schedule()
    assert base in [work.job for work in plan.work]
    assert list(s.waiting) == [blocked]


def test_what_was_passed_over_long_enough_is_waited_for() -> None:
    s = scheduler(kv_tokens=64)
    holder, large = job(20), job(50)
    s.add(holder)
    s.schedule()
    s.add(large)
    for _ in range(PATIENCE + 1):
        s.schedule()
    small = job(5)
    s.add(small)
    s.schedule()
    assert list(s.waiting) == [large, small]
    s.finish(holder)
    s.schedule()
    assert large in s.running


def test_the_latest_arrival_gives_way_and_starts_again() -> None:
    s = scheduler(kv_tokens=64, step_tokens=64)
    first, last = job(20), job(30, first=500)
    s.add(first)
    s.add(last)
    advance(s, s.schedule())
    while s.counters.preempted == 0:
        advance(s, s.schedule())
        s.check()
    assert s.running == [first]
    assert list(s.waiting) == [last]
    assert last.num_computed == 0
    assert last.pages == []


def test_a_known_prefix_is_not_computed_again_but_the_last_token_is() -> None:
    s = scheduler(step_tokens=64)
    s.add(job(32))
    advance(s, s.schedule())
    again = job(32)
    s.add(again)
    plan = s.schedule()
    assert again.cached == 16
    assert (again, 16) in shares(plan)


def test_children_share_full_pages_and_copy_the_last_one() -> None:
    s = scheduler(step_tokens=64)
    parent = job(20)
    s.add(parent)
    s.commit(s.schedule())
    children = [job(23), job(24)]
    copies = s.fork(parent, children)
    assert [source for source, _ in copies] == [parent.pages[1]] * 2
    assert all(child.pages[0] == parent.pages[0] for child in children)
    assert len({child.pages[1] for child in children} | {parent.pages[1]}) == 3
    s.finish(parent)
    s.check()
    assert shares(s.schedule()) == [(children[0], 3), (children[1], 4)]


wearing = st.tuples(st.sampled_from([None, "a", "b", "c"]), st.sampled_from([0, 0, 10, 40]))
jobs = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), wearing), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(jobs, st.integers(4, 40), st.integers(8, 16), st.integers(1, 3), st.integers(1, 5))
def test_everybody_finishes_and_nothing_is_left(
    wanted: list[tuple[int, int, tuple[str | None, int]]], step_tokens: int, pages: int, slots: int, arrivals: int
) -> None:
    """Any jobs that each fit in the pool alone, in any mix, under any budget."""
    s = scheduler(slots, step_tokens=step_tokens, kv_tokens=16 * pages)
    ends: dict[Job, int] = {}
    todo = []
    for i, (prompt, output, (digest, offset)) in enumerate(wanted):
        new = job(prompt, digest, 100 * (i % 3), offset)
        ends[new] = prompt + output
        todo.append(new)
    for _ in range(20_000):
        for new in todo[:arrivals]:
            s.add(new)
        todo = todo[arrivals:]
        plan = s.schedule()
        counts = shares(plan)
        assert sum(count for _, count in counts) <= step_tokens
        assert all(count > 0 for _, count in counts)
        assert len({id(one) for one, _ in counts}) == len(counts)
        assert len(s.running) <= 4
        assert len({ref.digest for one in s.running if not one.ahead for ref in one.adapters}) <= slots
        assert all(not one.ahead or work.stop <= one.adapters[0].offset for work in plan.work if (one := work.job))
        advance(s, plan)
        for one, _ in counts:
            if len(one.tokens) >= ends[one]:
                s.finish(one)
        s.pages.check([one.pages for one in s.running])
        if not (s.has_work or todo):
            break
    assert not s.has_work
    assert s.pages.used == 0
    assert s.counters.finished == len(wanted)


# ------------------------------------------------------------------------------------------ ahead of its adapters
def test_what_the_base_reads_is_read_while_the_adapter_is_on_its_way() -> None:
    s = scheduler(slots=0)
    late = job(60, "a", offset=50)
    s.add(late)
    for expected in (32, 18):
        plan = s.schedule()
        assert shares(plan) == [(late, expected)]
        advance(s, plan)
        s.check()
    assert shares(s.schedule()) == []
    assert s.adapters.wanted == {"a"}  # type: ignore[attr-defined]
    s.adapters.count = 1  # type: ignore[attr-defined]
    plan = s.schedule()
    assert shares(plan) == [(late, 10)]
    advance(s, plan)
    assert s.counters.computed == 60


def test_nobody_runs_ahead_of_an_adapter_that_acts_from_the_first_token() -> None:
    s = scheduler(slots=0)
    s.add(job(60, "a"))
    assert shares(s.schedule()) == []
    assert not s.running


def test_who_runs_ahead_gives_its_pages_back_when_its_adapter_finds_none() -> None:
    s = scheduler(slots=0, kv_tokens=16 * 8)
    late, base = job(60, "a", offset=50), job(40, first=500)
    s.add(late)
    advance(s, s.schedule())
    s.add(base)
    advance(s, s.schedule())
    assert s.running == [late, base]
    s.adapters.sizes["a"] = 4  # type: ignore[attr-defined]  # of eight, and seven are in use
    s.schedule()
    assert s.running == [base]
    assert s.adapters.wanted == {"a"}  # type: ignore[attr-defined]
    s.check()
    s.finish(base)
    s.adapters.count = 1  # type: ignore[attr-defined]
    assert shares(s.schedule()) == [(late, 12)]  # what was read is known


def test_who_runs_ahead_is_told_when_its_adapter_cannot_be_loaded() -> None:
    class Broken(Slots):
        def acquire(self, digest: str) -> bool:
            if self.wanted:
                raise SpecialistError("It is gone.")
            return False

    chosen = EngineSettings(max_running=4, step_tokens=32, kv_tokens=256)
    s = Scheduler(chosen, PagePool(chosen.num_pages(1, 0), chosen.page_size), Broken(1))
    late = job(60, "a", offset=50)
    s.add(late)
    s.commit(s.schedule())
    assert [(one, str(error)) for one, error in s.schedule().failed] == [(late, "It is gone.")]
    assert not s.has_work
    s.check()
    assert s.pages.used == 0


# ------------------------------------------------------------------------------------------ order, priority, deadlines
def test_the_same_prefix_is_computed_once_also_by_those_that_come_together() -> None:
    s = scheduler(step_tokens=24, max_running=8)
    together = [job(40) for _ in range(3)]
    for one in together:
        s.add(one)
    assert shares(s.schedule()) == [(together[0], 24)]
    while s.has_work:
        plan = s.schedule()
        advance(s, plan)
        for work in plan.work:
            if len(work.job.tokens) > 40:
                s.finish(work.job)
        s.check()
    assert s.counters.computed == 40 + 8 + 8  # two pages of three are found


def test_those_whose_prefix_is_known_go_before_others_of_their_flow() -> None:
    """Two documents take turns in a pool that holds one of them: each is read once, not once for every question."""
    s = scheduler(step_tokens=64, max_running=1, kv_tokens=16 * 6)
    asked = [job(64, first=1000 * (number % 2)) for number in range(6)]
    for number, one in enumerate(asked):
        one.tokens += [500 + number]
        s.add(one)
    order: list[int] = []
    while s.has_work:
        plan = s.schedule()
        advance(s, plan)
        for work in plan.work:
            if len(work.job.tokens) > 65:
                order.append(asked.index(work.job))
                s.finish(work.job)
        s.check()
    assert order == [0, 2, 4, 1, 3, 5]
    assert s.counters.computed == 2 * (65 + 2 * 1)


def test_whoever_waits_for_a_prefix_goes_on_when_the_one_who_reads_it_leaves() -> None:
    s = scheduler(step_tokens=24, max_running=8)
    reader, other = job(40), job(40)
    s.add(reader)
    s.add(other)
    s.commit(s.schedule())
    assert reader in s.running
    assert other in s.waiting
    s.finish(reader)
    assert shares(s.schedule()) == [(other, 24)]
    assert other.cached == 16
    s.check()


def test_a_higher_priority_takes_the_place_of_a_lower_one() -> None:
    s = scheduler(max_running=2)
    low = [job(5), job(6)]
    for one in low:
        s.add(one)
    advance(s, s.schedule())
    high = job(7)
    high.priority = 1
    s.add(high)
    advance(s, s.schedule())
    assert s.running == [low[0], high]
    assert list(s.waiting) == [low[1]]
    s.finish(high)
    s.schedule()
    assert s.running == low
    s.check()


def test_a_higher_priority_takes_the_pages_of_a_lower_one() -> None:
    s = scheduler(kv_tokens=64)
    low, high = job(40), job(40, first=500)
    high.priority = 1
    s.add(low)
    s.schedule()
    s.add(high)
    s.schedule()
    assert s.running == [high]
    s.check()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def dated(tokens: int, due: float, first: int) -> Job:
    one = job(tokens, first=first)
    one.due = due
    return one


def test_what_cannot_come_in_time_is_ended_early_and_as_little_as_possible() -> None:
    chosen = EngineSettings(max_running=1, step_tokens=32, kv_tokens=512)
    clock = Clock()
    s = Scheduler(chosen, PagePool(chosen.num_pages(1, 0), chosen.page_size), Slots(1), clock)
    first = job(32)
    s.add(first)
    plan = s.schedule()
    for _ in range(MEASURED):
        s.commit(plan, seconds=1.0)  # 32 tokens per second
    s.finish(first)
    long, short, other = dated(160, 104.0, 1000), dated(32, 103.5, 2000), dated(32, 104.0, 3000)
    for one in (long, short, other):
        s.add(one)
    plan = s.schedule()
    assert [one for one, _ in plan.failed] == [long]
    assert isinstance(plan.failed[0][1], DeadlineError)
    assert short in s.running
    assert list(s.waiting) == [other]
    clock.now = 104.5
    assert [one for one, _ in s.schedule().failed] == [other]
    s.check()
    assert s.running == [short]


def test_as_long_as_the_pace_is_unknown_only_those_that_are_due_are_ended() -> None:
    chosen = EngineSettings(max_running=1, step_tokens=32, kv_tokens=512)
    clock = Clock()
    s = Scheduler(chosen, PagePool(chosen.num_pages(1, 0), chosen.page_size), Slots(1), clock)
    s.add(job(20))
    s.commit(s.schedule(), seconds=50.0)
    late, soon = dated(20, 99.0, 1000), dated(400, 100.5, 2000)
    s.add(late)
    s.add(soon)
    assert [one for one, _ in s.schedule().failed] == [late]
    assert list(s.waiting) == [soon]

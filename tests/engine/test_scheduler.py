"""Who works next, without any model: budgets, order, room, preemption."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from plural.engine.kv_cache import KVCache
from plural.engine.request import Job
from plural.engine.scheduler import PATIENCE, Plan, Scheduler
from plural.engine.settings import EngineSettings
from plural.types import AdapterRef


class Slots:
    """Adapter slots without adapters."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.users: dict[str, int] = {}

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
    return Scheduler(chosen, KVCache(chosen.num_pages, chosen.page_size), Slots(slots))


def job(tokens: int, digest: str | None = None, first: int = 0) -> Job:
    return Job(range(first, first + tokens), AdapterRef(digest) if digest else None, lambda result: True)


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


jobs = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(jobs, st.integers(4, 40), st.integers(8, 16), st.integers(1, 3), st.integers(1, 5))
def test_everybody_finishes_and_nothing_is_left(
    wanted: list[tuple[int, int, str | None]], step_tokens: int, pages: int, slots: int, arrivals: int
) -> None:
    """Any jobs that each fit in the pool alone, in any mix, under any budget."""
    s = scheduler(slots, step_tokens=step_tokens, kv_tokens=16 * pages)
    ends: dict[Job, int] = {}
    todo = []
    for i, (prompt, output, digest) in enumerate(wanted):
        new = job(prompt, digest, first=100 * (i % 3))
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
        assert len({one.adapter.digest for one in s.running if one.adapter}) <= slots
        advance(s, plan)
        for one, _ in counts:
            if len(one.tokens) >= ends[one]:
                s.finish(one)
        s.check()
        if not (s.has_work or todo):
            break
    assert not s.has_work
    assert s.cache.used == 0
    assert s.counters.finished == len(wanted)

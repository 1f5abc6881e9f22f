"""Who is given up, against trying everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.engine.deadlines import doomed
from plural.errors import MachineError


@dataclass(eq=False)
class Job:
    due: float | None
    remaining: int = 10
    new: int = 0
    priority: int = 0

    @property
    def need(self) -> int:
        return self.remaining + self.new


def in_time(order: Sequence[Job], rate: float, now: float) -> bool:
    """One after another: does each have its first token when it is due?"""
    begin = 0
    for job in order:
        if job.due is not None and begin + job.remaining > (job.due - now) * rate:
            return False
        begin += job.need
    return True


def feasible(jobs: Sequence[Job], rate: float, now: float) -> bool:
    return any(in_time(order, rate, now) for order in permutations(jobs))


def smallest(jobs: Sequence[Job], rate: float, now: float) -> tuple[int, int]:
    """The fewest that must go, and then the least work that may stay."""
    for count in range(len(jobs) + 1):
        works = [
            sum(job.need for job in kept) for kept in combinations(jobs, len(jobs) - count) if feasible(kept, rate, now)
        ]
        if works:
            return count, min(works)
    raise AssertionError("nothing at all is always feasible")


# Whole numbers, so that the arithmetic is exact.
one = st.builds(Job, due=st.integers(-5, 60).map(float), remaining=st.integers(1, 30), new=st.integers(0, 30))
some = st.lists(one, max_size=6)
rates, nows = st.integers(1, 4).map(float), st.integers(-5, 5).map(float)


@given(some, rates, nows)
def test_the_fewest_are_given_up_and_the_rest_is_in_time(jobs: list[Job], rate: float, now: float) -> None:
    gone = doomed(jobs, rate, now)
    kept = [job for job in jobs if job not in gone]
    assert feasible(kept, rate, now)
    assert (len(gone), sum(job.need for job in kept)) == smallest(jobs, rate, now)


@given(some, rates, nows)
def test_what_is_late_alone_is_always_given_up(jobs: list[Job], rate: float, now: float) -> None:
    gone = doomed(jobs, rate, now)
    assert all(job in gone for job in jobs if not in_time([job], rate, now))


@given(some, rates, nows, st.data())
def test_nobody_is_given_up_while_all_can_be_met(jobs: list[Job], rate: float, now: float, data) -> None:
    order = data.draw(st.permutations(jobs))
    begin = 0
    for job in order:
        job.due = now + (begin + job.remaining) / rate + data.draw(st.integers(0, 3))
        begin += job.need
    if not in_time(order, rate, now):  # rounding of the division by three
        return
    assert doomed(jobs, rate, now) == []


@given(some, st.lists(st.builds(Job, due=st.none(), remaining=st.integers(1, 30)), max_size=3), rates, nows)
def test_who_has_no_due_time_neither_goes_nor_drives_others_out(
    dated: list[Job], others: list[Job], rate: float, now: float
) -> None:
    assert doomed([*others, *dated], rate, now) == doomed(dated, rate, now)


@given(some, some, st.lists(st.integers(1, 30), max_size=2), rates, nows)
def test_a_higher_priority_is_load_for_a_lower_and_never_the_other_way_round(
    high: list[Job], low: list[Job], undated: list[int], rate: float, now: float
) -> None:
    for job in high:
        job.priority = 1
    loads = [Job(None, tokens, priority=1) for tokens in undated]
    gone = doomed([*low, *loads, *high], rate, now)
    assert [job for job in gone if job.priority] == doomed(high, rate, now)
    work = sum(job.need for job in [*high, *loads] if job not in gone)
    # What comes before the lower ones delays them as a later clock would; rate and load are whole, so scale the clock.
    scaled = [Job((job.due - now) * rate - work, job.remaining, job.new) for job in low if job.due is not None]
    assert [low.index(job) for job in gone if not job.priority] == [scaled.index(job) for job in doomed(scaled, 1.0, 0)]


def test_one_long_job_goes_rather_than_three_short_ones() -> None:
    long = Job(10.0, 80)
    short = [Job(10.0 + i, 20) for i in range(3)]
    assert doomed([long, *short], rate=10.0, now=0.0) == [long]
    assert doomed([long, *short], rate=20.0, now=0.0) == []


def test_the_first_token_is_due_not_the_last() -> None:
    assert doomed([Job(1.0, 10, new=1000)], rate=10.0, now=0.0) == []
    assert len(doomed([Job(1.0, 11)], rate=10.0, now=0.0)) == 1
    # But the new ones are load for who comes after.
    assert len(doomed([Job(1.0, 10, new=1000), Job(50.0, 10)], rate=10.0, now=0.0)) == 1


def test_equal_jobs_are_given_up_from_the_end() -> None:
    jobs = [Job(1.0, 10) for _ in range(3)]
    assert doomed(jobs, rate=10.0, now=0.0) == jobs[1:]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(MachineError, match=str(rate)):
        doomed([], rate, 0.0)

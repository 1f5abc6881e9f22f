"""The order of waiting jobs, without any engine: one is simulated where fairness has to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.engine.queue import NEAR, WaitingQueue
from plural.errors import MachineError, SettingsError


@dataclass(eq=False)
class Job:
    """`size` tokens are computed before the first new one, then `output` more, one after another."""

    flow: str = "a"
    size: int = 10
    output: int = 0
    priority: int = 0
    due: float | None = None
    computed: int = 0
    drawn: int = 0

    @property
    def remaining(self) -> int:
        return self.size + self.drawn - self.computed

    @property
    def total(self) -> int:
        return self.size + self.output


def filled(jobs: Iterable[Job], **options: int) -> WaitingQueue[Job]:
    queue = WaitingQueue[Job](**options)
    for job in jobs:
        queue.add(job)
    return queue


def admitted(queue: WaitingQueue[Job], most: int = 1000) -> list[Job]:
    """Lets in everything offered, up to `most`."""
    got: list[Job] = []
    for job in queue.walk():
        if len(got) == most:
            break
        queue.admit(job)
        got.append(job)
    return got


# --------------------------------------------------------------------------------------------------------- the order
def test_flows_take_turns_by_tokens_not_by_requests() -> None:
    long, short = [Job("long", 30) for _ in range(3)], [Job("short", 10) for _ in range(9)]
    flows = [job.flow for job in admitted(filled([*long, *short]), 8)]
    assert flows == ["long", *["short"] * 3, "long", *["short"] * 3]


def test_within_a_flow_the_earliest_due_comes_first_then_the_earliest_arrival() -> None:
    whenever, late, early, twin = Job(), Job(due=9.0), Job(due=3.0), Job(due=3.0)
    assert list(filled([whenever, late, early, twin]).walk()) == [early, twin, late, whenever]


def test_of_the_next_of_a_flow_those_come_first_of_which_most_is_known() -> None:
    plain, some, most, dated = Job(), Job(size=20), Job(size=30), Job(size=40, due=3.0)
    far = [Job() for _ in range(NEAR)]
    last = Job(size=50)
    queue = filled([plain, some, most, dated, *far, last])
    order = list(queue.walk(lambda job: job.size))
    assert order == [dated, most, some, plain, *far, last]
    assert next(filled([Job("a"), Job("b", 99)]).walk(lambda job: job.size)).flow == "a"


def test_nobody_is_passed_by_for_ever_by_those_of_which_more_is_known() -> None:
    stranger = Job(size=7)
    queue = filled([stranger, Job()], patience=5)
    overtaken = 0
    while (first := next(walk := queue.walk(lambda job: job.size))) is not stranger:
        queue.admit(first)
        next(walk)
        queue.remove(first)
        queue.add(Job())
        overtaken += 1
    assert overtaken == 6
    queue.check()


def test_what_is_let_in_steers_the_rest_of_the_walk() -> None:
    first, second, other = Job("a", 50), Job("a", 50), Job("b", 50)
    queue = filled([first, second, other])
    walk = queue.walk()
    assert next(walk) is first
    queue.admit(first)
    assert next(walk) is other
    # Passed over: the flow has nothing else to offer, and the other one goes on.
    assert next(walk) is second


def test_a_walk_that_is_left_reads_no_further() -> None:
    @dataclass(eq=False)
    class Watched(Job):
        reads: list[int] = field(default_factory=list)

        @property
        def remaining(self) -> int:
            self.reads.append(1)
            return super().remaining

    jobs = [Watched() for _ in range(2000)]
    queue: WaitingQueue[Job] = filled(jobs)
    admitted(queue, 3)
    assert sum(len(job.reads) for job in jobs) == 3
    assert len(queue) == 1997


waiting_jobs = st.lists(
    st.builds(
        Job,
        flow=st.sampled_from("abcd"),
        size=st.integers(1, 50),
        priority=st.integers(-1, 2),
        due=st.none() | st.integers(0, 5).map(float),
    ),
    max_size=25,
)


@given(waiting_jobs, st.randoms())
def test_any_walk_offers_each_job_once_and_higher_priorities_first(jobs: list[Job], random) -> None:
    queue = filled(jobs)
    offered = []
    for job in queue.walk():
        offered.append(job)
        if random.random() < 0.5:
            queue.admit(job)
        queue.check()
    assert Counter(map(id, offered)) == Counter(map(id, jobs))
    priorities = [job.priority for job in offered]
    assert priorities == sorted(priorities, reverse=True)


@given(waiting_jobs, st.integers(0, 9))
def test_the_order_is_the_same_every_time(jobs: list[Job], refused: int) -> None:
    def orders() -> list[list[int]]:
        queue = filled(jobs)
        number = {id(job): i for i, job in enumerate(jobs)}
        walks = []
        for _ in range(3):
            walks.append([])
            for job in queue.walk():
                walks[-1].append(number[id(job)])
                if (number[id(job)] + len(walks)) % 10 > refused:
                    queue.admit(job)
        return walks

    assert orders() == orders()


# ------------------------------------------------------------------------------------------------- counters and debts
def test_a_flow_that_was_idle_gets_no_credit() -> None:
    busy = filled([Job("busy") for _ in range(200)])
    admitted(busy, 100)
    newcomers = [Job("new") for _ in range(100)]
    for job in newcomers:
        busy.add(job)
    flows = Counter(job.flow for job in admitted(busy, 20))
    assert flows == {"busy": 10, "new": 10}


def test_going_idle_wipes_out_no_debt() -> None:
    """One flow asks for much, thinks for a while, and asks again; the other always waits. Both get the same."""
    queue = filled([Job("small", 10) for _ in range(200)])
    served = Counter[str]()
    thinks = 0
    for _ in range(150):
        thinks -= 1
        if thinks < 0 and all(job.flow == "small" for job in queue):
            queue.add(Job("large", 100))
        (job,) = admitted(queue, 1)
        served[job.flow] += job.size
        queue.remove(job)
        if job.flow == "large":
            thinks = 2
    assert abs(served["large"] - served["small"]) <= 100


def test_preempted_work_is_not_charged_twice() -> None:
    job, other = Job("a", 40, 10), Job("b", 45)
    queue = filled([job, Job("a"), other])
    assert admitted(queue, 1) == [job]
    job.computed = 40
    for _ in range(3):
        job.drawn += 1
        queue.charge(job, 1)
    assert queue.counters[0, "a"] == 43
    job.computed = 0
    queue.put_back(job)
    assert job.remaining == 43
    assert next(iter(queue.walk())) is other  # a has got 43, b nothing
    queue.admit(other)
    assert admitted(queue, 1) == [job]  # before the other one of its flow
    assert queue.counters[0, "a"] == 43
    queue.charge(job, 1)
    assert queue.counters[0, "a"] == 44


def test_of_several_preempted_the_last_to_be_put_back_comes_first() -> None:
    jobs = [Job(due=1.0) for _ in range(3)]
    queue = filled(jobs)
    admitted(queue)
    fresh = Job(due=0.0)
    queue.add(fresh)
    for job in reversed(jobs):
        queue.put_back(job)
    assert list(queue.walk()) == [*jobs, fresh]


def test_a_preempted_job_whose_cached_prefix_is_gone_is_charged_for_that() -> None:
    job = Job("a", 40)
    job.computed = 30  # found in the prefix cache
    queue = filled([job, Job("b"), Job("b")])
    admitted(queue, 1)
    assert queue.counters[0, "a"] == 10
    job.computed = 0
    queue.put_back(job)
    queue.admit(job)
    assert queue.counters[0, "a"] == 40


def test_counters_of_idle_flows_are_forgotten() -> None:
    queue = filled([Job("busy") for _ in range(600)])
    most = 0
    for i in range(500):
        queue.add(Job(f"once {i}"))
        for job in admitted(queue, 2):
            queue.remove(job)
        most = max(most, len(queue.counters))
    assert most <= 4
    for job in admitted(queue):
        queue.remove(job)
    assert queue.counters == {}
    assert len(queue) == 0


def test_a_running_flow_is_remembered_until_its_last_job_is_over() -> None:
    queue = filled([Job("a"), Job("a")])
    first, second = admitted(queue)
    queue.remove(first)
    assert list(queue.counters) == [(0, "a")]
    queue.remove(second)
    assert queue.counters == {}


def test_a_forks_child_runs_without_having_waited() -> None:
    queue = filled([Job("a", 20), Job("a"), Job("b", 15)])
    (parent,) = admitted(queue, 1)
    child = Job("a", 23, computed=20)
    queue.admit(child)
    assert queue.counters[0, "a"] == 23
    queue.remove(parent)
    queue.remove(child)
    queue.check()


# --------------------------------------------------------------------------------------------------- passing over
def offered(queue: WaitingQueue[Job], refused: Job) -> list[Job]:
    """A walk that lets in everybody but one."""
    seen = []
    for job in queue.walk():
        seen.append(job)
        if job is not refused:
            queue.admit(job)
    return seen


def test_who_is_passed_over_too_often_is_waited_for() -> None:
    large = Job("a", 100)
    queue = filled([large], patience=3)
    for i in range(3):
        small = Job("b", 1, priority=-i)
        queue.add(small)
        assert offered(queue, large) == [large, small]
    rest = [Job("a"), Job("b"), Job("a", priority=-1)]
    for job in rest:
        queue.add(job)
    urgent = Job("a", due=0.0)
    assert offered(queue, large) == [large]
    queue.add(urgent)
    high = Job("c", priority=1)
    queue.add(high)
    # Waited for: before the others of its flow, but not before a higher priority.
    assert offered(queue, large) == [high, large]
    assert admitted(queue)[0] is large
    assert len(queue) == 0


def test_a_walk_that_is_left_and_a_deferred_job_try_nobodys_patience() -> None:
    head, behind = Job("a", due=0.0), Job("a")
    queue = filled([head, behind], patience=0)
    for _ in range(5):
        assert next(iter(queue.walk())) is head
    for _ in range(5):
        seen = []
        for job in queue.walk():
            seen.append(job)
            queue.defer(job)
        assert seen == [head, behind]
    assert list(queue.walk()) == [head]


def test_nobody_gets_further_ahead_than_the_lead() -> None:
    large = Job("large", 500)
    queue = filled([large, *(Job("small", 10) for _ in range(100)), Job("small", priority=-1)], lead=200)
    let_in = [job for job in offered(queue, large) if job is not large]
    assert sum(job.size for job in let_in) == 210
    assert offered(queue, large) == [large]


# ------------------------------------------------------------------------------------------------- bad input
def test_what_stands_elsewhere_is_refused() -> None:
    queue = filled([])
    job = Job()
    for call in (queue.remove, queue.put_back, queue.defer, lambda job: queue.charge(job, 1)):
        with pytest.raises(MachineError):
            call(job)
    queue.add(job)
    assert job in queue
    with pytest.raises(MachineError):
        queue.add(job)
    queue.admit(job)
    assert job not in queue
    for call in (queue.add, queue.admit, queue.defer):
        with pytest.raises(MachineError):
            call(job)
    queue.remove(job)
    with pytest.raises(SettingsError, match="nan"):
        queue.add(Job(due=float("nan")))
    with pytest.raises(SettingsError, match="-1"):
        WaitingQueue[Job](patience=-1)
    assert queue.counters == {}
    queue.check()


# ------------------------------------------------------------------------------------------------- a simulated engine
class Engine:
    """Computes `step_tokens` a step for at most `max_running` jobs that hold at most `pool` tokens together; the last
    one that was let in gives way when the pool is full. `served` and `done` are per flow: charged, and computed once.
    """

    def __init__(self, queue: WaitingQueue[Job], max_running: int, step_tokens: int, pool: int) -> None:
        self.queue = queue
        self.max_running = max_running
        self.step_tokens = step_tokens
        self.pool = pool
        self.running: list[Job] = []
        self.served = Counter[str]()
        self.charged = Counter[Job]()
        self.reached = Counter[Job]()
        self.at_once = 0
        self.preempted = 0

    @property
    def done(self) -> Counter[str]:
        totals = Counter[str]()
        for job, count in self.reached.items():
            totals[job.flow] += count
        return totals

    @property
    def owed(self) -> int:
        return sum((self.charged - self.reached).values())

    def step(self) -> list[tuple[Job, Counter[str]]]:
        """Returns who was let in, each with what had been served when it was."""
        budget = self._compute(self.step_tokens)
        came = self._admit(budget)
        self.at_once = max(self.at_once, sum(job.total for job in self.running))
        self.queue.check()
        return came

    def _held(self) -> int:
        return sum(job.size + job.drawn for job in self.running)

    def _compute(self, budget: int) -> int:
        for job in sorted(self.running, key=lambda job: job.remaining > 1):
            count = min(job.remaining, budget)
            job.computed += count
            budget -= count
            self.reached[job] = max(self.reached[job], job.computed)
            if job.remaining:
                continue
            if job.drawn == job.output:
                self.running.remove(job)
                self.queue.remove(job)
            else:
                job.drawn += 1
                self._charge(job, 1)
                self.queue.charge(job, 1)
        while self._held() > self.pool:
            job = self.running.pop()
            job.computed = 0
            self.queue.put_back(job)
            self.preempted += 1
        return budget

    def _admit(self, budget: int) -> list[tuple[Job, Counter[str]]]:
        came = []
        for job in self.queue.walk():
            if budget <= 0 or len(self.running) == self.max_running:
                break
            if self._held() + job.size + job.drawn > self.pool:
                continue
            budget -= job.remaining
            came.append((job, Counter(self.served)))
            self._charge(job, max(0, job.remaining - self.charged[job]))
            self.queue.admit(job)
            self.running.append(job)
        return came

    def _charge(self, job: Job, tokens: int) -> None:
        self.charged[job] += tokens
        self.served[job.flow] += tokens


class Witness:
    """Watches an engine step by step and keeps what the bounds are about."""

    def __init__(self, sim: Engine, flows: Iterable[str]) -> None:
        self.sim = sim
        self.pairs = list(permutations(sorted(flows), 2))
        self.owed = 0
        # For each pair of flows that wait now, the differences between them since both do; the same where one does.
        self.both: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.one: dict[tuple[str, str], list[int]] = {}
        self.charged: list[int] = []
        self.computed: list[int] = []
        self.behind: list[int] = []
        self.arrived: dict[Job, Counter[str]] = {}
        self.waits: list[int] = []

    def arrives(self, job: Job) -> None:
        self.arrived[job] = Counter(self.sim.served)

    def step(self) -> None:
        for job, served in self.sim.step():
            if job in self.arrived:
                since = self.arrived.pop(job)
                got = {flow: served[flow] - since[flow] for flow in served}
                own = got.pop(job.flow, 0)
                self.waits.append(max(got.values(), default=0) - own)
        sim, waiting, done = self.sim, {job.flow for job in self.sim.queue}, self.sim.done
        self.owed = max(self.owed, sim.owed)
        for f, g in self.pairs:
            gap = sim.served[f] - sim.served[g]
            if {f, g} <= waiting:
                self.both.setdefault((f, g), []).append((gap, done[f] - done[g]))
            elif (f, g) in self.both:
                charged, computed = zip(*self.both.pop((f, g)), strict=True)
                self.charged.append(max(charged) - min(charged))
                self.computed.append(max(computed) - min(computed))
            if g in waiting:
                self.one.setdefault((f, g), []).append(gap)
            elif (f, g) in self.one:
                self.behind.append(largest_rise(self.one.pop((f, g))))


loads = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=30),
    min_size=2,
)
engines = st.tuples(st.integers(1, 6), st.integers(1, 64), st.integers(90, 200), st.integers(0, 3), st.integers(0, 200))


@given(loads, engines)
def test_flows_that_wait_are_served_alike_whatever_they_ask(
    load: dict[str, list[tuple[int, int, int]]], engine: tuple[int, int, int, int, int]
) -> None:
    """Any loads on any machine, with preemption and passing over: the bounds of the module's docstring, for every
    interval at once: the range of a difference is the most by which it changes over any interval."""
    max_running, step_tokens, pool, patience, lead = engine
    queue = WaitingQueue[Job](patience, lead)
    sim = Engine(queue, max_running, step_tokens, pool)
    witness = Witness(sim, load)
    for now in range(20_000):
        for flow, asked in load.items():
            while asked and asked[-1][2] <= now % 4:
                size, output, _ = asked.pop()
                job = Job(flow, size, output)
                witness.arrives(job)
                queue.add(job)
        witness.step()
        if not (queue or sim.running or any(load.values())):
            break
    assert not queue  # nobody starves
    assert not sim.running
    assert queue.counters == {}
    x = sim.at_once
    u = x + lead
    assert all(change <= 2 * u for change in witness.charged)
    assert all(change <= 2 * (u + witness.owed) for change in witness.computed)
    assert all(rise <= 2 * u + x for rise in witness.behind)
    assert all(more <= 2 * u + 2 * x for more in witness.waits)


def largest_rise(values: list[int]) -> int:
    lowest, rise = values[0], 0
    for value in values:
        lowest = min(lowest, value)
        rise = max(rise, value - lowest)
    return rise


def test_one_flow_with_a_thousand_requests_does_not_hold_up_the_others() -> None:
    """The same on a load where first come first served fails: the bound, and not much less than it, is needed."""
    queue = filled(Job("flood", 50, 10) for _ in range(1000))
    sim = Engine(queue, max_running=4, step_tokens=32, pool=400)
    for _ in range(20):
        sim.step()
    quiet = [Job("quiet", 20, 5) for _ in range(50)]
    for job in quiet:
        queue.add(job)
    served = Counter(sim.served)
    while any(job in queue for job in quiet):
        sim.step()
        gap = (sim.served["flood"] - served["flood"]) - (sim.served["quiet"] - served["quiet"])
        assert abs(gap) <= 4 * 60  # X: four of the larger ones at once
    assert sim.served["flood"] - served["flood"] < 50 * 25 + 4 * 60


def test_a_higher_priority_is_let_in_first_however_much_it_has_had() -> None:
    queue = filled([Job("a", 10) for _ in range(5)])
    sim = Engine(queue, max_running=1, step_tokens=16, pool=100)
    for _ in range(40):
        queue.add(Job("b", 10, priority=1))
        sim.step()
    assert sim.served["a"] == 0
    assert sim.served["b"] > 100

"""The real scheduler in simulated time: more is asked than can be served."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import pytest

from plural.engine.page_pool import PagePool
from plural.engine.request import DATED, Job
from plural.engine.scheduler import Scheduler
from plural.engine.settings import EngineSettings
from plural.types import AdapterRef

SLO = 6.0
SPECIALISTS = 8


class Resident:
    """Adapters that are all here and take no pages."""

    def __init__(self) -> None:
        self.pinned_pages: dict[str, int] = {}
        self.held: dict[str, int] = {}

    def pages_for(self, digest: str) -> int:
        return 0

    def acquire(self, digest: str) -> bool:
        return True

    def release(self, digest: str) -> None: ...

    def hold(self, digest: str) -> None: ...

    def let_go(self, digest: str) -> None: ...

    def collect(self) -> None: ...

    def want(self, digest: str) -> None: ...

    def forget_all_but(self, wanted: Container[str]) -> None: ...


@dataclass(frozen=True)
class Call:
    at: float
    specialist: int
    prompt: int
    tokens: int


class Answer(Job):
    """Draws a token in each step after its prompt was read."""

    def __init__(self, number: int, call: Call, kind: str) -> None:
        tokens = [number, *np.random.default_rng(number).integers(0, 50_000, call.prompt - 1).tolist()]
        super().__init__(tokens, (AdapterRef(str(call.specialist)),), lambda _: True)
        self.call = call
        self.first: float | None = None
        if kind != "fair":
            self.flow = DATED  # without deadlines: first come, first served
        if kind == "dated":
            self.due = call.at + SLO

    @property
    def most(self) -> int:
        return self.call.prompt + self.call.tokens

    @property
    def in_time(self) -> bool:
        return self.first is not None and self.first - self.call.at < SLO


def workload(rate: float, seconds: float, cv: float) -> list[Call]:
    """As S-LoRA's code draws it (arXiv 2311.03285), alpha 0.3."""
    dice = np.random.default_rng(42)
    count = int(rate * seconds)
    who = (dice.power(0.3, count) * SPECIALISTS).astype(int)
    prompts, tokens = dice.integers(8, 128, count), dice.integers(8, 128, count)
    at = np.cumsum(dice.gamma(1 / cv**2, cv**2 / rate, count))
    return [Call(float(a), int(w), int(p), int(t)) for a, w, p, t in zip(at, who, prompts, tokens, strict=True)]


@dataclass(frozen=True)
class Machine:
    """Seconds of a step, and of each of its tokens."""

    step: float
    token: float
    places: int


QUICK = Machine(0.02, 0.0005, places=32)
LAPTOP = Machine(0.03, 0.0022, places=EngineSettings().max_running)


def serve(machine: Machine, calls: list[Call], kind: str) -> tuple[list[Answer], float]:
    settings = EngineSettings(max_running=machine.places, step_tokens=512)
    now = 0.0
    scheduler = Scheduler(settings, PagePool(settings.num_pages(1, 0), 16), Resident(), lambda: now)
    answers: list[Answer] = []
    while len(answers) < len(calls) or scheduler.has_work:
        while len(answers) < len(calls) and calls[len(answers)].at <= now:
            answers.append(Answer(len(answers), calls[len(answers)], kind))
            scheduler.add(answers[-1])
        plan = scheduler.schedule()
        if not plan.work:
            now = max(now, calls[len(answers)].at) if len(answers) < len(calls) else now
            continue
        seconds = machine.step + machine.token * sum(work.stop - work.start for work in plan.work)
        now += seconds
        scheduler.commit(plan, seconds)
        for job in (work.job for work in plan.work if work.job.remaining == 0):
            assert isinstance(job, Answer)
            job.first = job.first or now
            job.due = None
            job.tokens.append(1)
            if len(job.tokens) == job.most:
                scheduler.finish(job)
    scheduler.check()
    return answers, now


def shares(answers: list[Answer]) -> tuple[float, float]:
    """In time: of all, and of the worst-off specialist's."""
    by = [[one.in_time for one in answers if one.call.specialist == who] for who in range(SPECIALISTS)]
    return float(np.mean([one.in_time for one in answers])), min(float(np.mean(each)) for each in by)


def capacity(machine: Machine) -> float:
    """Requests per second when all are there at once."""
    calls = [Call(0.0, one.specialist, one.prompt, one.tokens) for one in workload(20, 20, 1)]
    return len(calls) / serve(machine, calls, "first come")[1]


# The bursts of cv 8 are more than anybody can serve.
@pytest.mark.parametrize(
    ("machine", "cv", "first_come", "share"),
    [(QUICK, 1, 0.5, 0.85), (QUICK, 8, 0.5, 0.7), (LAPTOP, 1, 0.75, 0.85), (LAPTOP, 8, 0.5, 0.7)],
)
def test_with_deadlines_most_are_served_in_time_and_nobody_starves(
    machine: Machine, cv: float, first_come: float, share: float
) -> None:
    calls = workload(1.25 * capacity(machine), 90, cv)
    in_order, _ = shares(serve(machine, calls, "first come")[0])
    dated, worst = shares(served := serve(machine, calls, "dated")[0])
    assert in_order < first_come
    assert dated > share
    assert worst > share - 0.2
    assert np.mean([one.in_time for one in served if one.first is not None]) > 0.9


def test_when_all_can_be_met_nobody_is_given_up() -> None:
    served = serve(QUICK, workload(0.6 * capacity(QUICK), 60, 1), "dated")[0]
    assert shares(served) == (1.0, 1.0)

"""Which waiting jobs cannot meet their deadline and are better ended now. Pure: jobs, a rate and a clock value go in.

S-LoRA (arXiv 2311.03285) aborts early by keeping the latest arrivals that it estimates to be in time. That says nothing
about how many it loses. Here the fewest are lost: Moore-Hodgson (J. M. Moore, Management Science 15, 1968), which is
optimal for one machine that does one job after another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from plural.errors import MachineError


class Dated(Protocol):
    @property
    def priority(self) -> int: ...

    @property
    def due(self) -> float | None:
        """When the first token must be there, in seconds on the clock of `now`; None: whenever."""
        ...

    @property
    def remaining(self) -> int:
        """Tokens to compute before the first new one can be drawn: the uncomputed prompt."""
        ...

    @property
    def need(self) -> int:
        """Tokens to compute in all: `remaining` and the expected new ones."""
        ...


D = TypeVar("D", bound=Dated)


@dataclass(slots=True)
class _Schedule:
    """The jobs kept so far, done one after another. All in tokens from now on."""

    end: int = 0
    late: set[int] = field(default_factory=set)

    def fill(self, dated: list[tuple[float, int, int]]) -> None:
        """Appends jobs (last moment to be done, index, need) of one priority; drops the longest when one is late."""
        kept: list[tuple[int, int]] = []
        for limit, index, need in sorted(dated):
            heapq.heappush(kept, (-need, -index))
            self.end += need
            if self.end > limit:
                dropped, which = heapq.heappop(kept)
                self.end += dropped
                self.late.add(-which)


def doomed(jobs: Iterable[D], rate: float, now: float) -> list[D]:
    """The waiting jobs to give up, in the order given: as few as possible, none while all can be met.

    `rate` is tokens per second, `now` seconds: pass the moment when the machine becomes free if it is not free now.
    The first token is due; whoever has it in time may draw the rest later, so a job has to be done by its due time plus
    the time of its new tokens, and jobs are taken in the order of those times. What is late whatever happens (due
    already, or its own prompt alone takes too long) is always among the result: nothing shorter is dropped for it.

    Jobs without a due time are never given up. They come after the dated ones of their priority, and all of a higher
    priority come before any of a lower: so they are load for the lower priorities only, and no job is given up for the
    sake of a lower priority. Per priority the result is the smallest, given what is kept of the higher ones, and what
    is kept is the least work among the smallest, which leaves the lower ones the most.

    A rate that is not a positive number is a MachineError.
    """
    if not 0 < rate < float("inf"):
        raise MachineError(f"No deadline can be judged at {rate} tokens per second.", hint="Measure some steps first.")
    asked = list(jobs)
    schedule = _Schedule()
    for priority in sorted({job.priority for job in asked}, reverse=True):
        level = [(index, job) for index, job in enumerate(asked) if job.priority == priority]
        schedule.fill(
            [
                ((job.due - now) * rate + job.need - job.remaining, index, job.need)
                for index, job in level
                if job.due is not None
            ]
        )
        schedule.end += sum(job.need for _, job in level if job.due is None)
    return [job for index, job in enumerate(asked) if index in schedule.late]

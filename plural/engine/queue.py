"""In which order waiting jobs are let in. Pure bookkeeping: no clock, no torch.

Higher priorities first, strictly. Within a priority the flow that has been served least: a flow is a specialist, a
mixture or the base, and its counter holds the tokens it was served (virtual token counters: Sheng et al., "Fairness in
Serving Large Language Models", arXiv 2401.00588). Within a flow the earliest due first, then the earliest arrival, but
of the first NEAR those of whose tokens most are known: before that is evicted for somebody else's.

A flow is charged a job's uncomputed tokens when the job is let in, and each later token when it is drawn. Tokens found
in the prefix cache are free, and so is computing again what a preempted job was charged before. A flow whose first job
comes to wait is lifted to the lowest counter of the flows that wait, so idleness earns no credit; its counter is kept
until that lowest one has passed it, so going idle wipes out no debt. When nobody waits at a priority, nobody lacks
anything: its counters start again from zero.

The bound. Let X be the most tokens that jobs running at the same time are charged from admission to their end (a fork's
children count with their parent): at most jobs at once times the longest request. Let U = X + lead. Then flows f and g
of one priority that both have waiting jobs throughout an interval are charged amounts that differ by at most 2 U in it,
and the tokens computed for them (each once) by at most 2 (U + P), P being the most that is charged and not computed yet
at any time.

Proof. Let v be the lowest counter of the waiting flows; it never falls while somebody waits, for who joins is lifted to
it. At any time c_f <= v + U for every counter: when f was last let in, each waiting flow was either still to be offered
something in that walk, with a counter of at least c_f, or had been passed over, and then had at least c_f - lead, so
c_f <= v + lead before the charge; all that f was charged from then on goes to jobs that ran together at that moment: at
most X. Lifts end at v, and a new start at v = 0 with at most X charged to what already runs. Waiting flows also have
c >= v, so |c_f - c_g| <= U at both ends of the interval, and neither is lifted inside it. Computed tokens are c minus
what is charged and not yet computed, 0 to P.

A flow g that always waits is charged at least what any other flow f is, less 2 U + X, whether f waits or not: before
f's first job comes to wait its running ones take at most X, and from then on v <= c_f <= v + U as above.

One request r of flow g waits while each other flow of its priority is charged at most G + 2 U + 2 X, where G is what g
itself lets in meanwhile (earlier due, or passing r by; 0 for who is offered first and fits): c_g rises by at most G + X
from at most v + U, and c_f ends at most U above v <= c_g and began as in the line above. Lower priorities get only what
passes r by in at most `patience` walks. Dividing by the tokens per second gives seconds.

Passing by has two limits, both kept here. A job passed over in more than `patience` walks, or by so many of its flow
that were let in since more of them was known, is waited for: it moves to the front of its flow, and each walk ends at
it. And nobody of the same priority is let in who is more than `lead` tokens ahead of a flow that was passed over in the
walk (the quantum of Cao et al., arXiv 2501.14312).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Protocol, TypeVar

from plural.errors import MachineError, SettingsError

# Walks. A job passed over more often is waited for.
PATIENCE = 64
# Tokens. Others get no further ahead of a flow that is passed over.
LEAD = 8192
# Of so many of a flow's next jobs those go first of which most is known.
NEAR = 16


class Queueable(Protocol):
    """What is read of a job: the first three when it is added, `remaining` when it is let in."""

    @property
    def flow(self) -> str: ...

    @property
    def priority(self) -> int: ...

    @property
    def due(self) -> float | None:
        """When the first token must be there, in seconds on time.monotonic's clock; None: whenever."""
        ...

    @property
    def remaining(self) -> int:
        """Tokens still to compute."""
        ...


J = TypeVar("J", bound=Queueable)

# A place in a flow's line: the rank, then the due time, then the arrival.
Place = tuple[int, float, int]
PUT_BACK, WAITED_FOR, USUAL = 0, 1, 2
START: Place = (-1, 0.0, 0)


@dataclass(slots=True, eq=False)
class _Ticket(Generic[J]):
    """A job that waits or runs."""

    job: J
    flow: _Flow[J]
    arrival: int
    place: Place
    charged: int = 0
    passed: int = 0
    deferred: bool = False


def _place(ticket: _Ticket[J]) -> Place:
    return ticket.place


@dataclass(slots=True, eq=False)
class _Flow(Generic[J]):
    name: str
    level: _Level[J]
    counter: int = 0
    # When it last came to wait: settles ties between counters, oldest first.
    turn: int = 0
    running: int = 0
    line: list[_Ticket[J]] = field(default_factory=list)

    def put(self, ticket: _Ticket[J], place: Place) -> None:
        ticket.place = place
        insort(self.line, ticket, key=_place)
        self.level.waiting += 1

    def take(self, ticket: _Ticket[J]) -> None:
        del self.line[bisect_left(self.line, ticket.place, key=_place)]
        self.level.waiting -= 1

    def after(self, place: Place) -> _Ticket[J] | None:
        at = bisect_right(self.line, place, key=_place)
        return self.line[at] if at < len(self.line) else None


@dataclass(slots=True, eq=False)
class _Level(Generic[J]):
    """One priority. `waiting` counts the jobs of all its flows."""

    flows: dict[str, _Flow[J]] = field(default_factory=dict)
    waiting: int = 0

    def lowest(self) -> float:
        """The lowest counter of the flows that wait; infinity when nobody does."""
        return min((flow.counter for flow in self.flows.values() if flow.line), default=math.inf)

    def forget(self) -> None:
        """Drops idle flows whose counters would be lifted anyway when they come back."""
        lowest = self.lowest()
        idle = [flow for flow in self.flows.values() if not (flow.line or flow.running) and flow.counter <= lowest]
        for flow in idle:
            del self.flows[flow.name]


class WaitingQueue(Generic[J]):
    """Jobs from `add` to `remove`, waiting or running; jobs are told apart by identity (no `__eq__` of their own).

    `patience` is in walks, `lead` in tokens. A job that is not where a method needs it is a MachineError.
    """

    def __init__(self, patience: int = PATIENCE, lead: int = LEAD) -> None:
        if patience < 0 or lead < 0:
            raise SettingsError(f"patience {patience} and lead {lead} must not be negative.")
        self.patience = patience
        self.lead = lead
        self._levels: dict[int, _Level[J]] = {}
        self._waiting: dict[J, _Ticket[J]] = {}
        self._running: dict[J, _Ticket[J]] = {}
        self._clock = count(1)

    def __contains__(self, job: object) -> bool:
        """Does it wait?"""
        return job in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[J]:
        """All that wait, in no particular order."""
        return iter(self._waiting)

    @property
    def counters(self) -> dict[tuple[int, str], int]:
        """By (priority, flow), for those that are remembered. Only differences within a priority mean anything."""
        return {
            (priority, name): flow.counter
            for priority, level in self._levels.items()
            for name, flow in level.flows.items()
        }

    def add(self, job: J) -> None:
        due = math.inf if job.due is None else job.due
        if math.isnan(due):
            raise SettingsError("A request is due at nan.", hint="Give seconds, or no due time.")
        ticket = self._register(job)
        self._line_up(ticket, (USUAL, due, ticket.arrival))

    def put_back(self, job: J) -> None:
        """A running job was preempted. It comes first of its flow; of several the last to be put back."""
        ticket = self._ran(job)
        self._line_up(ticket, (PUT_BACK, 0.0, -next(self._clock)))
        ticket.flow.running -= 1

    def admit(self, job: J) -> None:
        """It runs from now on, and its flow is charged what remains of it: call this when the cached prefix is known.

        A fork's child, which never waited, is let in the same way.
        """
        ticket = self._waiting.pop(job, None)
        if ticket is None:
            ticket = self._register(job)
        else:
            ticket.flow.take(ticket)
        ticket.passed = 0
        ticket.flow.running += 1
        self._running[job] = ticket
        # Computing again what was charged before is no service.
        self.charge(job, max(0, job.remaining - ticket.charged))
        self._tidy(ticket.flow.level)

    def charge(self, job: J, tokens: int) -> None:
        """Tokens to compute that came up while the job ran: drawn or forced ones."""
        ticket = self._running.get(job)
        if ticket is None:
            raise MachineError("A job was charged that does not run.")
        ticket.charged += tokens
        ticket.flow.counter += tokens

    def defer(self, job: J) -> None:
        """The job just offered waits for something of its own accord (a page that another job computes): passing it
        over in this walk is not held against the others' patience."""
        ticket = self._waiting.get(job)
        if ticket is None:
            raise MachineError("A job was deferred that does not wait.")
        ticket.deferred = True

    def remove(self, job: J) -> None:
        """The job is over, whether it ran or waited."""
        ticket = self._waiting.pop(job, None)
        if ticket is not None:
            ticket.flow.take(ticket)
        else:
            ticket = self._ran(job)
            ticket.flow.running -= 1
        self._tidy(ticket.flow.level)

    def walk(self, known: Callable[[J], int] = lambda _: 0) -> Iterator[J]:
        """Offers waiting jobs in order, each at most once. `known` says how much of a job need not be computed. What
        the caller neither admits nor removes before it asks for the next one was passed over; a walk that is left holds
        the last offer against nobody.

        O(flows) to begin with a priority, NEAR calls of `known` to begin with a flow, O(log jobs) for each offer. Jobs
        may leave during a walk; who joins during it is offered in this walk or the next.
        """
        for priority in sorted(self._levels, reverse=True):
            level = self._levels.get(priority)
            if level is not None and not (yield from self._offer(level, known)):
                return

    def check(self) -> None:
        """Raises MachineError when the books disagree."""
        lined_up = 0
        for level in self._levels.values():
            waiting = [ticket for flow in level.flows.values() for ticket in flow.line]
            lined_up += len(waiting)
            sorts = all(flow.line == sorted(flow.line, key=_place) for flow in level.flows.values())
            if not sorts or len(waiting) != level.waiting or any(self._waiting.get(t.job) is not t for t in waiting):
                raise MachineError("A line of waiting jobs is out of order or holds a job that does not wait.")
        running = sum(flow.running for level in self._levels.values() for flow in level.flows.values())
        if lined_up != len(self._waiting) or running != len(self._running):
            raise MachineError(
                f"Flows count {lined_up} waiting and {running} running jobs; "
                f"there are {len(self._waiting)} and {len(self._running)}."
            )

    # ---------------------------------------------------------------------------------------------------- inside
    def _offer(self, level: _Level[J], known: Callable[[J], int]) -> Generator[J, None, bool]:
        """One priority's part of a walk. False: nobody behind is let in."""
        level.forget()
        heap = [(flow.counter, flow.turn, flow, self._line(flow, known)) for flow in level.flows.values() if flow.line]
        heapq.heapify(heap)
        limit = math.inf
        while heap:
            counter, turn, flow, line = heapq.heappop(heap)
            if counter > limit:
                return False
            ticket = next(line, None)
            if ticket is None:
                continue
            ticket.deferred = False
            yield ticket.job
            if ticket.job in self._waiting:
                limit = min(limit, counter + self.lead)
                if not (ticket.deferred or self._pass_over(ticket)):
                    return False
            heapq.heappush(heap, (flow.counter, turn, flow, line))
        return True

    def _line(self, flow: _Flow[J], known: Callable[[J], int]) -> Iterator[_Ticket[J]]:
        """A flow's jobs in order, also those that join its end meanwhile. Who is let in passes by whom it overtook."""
        near = flow.line[:NEAR]
        place = near[-1].place if near else START
        near.sort(key=lambda one: (*one.place[:2], -known(one.job) if one.place[0] == USUAL else 0, one.place))
        for at, ticket in enumerate(near):
            where = ticket.place
            if self._waiting.get(ticket.job) is not ticket:
                continue
            yield ticket
            if ticket.job not in self._waiting:
                for other in near[at + 1 :]:
                    if other.place < where and self._waiting.get(other.job) is other:
                        self._pass_over(other)
        while (later := flow.after(place)) is not None:
            place = later.place
            yield later

    def _pass_over(self, ticket: _Ticket[J]) -> bool:
        """May others still be let in before it?"""
        ticket.passed += 1
        if ticket.passed <= self.patience:
            return True
        if ticket.place[0] == USUAL:
            ticket.flow.take(ticket)
            ticket.flow.put(ticket, (WAITED_FOR, 0.0, ticket.arrival))
        return False

    def _line_up(self, ticket: _Ticket[J], place: Place) -> None:
        flow = ticket.flow
        if not flow.level.waiting:
            for other in flow.level.flows.values():
                other.counter = 0
        elif not flow.line:
            flow.counter = max(flow.counter, int(flow.level.lowest()))
        if not flow.line:
            flow.turn = next(self._clock)
        flow.put(ticket, place)
        self._waiting[ticket.job] = ticket

    def _register(self, job: J) -> _Ticket[J]:
        if job in self._waiting or job in self._running:
            raise MachineError("A job was added that already waits or runs.")
        level = self._levels.setdefault(job.priority, _Level())
        flow = level.flows.setdefault(job.flow, _Flow(job.flow, level))
        return _Ticket(job, flow, next(self._clock), START)

    def _ran(self, job: J) -> _Ticket[J]:
        ticket = self._running.pop(job, None)
        if ticket is None:
            raise MachineError("A job was put back or removed that neither waits nor runs.")
        return ticket

    def _tidy(self, level: _Level[J]) -> None:
        if not level.waiting:
            level.forget()
        if not level.flows:
            self._levels = {priority: kept for priority, kept in self._levels.items() if kept is not level}

"""A fleet of engine replicas as discrete events: requests arrive, are placed, wait, share steps, and are answered.

What a step takes is given (`StepTimes`, measured by fleet_measure.py). All else is the engine's and Ray Serve's rules
in short: a step computes one token of every request under way and prompts up to `step_tokens`; adapters and prefixes
that were used least recently give way; a replica takes at most `busy` requests, and who finds all of them busy waits.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import simpy

from plural.scale.routing import Homes


@dataclass(frozen=True)
class StepTimes:
    """Seconds: of a step, of each request in it, of each token computed in it, of each different adapter; of an adapter
    that is brought in, as work of the replica (`load`) and until it is there (`wait`); and of the way to a replica and
    back (`hop`). `crowd` is no time: by what share of itself a step is longer while all other replicas compute, too,
    which it is where they are on one machine."""

    step: float
    row: float
    token: float
    adapter: float
    load: float
    wait: float
    hop: float
    crowd: float = 0.0


@dataclass(frozen=True)
class ReplicaSize:
    max_running: int = 32
    step_tokens: int = 512
    busy: int = 32
    slack: int = 4
    kept: int = 1024
    adapters: int = 32
    prefixes: int = 256


@dataclass(frozen=True, slots=True)
class Ask:
    """`specialist` is None for the base; `shared` tokens of the prompt are alike for all with the same `prefix`. With
    `activated` the base reads the prompt, so that all specialists share its beginning."""

    at: float
    specialist: int | None
    prompt: int
    answer: int
    prefix: int | None = None
    shared: int = 0
    activated: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    ask: Ask
    left: int
    unread: int = 0
    ready: float = 0.0


class Keys:
    """The least recently used give way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: OrderedDict[object, None] = OrderedDict()

    def use(self, key: object) -> bool:
        """Was it there?"""
        known = key in self.held
        self.held[key] = None
        self.held.move_to_end(key)
        if len(self.held) > self.most:
            self.held.popitem(last=False)
        return known


class Replica:
    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet, self.number = fleet, number
        self.waiting: deque[_Request] = deque()
        self.running: list[_Request] = []
        self.adapters = Keys(fleet.size.adapters)
        self.prefixes = Keys(fleet.size.prefixes)
        self.inside = 0
        self.news = fleet.env.event()
        fleet.env.process(self.work())

    def take(self, ask: Ask) -> None:
        self.inside += 1
        self.waiting.append(_Request(ask, ask.answer))
        if not self.news.triggered:
            self.news.succeed()

    def work(self) -> Iterator[simpy.Event]:
        env, times, size = self.fleet.env, self.fleet.times, self.fleet.size
        while True:
            if not (self.running or self.waiting):
                self.news = env.event()
                yield self.news
            loads = self._admit()
            able = [one for one in self.running if one.ready <= env.now]
            if not able:
                yield env.timeout(min(one.ready for one in self.running) - env.now)
                continue
            budget = size.step_tokens
            tokens, adapters = 0, set()
            drawn: list[_Request] = []
            for one in able:
                if budget <= 0:
                    break
                part = min(one.unread, budget) if one.unread else 1
                budget, tokens = budget - part, tokens + part
                adapters.add(one.ask.specialist)
                one.unread = max(0, one.unread - part)
                if not one.unread:
                    drawn.append(one)
            adapters.discard(None)
            spent = times.step + times.row * len(able) + times.token * tokens + times.adapter * len(adapters)
            spent += loads * times.load
            if times.crowd:
                spent *= 1 + times.crowd * self.fleet.working / max(1, self.fleet.count - 1)
            self.fleet.working += 1
            yield env.timeout(spent)
            self.fleet.working -= 1
            for one in drawn:
                one.left -= 1
                if not one.left:
                    self.running.remove(one)
                    self.inside -= 1
                    self.fleet.answered(one.ask, env.now)

    def _admit(self) -> int:
        """How many adapters have to be brought in for those who are let in."""
        loads = 0
        while self.waiting and len(self.running) < self.fleet.size.max_running:
            one = self.waiting.popleft()
            ask = one.ask
            one.unread, one.ready = ask.prompt, self.fleet.env.now
            if ask.specialist is not None and not self.adapters.use(ask.specialist):
                loads += 1
                one.ready += self.fleet.times.wait
            if ask.prefix is not None:
                owner = None if ask.activated else ask.specialist
                if self.prefixes.use((owner, ask.prefix)):
                    one.unread -= ask.shared
            one.unread = max(1, one.unread)
            self.running.append(one)
        self.fleet.loads += loads
        return loads


class Policy(Protocol):
    def choose(self, ask: Ask) -> Replica | None:
        """None when all that may be asked are busy."""
        ...


@dataclass
class Fleet:
    """`known` are the specialists that each replica has at the start. `waits` are seconds from arrival to the last
    token, by the order of answers."""

    times: StepTimes
    size: ReplicaSize
    count: int
    seed: int = 0
    known: Sequence[Collection[int]] = ()
    env: simpy.Environment = field(default_factory=simpy.Environment)
    loads: int = 0
    waits: list[float] = field(default_factory=list)
    tokens: int = 0
    ended: float = 0.0
    working: int = 0  # replicas in the middle of a step

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.replicas = [Replica(self, number) for number in range(self.count)]
        for replica, known in zip(self.replicas, self.known, strict=False):
            for specialist in known:
                replica.adapters.use(specialist)
        self.queue: deque[Ask] = deque()

    def run(self, asks: Sequence[Ask], policy: Policy) -> None:
        self.policy = policy
        self.env.process(self._arrive(asks))
        self.env.run()

    def answered(self, ask: Ask, now: float) -> None:
        self.waits.append(now - ask.at + self.times.hop)
        self.tokens += ask.answer
        self.ended = now
        while self.queue and (chosen := self.policy.choose(self.queue[0])) is not None:
            chosen.take(self.queue.popleft())

    def two_choices(self, among: Sequence[Replica]) -> Replica | None:
        """Of two by lot the one where less waits, as Ray Serve chooses. None if both are busy."""
        pair = among if len(among) < 3 else self.dice.sample(among, 2)
        free = [one for one in pair if one.inside < self.size.busy]
        if len(free) == 2 and free[0].inside == free[1].inside:
            return self.dice.choice(free)
        return min(free, key=lambda one: one.inside, default=None)

    def anywhere(self) -> Replica | None:
        chosen = self.two_choices(self.replicas)
        if chosen is None:  # Ray Serve asks others, again and again
            free = [one for one in self.replicas if one.inside < self.size.busy]
            chosen = self.two_choices(free) if free else None
        return chosen

    def _arrive(self, asks: Sequence[Ask]) -> Iterator[simpy.Event]:
        for ask in asks:
            if ask.at > self.env.now:
                yield self.env.timeout(ask.at - self.env.now)
            chosen = None if self.queue else self.policy.choose(ask)
            if chosen is None:
                self.queue.append(ask)
            else:
                chosen.take(ask)


# ------------------------------------------------------------------------------------------------------------ policies
class Random:
    """Whoever has less to do, of two by lot."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def choose(self, ask: Ask) -> Replica | None:  # noqa: ARG002 - a policy's signature
        return self.fleet.anywhere()


class Popularity:
    """Places are given out beforehand: each specialist one, hot ones as many as their share of the load needs."""

    def __init__(self, fleet: Fleet, shares: Sequence[float]) -> None:
        self.fleet = fleet
        load = [0.0] * fleet.count
        self.homes: list[list[Replica]] = []
        order = list(range(fleet.count))
        for share in shares:  # the most popular first
            many = min(fleet.count, max(1, round(share * fleet.count)))
            if many == 1:
                two = fleet.dice.sample(order, min(2, fleet.count))
                homes = [min(two, key=load.__getitem__)]
            else:
                homes = sorted(order, key=load.__getitem__)[:many]
            for home in homes:
                load[home] += share / many
            self.homes.append([fleet.replicas[home] for home in homes])

    def choose(self, ask: Ask) -> Replica | None:
        if ask.specialist is None:
            return self.fleet.anywhere()
        return self.fleet.two_choices(self.homes[ask.specialist]) or self.fleet.anywhere()


class Affinity:
    """Where the key is known, unless another one has much less to do: the code that Ray Serve's router asks, too."""

    def __init__(self, fleet: Fleet, *, prefix: bool = False) -> None:
        self.fleet, self.prefix = fleet, prefix
        self.homes: Homes[int] = Homes(fleet.size.slack, fleet.size.kept * fleet.count, fleet.dice)
        self.numbers = range(fleet.count)
        self.known: defaultdict[object, set[int]] = defaultdict(set)
        for number, specialists in enumerate(fleet.known):
            for specialist in specialists:
                self.known[specialist].add(number)

    def choose(self, ask: Ask) -> Replica | None:
        key = self._key(ask)
        chosen = self.homes.choose(key, self.numbers, self._ongoing, self.known.get(key, ()))
        return None if chosen is None or math.isinf(self._ongoing(chosen)) else self.fleet.replicas[chosen]

    def _ongoing(self, number: int) -> float:
        inside = self.fleet.replicas[number].inside
        return inside if inside < self.fleet.size.busy else math.inf

    def _key(self, ask: Ask) -> Hashable | None:
        """As plural.scale.engine.affinity_key has it."""
        by_prefix = self.prefix and ask.prefix is not None and (ask.activated or ask.specialist is None)
        return ("prefix", ask.prefix) if by_prefix else ask.specialist

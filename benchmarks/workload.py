"""What is asked of an engine and how it went: many at once, or one after another as they arrive."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plural.engine import Engine, Request
from plural.errors import DeadlineError
from plural.types import AdapterRef, Sampling


@dataclass(frozen=True)
class Call:
    """`at` is seconds after the start; `adapter` a digest or None for the base."""

    prompt: tuple[int, ...]
    tokens: int
    adapter: str | None = None
    at: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Seconds since the call arrived, to its first token and to its last. `first` is None where it was ended early."""

    call: Call
    first: float | None
    whole: float
    ids: tuple[int, ...] = ()


def slora_calls(
    *,
    adapters: int,
    rate: float,
    duration: float,
    alpha: float,
    cv: float,
    inputs: tuple[int, int],
    outputs: tuple[int, int],
    vocabulary: int,
    seed: int = 42,
) -> list[Call]:
    """S-LoRA's synthetic workload, drawn in the order of its `benchmarks/trace.py::generate_requests`.

    `rate` is requests a second and `duration` seconds; popularity is a power law (alpha 1: uniform, smaller: fewer
    adapters have more of it), arrivals one Gamma process (cv 1: Poisson), upper bounds are excluded. Prompts are random
    tokens where S-LoRA repeats "Hello", which a prefix cache would read once.
    """
    chance = np.random.RandomState(seed)
    count = int(rate * duration)
    chosen = (chance.power(alpha, count) * adapters).astype(int)
    lengths = chance.randint(*inputs, count)
    answers = chance.randint(*outputs, count)
    times = np.cumsum(chance.gamma(1 / cv**2, cv**2 / rate, count))
    dice = random.Random(seed)
    return [
        Call(random_prompt(dice, length, vocabulary), answer, str(adapter), at)
        for adapter, length, answer, at in zip(
            chosen.tolist(), lengths.tolist(), answers.tolist(), times.tolist(), strict=True
        )
    ]


def random_prompt(dice: random.Random, length: int, vocabulary: int) -> tuple[int, ...]:
    """Never from the first sixteenth of the vocabulary, where control tokens and single bytes lie."""
    return tuple(dice.randrange(vocabulary // 16, vocabulary) for _ in range(length))


async def ask(engine: Engine, call: Call, deadline: float | None = None) -> Outcome:
    start, first, ids = time.perf_counter(), None, []
    sampling = Sampling(max_tokens=call.tokens, ignore_eos=True)
    ref = None if call.adapter is None else AdapterRef(call.adapter)
    try:
        async for event in engine.generate(Request(call.prompt, sampling, ref, deadline=deadline)):
            first = first or time.perf_counter() - start
            ids.append(event.token_id)
    except DeadlineError:
        first = None
    return Outcome(call, first, time.perf_counter() - start, tuple(ids))


async def together(engine: Engine, calls: Sequence[Call], in_flight: int) -> tuple[float, list[Outcome]]:
    """All of them, at most `in_flight` at a time; and the seconds it took."""
    room = asyncio.Semaphore(in_flight)

    async def one(call: Call) -> Outcome:
        async with room:
            return await ask(engine, call)

    start = time.perf_counter()
    outcomes = await asyncio.gather(*map(one, calls))
    return time.perf_counter() - start, outcomes


async def capacity(engine: Engine, calls: Sequence[Call]) -> float:
    """Requests a second that the engine answers when more than it runs at once are always there."""
    seconds, _ = await together(engine, calls, 2 * engine.settings.max_running)
    return len(calls) / seconds


async def as_they_arrive(
    engine: Engine, calls: Sequence[Call], deadline: float | None = None
) -> tuple[float, list[Outcome]]:
    """Each at its time, whoever is still waiting; and the seconds from the start to the last answer."""

    async def one(call: Call) -> Outcome:
        await asyncio.sleep(start + call.at - time.perf_counter())
        return await ask(engine, call, deadline)

    start = time.perf_counter()
    outcomes = await asyncio.gather(*map(one, calls))
    return time.perf_counter() - start, outcomes


@dataclass(frozen=True)
class Service:
    """S-LoRA's metrics (`benchmarks/run_exp.py`, `slora/utils/metric.py`). Rates are requests a second.

    `attainment` is the share whose first token came within the SLO, `satisfaction` the mean of
    max(0, 1 - (first / SLO)^2); who was ended early counts as 0 in both. `strip_throughput` leaves out the first and
    the last seconds. Seconds to the first token are of those that were answered.
    """

    requests: int
    finished: int
    throughput: float
    strip_throughput: float | None
    attainment: float
    satisfaction: float
    first_mean: float
    first_p50: float
    first_p90: float
    latency: float
    worst_adapter: float


def measure(outcomes: Sequence[Outcome], seconds: float, *, rate: float, slo: float, strip: float) -> Service:
    served = [one for one in outcomes if one.first is not None]
    firsts = sorted(one.first for one in served if one.first is not None) or [float("nan")]
    stripped = (len(served) - 2 * strip * rate) / (seconds - 2 * strip) if seconds > 2 * strip else None
    by_adapter: dict[str | None, list[Outcome]] = {}
    for one in outcomes:
        by_adapter.setdefault(one.call.adapter, []).append(one)
    return Service(
        requests=len(outcomes),
        finished=len(served),
        throughput=len(served) / seconds,
        strip_throughput=stripped,
        attainment=attained(outcomes, slo),
        satisfaction=statistics.fmean(max(0.0, 1 - ((one.first or slo) / slo) ** 2) for one in outcomes),
        first_mean=statistics.fmean(firsts),
        first_p50=firsts[len(firsts) // 2],
        first_p90=firsts[int(len(firsts) * 0.9)],
        latency=statistics.fmean(one.whole for one in served) if served else float("nan"),
        worst_adapter=min(attained(each, slo) for each in by_adapter.values()),
    )


def attained(outcomes: Iterable[Outcome], slo: float) -> float:
    return statistics.fmean(one.first is not None and one.first < slo for one in outcomes)

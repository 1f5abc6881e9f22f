"""Real replicas beside the simulation: what their steps take, and how near the simulation comes to two of them.

Both need Ray (pip install 'plural[ray]') and the embedded base; replicas have one thread each.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from adapters import random_adapter
from fleet import load_of, policy_of, popularity
from fleet_simulation import Ask, Fleet, ReplicaSize, StepTimes
from workload import Call, as_they_arrive, random_prompt, together

from plural.models.base import Base, load_base
from plural.scale.cluster import APP, Identity, join, ray_module
from plural.scale.deploying import engine_deployment
from plural.scale.engine import ClusterEngine
from plural.scale.replica import Replica
from plural.scale.settings import ScaleSettings
from plural.specialists import Card, Library, adapter_digest, write_adapter
from plural.wiring.settings import read_settings

RANK = 8
_FITTED = ("step", "row", "token", "adapter", "load")
SPECIALISTS = 48
_LOADS, _LOAD_S = 3, 80.0  # for each line that is validated: its p95 is of 25 answers or more
_PLAYED = 10  # so often is each of them simulated: who is chosen of two is chance


@dataclass(frozen=True)
class Shelf:
    """A library on disk, and the digests in it."""

    library: Path
    digests: tuple[str, ...]
    base: Base

    def call(self, ask: Ask, dice: random.Random) -> Call:
        digest = None if ask.specialist is None else self.digests[ask.specialist]
        prompt = random_prompt(dice, ask.prompt, self.base.tokenizer.vocab_size)
        return Call(prompt, ask.answer, digest, ask.at)


@contextmanager
def shelf(count: int = SPECIALISTS) -> Iterator[Shelf]:
    base = load_base()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = Library(folder / "library")
        digests = []
        for seed in range(count):
            staged = folder / f"staged-{seed}"
            write_adapter(staged, random_adapter(base.config, seed, RANK), base_name=base.name)
            label = f"random-{seed}"
            card = Card(
                name=label, digest=adapter_digest(staged), base=base.digest, base_name=base.name, purpose="Speed."
            )
            (staged / "specialist.json").write_text(card.to_json())
            digests.append(library.publish(staged, name=label, replace=False).digest)
        yield Shelf(folder / "library", tuple(digests), base)


class TimedStep(NamedTuple):
    """`begun` is by the machine's clock, the same for all of its processes."""

    begun: float
    seconds: float
    rows: int
    tokens: int
    adapters: int
    loads: int


class Recording(Replica):
    """A replica that writes down what its steps take, with what comes between two of them while there is work."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        engine: Any = self._network.engine
        self._steps: list[TimedStep] = []
        step, ended, working = engine.step, 0.0, False

        def timed() -> bool:
            nonlocal ended, working
            before, begun = engine.stats(), time.perf_counter()
            begun = ended if working else begun
            rows = len(engine._scheduler.running)
            worked: bool = step()
            ended, after = time.perf_counter(), engine.stats()
            jobs = list(engine._scheduler.running)
            working = bool(jobs)
            if tokens := after.computed - before.computed:
                flows = len({job.flow for job in jobs if job.flow})
                loads, rows = after.loaded - before.loaded, max(rows, len(jobs))
                self._steps.append(TimedStep(begun, ended - begun, rows, tokens, flows, loads))
            return worked

        engine.step = timed

    def steps(self) -> list[TimedStep]:
        told, self._steps = self._steps, []
        return told

    async def bring(self, digest: str) -> float:
        """Seconds until an adapter is there."""
        begun = time.perf_counter()
        await asyncio.to_thread(self._network.engine.pin, digest)
        seconds = time.perf_counter() - begun
        await asyncio.to_thread(self._network.engine.unpin, digest)
        return seconds


@contextmanager
def replicas(
    shelf: Shelf, count: int, *, threads: int = 1, memory: str | None = None, kind: type[Replica] = Replica, **more: Any
) -> Iterator[ClusterEngine]:
    """Replicas in a Ray that is there already."""
    from ray import serve

    settings = read_settings(library=shelf.library, starter=False, threads=threads, memory=memory)
    scale = ScaleSettings.of(replicas=count, cpus=threads, **more)
    identity = Identity.of(shelf.base)
    handle = serve.run(engine_deployment(settings, scale, identity, kind), name=APP, route_prefix=None)
    try:
        yield ClusterEngine(handle, scale)
    finally:
        serve.delete(APP)


@contextmanager
def ray_here(cpus: int = 2) -> Iterator[None]:
    join("local", patience=30, cpus=cpus)
    try:
        yield
    finally:
        ray_module().shutdown()


def measure() -> dict[str, Any]:
    """Step times of two replicas under a third and two thirds of what they can do, by least squares over all steps."""
    with shelf() as made, ray_here(), replicas(made, 2, kind=Recording) as engine:
        dice = random.Random(1)
        shares = popularity(SPECIALISTS)
        asyncio.run(_quick(engine, made))
        wait, hop = _on_the_way(engine, made)
        calls = [made.call(ask, dice) for ask in load_of(1.0, 48, shares, seed=1)]
        capacity = len(calls) / asyncio.run(_together(engine, calls, 16))
        engine.every("steps")
        for share in (1 / 3, 2 / 3):
            calls = [made.call(ask, dice) for ask in load_of(share * capacity, 25.0, shares, seed=2)]
            asyncio.run(as_they_arrive(engine, calls))  # type: ignore[arg-type]
        steps, beside = recorded(engine)
    times = fitted(steps, beside, wait, hop)
    _tell(times, len(steps))
    return {"times": asdict(times), "steps": len(steps)}


def _on_the_way(engine: ClusterEngine, stock: Shelf) -> tuple[float, float]:
    """Seconds until an adapter is there, and of the way to a replica and back."""
    waits = [seconds for digest in stock.digests[-6:] for seconds in engine.every("bring", digest)]
    engine.every("steps")
    whole = asyncio.run(_hop(engine, stock))
    steps, _ = recorded(engine)
    return statistics.median(waits), max(0.0, whole - statistics.median(step.seconds for step in steps))


def recorded(engine: ClusterEngine) -> tuple[list[TimedStep], list[float]]:
    """The steps of both replicas since this was asked before, and in what share of each the other one computed."""
    one, other = engine.every("steps")
    return [*one, *other], [*shared(one, other), *shared(other, one)]


def shared(steps: Sequence[TimedStep], others: Sequence[TimedStep]) -> list[float]:
    """Of each step the share of its time in which another replica computed, too."""
    begun = np.array([other.begun for other in others])
    ended = begun + np.array([other.seconds for other in others])
    found = []
    for step in steps:
        both = np.minimum(ended, step.begun + step.seconds) - np.maximum(begun, step.begun)
        found.append(float(both.clip(min=0).sum()) / step.seconds)
    return found


def fitted(steps: Sequence[TimedStep], beside: Sequence[float], wait: float, hop: float) -> StepTimes:
    """By least squares, for each of many values of `crowd`; the one that fits best."""
    crowds = np.linspace(0, 1, 51)
    found = [_least_squares(steps, 1 + crowd * np.asarray(beside)) for crowd in crowds]
    best = int(np.argmin([rest for _, rest in found]))
    return StepTimes(**found[best][0], wait=wait, hop=hop, crowd=float(crowds[best]))


def _least_squares(steps: Sequence[TimedStep], longer: np.ndarray) -> tuple[dict[str, float], float]:
    """The times, and what they leave unexplained. None is below 0: what would be is left out, one after another."""
    counts = {"row": "rows", "token": "tokens", "adapter": "adapters", "load": "loads"}
    columns = {"step": longer}
    columns |= {name: longer * [getattr(step, counted) for step in steps] for name, counted in counts.items()}
    seconds = np.array([step.seconds for step in steps])
    while True:
        table = np.column_stack(list(columns.values()))
        found = np.linalg.lstsq(table, seconds, rcond=None)[0]
        worst = int(np.argmin(found))
        if found[worst] >= 0:
            known = dict(zip(columns, map(float, found), strict=True))
            return {name: known.get(name, 0.0) for name in _FITTED}, float(((table @ found - seconds) ** 2).sum())
        del columns[list(columns)[worst]]


@dataclass(frozen=True)
class Load:
    """What two real replicas made of some requests: `known` had each at the start, `waits` and `seconds` it took, in
    these `steps`, of which the shares `beside` were computed while the other computed, too."""

    asks: Sequence[Ask]
    known: Sequence[Collection[int]]
    waits: Sequence[float]
    seconds: float
    steps: Sequence[TimedStep]
    beside: Sequence[float]


@dataclass(frozen=True)
class Line:
    """Loads of one rate under one policy."""

    policy: str
    rate: float
    loads: Sequence[Load]
    times: StepTimes


def validate(before: StepTimes) -> dict[str, Any]:
    """Poisson arrivals at two rates, with affinity and without, beside the simulation.

    What a step takes is measured for each line, in the steps of that line: this machine is not as fast in one quarter
    of an hour as in another. How long answers take is left to the simulation. `before` only says which rates the two
    can bear. Each load begins where Ray had placed the specialists: which of the most popular share a replica is
    chance, and makes more of a difference than all else.
    """
    lines = observed(before)
    print(f"  {'':<18}{'tokens/s':>18}{'p95 s':>18}{'median s':>18}   real / simulated")
    made: dict[str, Any] = {}
    for line in lines:
        real, played = compared(line)
        ratio = {key: real[key] / played[key] for key in real}
        cells = [f"{real[key]:.2f} / {played[key]:.2f}" for key in real]
        name = f"{line.policy}, {line.rate:.1f}/s"
        print(f"  {name:<18}" + "".join(f"{cell:>18}" for cell in cells), end="")
        print(f"   {ratio['throughput']:.2f}, {ratio['p95']:.2f}")
        count = sum(len(load.asks) for load in line.loads)
        made[name] = {"requests": count, "times": asdict(line.times), "real": real, "simulated": played, "ratio": ratio}
    return {"validation": made}


def observed(before: StepTimes) -> list[Line]:
    shares = popularity(SPECIALISTS)
    lines = []
    with shelf() as stock, ray_here():
        for policy in ("affinity", "random"):
            with replicas(stock, 2, affinity=policy == "affinity", kind=Recording) as engine:
                everybody = [Ask(0.0, who, 8, 1) for who in range(SPECIALISTS)]
                asyncio.run(_quick(engine, stock))
                wait, hop = _on_the_way(engine, stock)
                asyncio.run(_together(engine, [stock.call(ask, random.Random(ask.specialist)) for ask in everybody], 1))
                for share in (0.4, 0.7):
                    rate = share * _capacity(before)
                    seeds = range(int(100 * share), int(100 * share) + _LOADS)
                    loads = [_load(engine, stock, load_of(rate, _LOAD_S, shares, seed=seed)) for seed in seeds]
                    steps = [step for load in loads for step in load.steps]
                    beside = [part for load in loads for part in load.beside]
                    lines.append(Line(policy, rate, loads, fitted(steps, beside, wait, hop)))
    return lines


def compared(line: Line) -> tuple[dict[str, float], dict[str, float]]:
    """Real and simulated: tokens a second, and the 95th percentile and the median of seconds, over all loads."""
    scale = ScaleSettings.of(cpus=1)
    size = ReplicaSize(adapters=SPECIALISTS, busy=scale.busy, slack=scale.ahead)  # all adapters fit
    shares = popularity(SPECIALISTS)
    fleets = []
    for load in line.loads:
        for seed in range(_PLAYED):
            fleet = Fleet(line.times, size, 2, seed=seed, known=load.known)
            fleet.run(load.asks, policy_of(line.policy, fleet, shares))
            fleets.append(fleet)
    tokens = sum(ask.answer for load in line.loads for ask in load.asks)
    idle = sum(load.asks[0].at for load in line.loads)  # until the first arrives
    took = sum(load.seconds for load in line.loads)
    real = _summary(tokens, took - idle, [wait for load in line.loads for wait in load.waits])
    ended = sum(fleet.ended for fleet in fleets) / _PLAYED
    return real, _summary(tokens, ended - idle, [wait for fleet in fleets for wait in fleet.waits])


def _summary(tokens: int, seconds: float, waits: Sequence[float]) -> dict[str, float]:
    p95, median = (float(np.quantile(waits, share)) for share in (0.95, 0.5))
    return {"throughput": tokens / seconds, "p95": p95, "median": median}


def _load(engine: ClusterEngine, stock: Shelf, asks: Sequence[Ask]) -> Load:
    known = [{stock.digests.index(digest) for digest in told.adapters} for told in engine.every("stats")]
    dice = random.Random(7)
    calls = [stock.call(ask, dice) for ask in asks]
    engine.every("steps")
    seconds, outcomes = asyncio.run(as_they_arrive(engine, calls))  # type: ignore[arg-type]
    return Load(asks, known, [one.whole for one in outcomes], seconds, *recorded(engine))


def _capacity(times: StepTimes) -> float:
    """Requests a second that two replicas can answer, eight at a time each, of 80 tokens read and 20 drawn."""
    each = 20 * ((times.step + times.adapter * 6) / 8 + times.row + times.token) + 80 * times.token
    return 2 / (each * (1 + times.crowd))


async def _quick(engine: ClusterEngine, shelf: Shelf) -> None:
    """Everything was used once."""
    calls = [shelf.call(Ask(0, None, 16, 4), random.Random(n)) for n in range(8)]
    await _together(engine, calls, 8)


async def _together(engine: ClusterEngine, calls: Sequence[Call], at_once: int) -> float:
    seconds, _ = await together(engine, calls, at_once)  # type: ignore[arg-type]
    return seconds


async def _hop(engine: ClusterEngine, shelf: Shelf) -> float:
    """Seconds of a request of one step, over the whole way."""
    taken = []
    for seed in range(12):
        call = shelf.call(Ask(0, None, 4, 1), random.Random(seed))
        taken.append(await _together(engine, [call], 1))
    return statistics.median(taken)


def _tell(times: StepTimes, count: int) -> None:
    print(f"{count} steps of two replicas with one thread each, rank {RANK}; milliseconds:")
    for name, value in asdict(times).items():
        print(f"  {name:<8}{value:8.2f} of itself" if name == "crowd" else f"  {name:<8}{1000 * value:8.2f}")

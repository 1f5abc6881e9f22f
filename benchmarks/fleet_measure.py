"""Real replicas beside the simulation: what their steps take, and how near the simulation comes to two of them.

Both need Ray (pip install 'plural[ray]') and the embedded base; replicas have one thread each.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from adapters import random_adapter
from fleet import load_of, popularity, simulated
from fleet_simulation import Ask, ReplicaSize, StepTimes
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
_LINE_S = 100.0  # of load for each line that is validated: a p95 is then of ten answers or more
_BETWEEN_S = 30.0


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
        waits = [seconds for digest in made.digests[-6:] for seconds in engine.every("bring", digest)]
        calls = [made.call(ask, dice) for ask in load_of(1.0, 48, shares, seed=1)]
        capacity = len(calls) / asyncio.run(_together(engine, calls, 16))
        engine.every("steps")
        for share in (1 / 3, 2 / 3):
            calls = [made.call(ask, dice) for ask in load_of(share * capacity, 25.0, shares, seed=2)]
            asyncio.run(as_they_arrive(engine, calls))  # type: ignore[arg-type]
        steps, beside = recorded(engine)
        hop = asyncio.run(_hop(engine, made)) - min(step.seconds for step in steps)
    times = fitted(steps, beside, statistics.median(waits), max(0.0, hop))
    _tell(times, len(steps))
    return {"times": asdict(times), "steps": len(steps)}


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


def validate(before: StepTimes) -> dict[str, Any]:
    """Poisson arrivals at two rates, with affinity and without, beside the simulation.

    What steps take is measured anew, under other requests between the lines: this machine is not as fast in one quarter
    of an hour as in another. `before` only says which rates the two can bear.
    """
    size = ReplicaSize(adapters=SPECIALISTS, busy=ScaleSettings.of(cpus=1).most)  # all adapters fit
    shares = popularity(SPECIALISTS)
    # One after another, on both sides: so the same are known to the same replica.
    known = [Ask(float(who), who, 8, 1) for who in range(SPECIALISTS)]
    lines: list[tuple[str, str, list[Ask], dict[str, float]]] = []
    steps: list[TimedStep] = []
    beside: list[float] = []
    with shelf() as stock, ray_here():
        for affinity in (True, False):
            with replicas(stock, 2, affinity=affinity, kind=Recording) as engine:
                asyncio.run(_quick(engine, stock))
                asyncio.run(_together(engine, [stock.call(ask, random.Random(ask.specialist)) for ask in known], 1))
                for share in (0.4, 0.7):
                    rate = share * _capacity(before)
                    recorded(engine)
                    other = load_of(rate, _BETWEEN_S, shares, seed=1000 + int(100 * share))
                    asyncio.run(_as_they_arrive(engine, stock, other))
                    new, both = recorded(engine)
                    steps, beside = [*steps, *new], [*beside, *both]
                    asks = load_of(rate, _LINE_S, shares, seed=int(100 * share))
                    policy = "affinity" if affinity else "random"
                    real = asyncio.run(_as_they_arrive(engine, stock, asks))
                    lines.append((f"{policy}, {rate:.1f}/s", policy, asks, real))
    times = fitted(steps, beside, before.wait, before.hop)
    _tell(times, len(steps))
    print(f"  {'':<22}{'tokens/s':>20}{'p95 s':>18}{'median s':>18}   real / simulated")
    made: dict[str, Any] = {}
    for name, policy, asks, real in lines:
        played = simulated(times, size, 2, asks, policy, shares, known)
        ratio = {key: real[key] / played[key] for key in real}
        cells = [f"{real[key]:.2f} / {played[key]:.2f}" for key in ("throughput", "p95", "median")]
        print(f"  {name:<22}" + "".join(f"{cell:>19}" for cell in cells), end="")
        print(f"   {ratio['throughput']:.2f}, {ratio['p95']:.2f}")
        made[name] = {"requests": len(asks), "real": real, "simulated": played, "ratio": ratio}
    return {"validation": made, "times": asdict(times)}


async def _as_they_arrive(engine: ClusterEngine, stock: Shelf, asks: Sequence[Ask]) -> dict[str, float]:
    dice = random.Random(7)
    calls = [stock.call(ask, dice) for ask in asks]
    seconds, outcomes = await as_they_arrive(engine, calls)  # type: ignore[arg-type]
    waits = [one.whole for one in outcomes]
    return {
        "throughput": sum(call.tokens for call in calls) / (seconds - asks[0].at),
        "p95": float(np.quantile(waits, 0.95)),
        "median": float(np.quantile(waits, 0.5)),
    }


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

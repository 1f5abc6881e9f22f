"""The simulated fleet: what must hold whatever the numbers are, and what can be counted by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("simpy", reason="simpy is not installed: pip install 'plural[dev]'")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import fleet
        import fleet_simulation

        yield type("Bench", (), {"fleet": fleet, "sim": fleet_simulation})


@pytest.fixture(scope="module")
def times(bench: Any) -> Any:
    return bench.sim.StepTimes(step=0.01, row=0.001, token=0.002, adapter=0.003, load=0.02, wait=0.5, hop=0.25)


def test_one_request_takes_what_its_steps_take(bench: Any, times: Any) -> None:
    fleet = bench.sim.Fleet(times, bench.sim.ReplicaSize(step_tokens=8), 1)
    fleet.run([bench.sim.Ask(1.0, 0, prompt=10, answer=3)], bench.sim.Random(fleet))
    # It waits for its adapter; then it reads 8 and 2 tokens, the second step draws the first of 3 tokens.
    steps = [8, 2, 1, 1]
    expected = 0.5 + sum(0.01 + 0.001 + 0.002 * tokens + 0.003 for tokens in steps) + 0.25
    assert fleet.waits == [pytest.approx(expected)]
    assert fleet.loads == 1


def test_what_is_shared_is_read_once_by_who_read_it(bench: Any, times: Any) -> None:
    def seconds(**ask: Any) -> list[float]:
        fleet = bench.sim.Fleet(times, bench.sim.ReplicaSize(), 1)
        asks = [bench.sim.Ask(at, who, 200, 1, prefix=1, shared=190, **ask) for at, who in ((0.0, 1), (9.0, 2))]
        fleet.run(asks, bench.sim.Random(fleet))
        return fleet.waits

    first, second = seconds(activated=True)
    assert first - second == pytest.approx(190 * 0.002)
    first, second = seconds(activated=False)
    assert first == pytest.approx(second), "another specialist's keys and values are its own"


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.none() | st.integers(0, 9), st.integers(1, 300), st.integers(1, 20)),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(("random", "popularity", "affinity", "affinity + prefix")),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_everybody_is_answered_once_and_nobody_before_the_work_is_done(
    bench: Any, times: Any, drawn: list[tuple[float, int | None, int, int]], policy: str, count: int, busy: int
) -> None:
    asks = [bench.sim.Ask(*one) for one in sorted(drawn, key=lambda one: one[0])]
    shares = bench.fleet.popularity(10)
    fleet = bench.sim.Fleet(times, bench.sim.ReplicaSize(busy=busy, adapters=2), count)
    told: Counter[int] = Counter()
    answered = fleet.answered

    def listen(ask: Any, now: float) -> None:
        told[id(ask)] += 1
        shortest = ask.answer * (times.step + times.row + times.token)
        assert now - ask.at >= shortest - 1e-9
        assert all(replica.inside <= busy for replica in fleet.replicas)
        answered(ask, now)

    fleet.answered = listen
    fleet.run(asks, bench.fleet.policy_of(policy, fleet, shares))
    assert told == Counter({id(ask): 1 for ask in asks})
    assert fleet.tokens == sum(ask.answer for ask in asks)
    assert not fleet.queue
    assert all(replica.inside == 0 for replica in fleet.replicas)


def test_steps_are_longer_while_others_compute_on_the_same_machine(bench: Any, times: Any) -> None:
    asks = [bench.sim.Ask(0.0, None, prompt=10, answer=20) for _ in range(2)]

    def ends(crowd: float) -> float:
        fleet = bench.sim.Fleet(replace(times, crowd=crowd), bench.sim.ReplicaSize(busy=1), 2)
        fleet.run(asks, bench.sim.Random(fleet))
        assert fleet.working == 0
        return fleet.ended

    alone = ends(0.0)
    # The first step of the one begins before the other's.
    assert 1.4 * alone < ends(0.5) < 1.5 * alone


def test_affinity_loads_fewer_adapters_than_chance(bench: Any, times: Any) -> None:
    shares = bench.fleet.popularity(200)
    asks = bench.fleet.load_of(10.0, 60.0, shares)
    size = bench.sim.ReplicaSize(adapters=32)
    loads = {name: bench.fleet.simulated(times, size, 8, asks, name, shares)["loads"] for name in bench.fleet.POLICIES}
    assert loads["affinity"] < loads["random"] / 2
    assert loads["popularity"] < loads["random"] / 2


def test_more_load_needs_more_replicas(bench: Any, times: Any) -> None:
    shares = bench.fleet.popularity(50)
    size = bench.sim.ReplicaSize()
    few, many = (bench.fleet.needed(times, size, rate, shares, "affinity", 6.0, 0.0) for rate in (3.0, 12.0))
    assert few < many

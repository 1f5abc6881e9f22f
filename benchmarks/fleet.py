"""How many replicas a load of thousands of specialists needs, and where its requests should go: a simulation.

    python benchmarks/fleet.py --measure steps.json     step times of replicas on this machine (needs Ray): two minutes
    python benchmarks/fleet.py --steps steps.json       how many replicas; the policies; up to 1,000 and 100,000
    python benchmarks/fleet.py --validate steps.json    the simulation beside two real replicas: 20 minutes

A simulation needs step times that were measured. To validate, they are measured again, in the steps of the very loads:
the file then says which rates two replicas can bear. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from fleet_simulation import Affinity, Ask, Fleet, Policy, Popularity, Random, ReplicaSize, StepTimes

POLICIES = ("random", "popularity", "affinity", "affinity + prefix")


def popularity(count: int, alpha: float = 1.0) -> np.ndarray:
    """Zipf's law: the share of each, the most popular first."""
    weights = np.arange(1, count + 1, dtype=float) ** -alpha
    shares: np.ndarray = weights / weights.sum()
    return shares


def load_of(
    rate: float, seconds: float, shares: np.ndarray, *, teams: float = 0.0, shared: int = 256, seed: int = 0
) -> list[Ask]:
    """Poisson arrivals. Of the requests the share `teams` are an activated specialist's in a team of which all read one
    transcript of `shared` tokens; a transcript is asked about by eight of them on average."""
    chance = np.random.default_rng(seed)
    count = max(1, int(rate * seconds))
    at = np.cumsum(chance.exponential(1 / rate, count))
    who = chance.choice(len(shares), count, p=shares)
    prompts, answers = chance.integers(32, 128, count), chance.integers(8, 32, count)
    in_team = chance.random(count) < teams
    transcripts = np.arange(count) // max(1, round(8 / max(teams, 1e-9)))
    return [
        Ask(
            float(at[n]),
            int(who[n]),
            int(prompts[n]) + (shared if in_team[n] else 0),
            int(answers[n]),
            prefix=int(transcripts[n]) if in_team[n] else None,
            shared=shared if in_team[n] else 0,
            activated=bool(in_team[n]),
        )
        for n in range(count)
    ]


def policy_of(name: str, fleet: Fleet, shares: np.ndarray) -> Policy:
    if name == "random":
        return Random(fleet)
    if name == "popularity":
        return Popularity(fleet, shares.tolist())
    return Affinity(fleet, prefix=name.endswith("prefix"))


def simulated(
    times: StepTimes, size: ReplicaSize, count: int, asks: Sequence[Ask], policy: str, shares: np.ndarray
) -> dict[str, float]:
    """`p95` and `median` in seconds; `throughput` in answered tokens a second, from the first arrival to the last
    answer; `loads` for each request."""
    fleet = Fleet(times, size, count)
    fleet.run(asks, policy_of(policy, fleet, shares))
    return {
        "throughput": fleet.tokens / (fleet.ended - asks[0].at),
        "median": float(np.quantile(fleet.waits, 0.5)),
        "p95": float(np.quantile(fleet.waits, 0.95)),
        "loads": fleet.loads / len(asks),
    }


def needed(
    times: StepTimes, size: ReplicaSize, rate: float, shares: np.ndarray, policy: str, limit: float, teams: float
) -> int | None:
    """The fewest replicas with which 95% of the answers are whole within `limit` seconds. None: not even 1,000."""
    asks = load_of(rate, max(10.0, min(60.0, 20_000 / rate)), shares, teams=teams)
    low, high = 0, 1
    while simulated(times, size, high, asks, policy, shares)["p95"] > limit:
        low, high = high, high * 2
        if high > 1000:
            return None
    while high - low > max(1, high // 32):
        middle = (low + high) // 2
        if simulated(times, size, middle, asks, policy, shares)["p95"] > limit:
            low = middle
        else:
            high = middle
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FILE")
    parser.add_argument("--validate", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=Path, metavar="FILE")
    parser.add_argument("--rates", type=float, nargs="+", default=[20.0, 100.0, 500.0], help="requests a second")
    parser.add_argument("--specialists", type=int, default=5000)
    parser.add_argument("--limit", type=float, default=4.0, help="seconds for a whole answer, 95 of 100")
    parser.add_argument("--teams", type=float, default=0.5, help="share of requests that read a shared transcript")
    parser.add_argument("--slack", type=int, default=4, help="by how many requests a specialist's replica may be ahead")
    parser.add_argument("--replicas", type=int, default=1000, help="of the largest fleet")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the largest fleet's load")
    given = parser.parse_args()
    if given.measure or given.validate:
        import fleet_measure

        made = fleet_measure.measure() if given.measure else fleet_measure.validate(read_steps(given.validate))
        if given.measure:
            given.measure.write_text(json.dumps(made))
        print(json.dumps({"benchmark": "fleet", **made}))
        return
    if given.steps is None:
        parser.error("give --measure, --validate or --steps FILE")
    times = replace(read_steps(given.steps), crowd=0.0)  # every replica has a machine to itself
    print(json.dumps({"benchmark": "fleet", "times": asdict(times), **planned(times, given)}))


def read_steps(file: Path) -> StepTimes:
    return StepTimes(**json.loads(file.read_text())["times"])


def planned(times: StepTimes, given: argparse.Namespace) -> dict[str, Any]:
    size, shares = ReplicaSize(slack=given.slack), popularity(given.specialists)
    print(f"{given.specialists:,} specialists; 95% of the answers within {given.limit:g} s; replicas needed:")
    print("  requests/s " + "".join(f"{name:>20}" for name in POLICIES))
    plan: dict[str, dict[str, int | None]] = {}
    for rate in given.rates:
        plan[f"{rate:g}"] = {
            name: needed(times, size, rate, shares, name, given.limit, given.teams) for name in POLICIES
        }
        print(f"  {rate:10g} " + "".join(f"{plan[f'{rate:g}'][name] or '> 1000':>20}" for name in POLICIES))
    return {"needed": plan, "large": large(times, size, given)}


def large(times: StepTimes, size: ReplicaSize, given: argparse.Namespace) -> dict[str, Any]:
    """The same fleet for 100 times as many specialists under every policy, at a load that it can just bear."""
    count, shares = given.replicas, popularity(20 * given.specialists)
    rate = 0.5 * count / (20 * (times.step / 8 + times.row + times.token + times.adapter) + 80 * times.token)
    asks = load_of(rate, given.seconds, shares, teams=given.teams)
    print(f"\n{count:,} replicas, {len(shares):,} specialists, {rate:,.0f} requests/s for {given.seconds:g} s:")
    print(f"  {'':<20}{'tokens/s':>10}{'median s':>10}{'p95 s':>10}{'loads/request':>15}{'simulated in s':>16}")
    made: dict[str, Any] = {"rate": rate}
    for name in POLICIES:
        begun = time.perf_counter()
        made[name] = one = simulated(times, size, count, asks, name, shares)
        took = time.perf_counter() - begun
        print(
            f"  {name:<20}{one['throughput']:>10,.0f}{one['median']:>10.2f}{one['p95']:>10.2f}{one['loads']:>15.3f}"
            f"{took:>16.1f}"
        )
        assert math.isfinite(one["p95"])
    return made


if __name__ == "__main__":
    main()

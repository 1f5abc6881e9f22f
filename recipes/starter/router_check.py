"""How often the router finds the right specialist, leaves alone what nobody is for, and what it costs.

    python recipes/starter/router_check.py               every specialist of the starter library
    python recipes/starter/router_check.py --library DIR --rows 100 --misses

Held-out prompts of every skill's own test are in scope; what a plan's steps look like is, too. Out of scope are prompts
that no specialist is for (general.py): there it should leave the answer to the base. The router is the network's,
fitted to the examples on the cards. Its time is that of reading one request alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import planner
from general import HELD_OUT
from listing import asked

from plural import Network, sync
from plural.teams import Router
from plural.wiring.recipe import Skill, read_recipe
from plural.wiring.settings import STARTER

BASE = "base"
TIMED = 40


def held_out_prompts(skills: Mapping[str, Skill], known: Collection[str], count: int) -> dict[str, list[str]]:
    """Prompts that no specialist and no router was shown, by who should answer them and, after a blank, what they
    are."""
    chance = random.Random(10_000_001)
    found: dict[str, list[str]] = {}
    for name in known:
        rows = skills[name].test_rows()
        if skills[name].kind == "planner":
            rows = [row for row in rows if row["answer"].count('"task"') > 1]  # one task needs no plan
        found[name] = [asked(row) for row in chance.sample(rows, min(count, len(rows)))]
    plans = [row for row in planner.test_rows() if row["answer"].count('"task"') > 1]
    planned = [step["task"] for row in plans for step in json.loads(row["answer"])["steps"]]
    # They are routed one by one, before `#1` is filled in.
    steps = {
        "cron": [task for task in planned if task.endswith(" as cron")],
        "toolcall": [task for task in planned if "#" in task],
    }
    return found | {f"{name} (step of a plan)": steps[name][:count] for name in steps if name in known}


def show(label: str, prompts: Sequence[str], router: Router, network: Network, *, misses: bool) -> tuple[int, int]:
    """Prints how the prompts of a label are routed; how many rightly, of how many."""
    wanted = label.split(" ")[0]
    decisions = [router.route_vector(vector) for vector in sync.run(network.base.aembed(prompts))]
    chosen = Counter(decision.value for decision in decisions)
    sure = statistics.mean(decision.probability for decision in decisions)
    others = ", ".join(f"{name} {count}" for name, count in chosen.most_common() if name != wanted)
    right = chosen[wanted]
    print(f"{label:26} {right / len(prompts):.3f} of {len(prompts):3}, mean p {sure:.2f}  {others}", flush=True)
    for prompt, decision in zip(prompts, decisions, strict=True):
        if misses and decision.value != wanted:
            print(f"    {decision.value} {decision.probability:.2f}: {prompt!r}")
    return right, len(prompts)


def seconds_of_one(prompts: Sequence[str], router: Router, network: Network) -> list[float]:
    """Of each decision alone, as a request waits for it."""
    taken = []
    for prompt in prompts:
        began = time.perf_counter()
        sync.run(router.route(prompt, network.base))
        taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=STARTER)
    parser.add_argument("--rows", type=int, default=60, help="prompts of each skill")
    parser.add_argument("--misses", action="store_true", help="print what went to somebody else")
    given = parser.parse_args()
    skills = read_recipe().skills
    with Network.open(library=given.library, starter=False) as network:
        router = sync.run(network.router())
        assert router is not None  # the library's cards have examples
        known = [name for name in router.labels if name in skills]
        print(f"{len(router.labels)} labels: {', '.join(router.labels)}")
        scope = held_out_prompts(skills, known, given.rows)
        found = [show(label, prompts, router, network, misses=given.misses) for label, prompts in scope.items()]
        left, of = show(BASE, HELD_OUT, router, network, misses=given.misses)
        right, total = (sum(each) for each in zip(*found, strict=True))
        mixed = random.Random(0).sample([prompt for prompts in scope.values() for prompt in prompts], TIMED)
        taken = seconds_of_one(mixed, router, network)
    print(f"in scope, sent to the right one: {right / total:.3f} of {total}")
    print(f"out of scope, left to the base: {left / of:.3f} of {of}")
    print(f"added to a request: {1000 * statistics.median(taken):.1f} ms, at most {1000 * max(taken):.1f}")


if __name__ == "__main__":
    main()

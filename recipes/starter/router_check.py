"""How often the router finds the right specialist, leaves alone what nobody is for, and what it costs.

    python recipes/starter/router_check.py               all skills of the recipe, their adapters made or not
    python recipes/starter/router_check.py --library DIR the specialists that are there
    python recipes/starter/router_check.py cron home --rows 100 --misses

In scope are held-out prompts of every skill's own test, in other wordings where a skill has a second test, and what a
plan's steps look like; plans are compound requests. Out of scope are prompts that no specialist is for: by the hand
that wrote those which the router learns from (general.py), and by a hundred other authors (elsewhere.py). The router is
the network's, and reads examples and nothing else of a specialist. Beside it stand the nearest examples by the same
states, and the base when it is asked (on `--asked` prompts). A second test counts in neither of the two figures.

Its calibration is the expected calibration error (ten bins) of how sure it is of the label that it finds likeliest, and
of what it decides: there a request that is nobody's is right when it is left to the base, however improbable that was.

Its time is what a request waits longer until its first token, when the router has read it before; who answers is the
base, or an activated specialist. The last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import planner
from elsewhere import out_of_scope
from general import HELD_OUT, OTHERS, PROMPTS
from listing import asked

from plural import Network, sync
from plural.evals import calibration_error
from plural.teams import Router
from plural.wiring.recipe import Skill, read_recipe

BASE = "base"
TIMED = 40
CHANCE = 10_000_001
Decides = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Prompts:
    """Of `kind`, which `label` should answer. Those of a second test stand apart."""

    label: str
    kind: str
    texts: Sequence[str]
    apart: bool = False


def held_out(skills: Mapping[str, Skill], count: int) -> list[Prompts]:
    """Prompts that no specialist and no router was shown."""
    chance = random.Random(CHANCE)
    found = []

    def some(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [asked(dict(row)) for row in chance.sample(list(rows), min(count, len(rows)))]

    for name, skill in skills.items():
        rows = skill.test_rows()
        if skill.kind == "planner":
            rows = [row for row in rows if row["answer"].count('"task"') > 1]  # one task needs no plan
        found.append(Prompts(name, name, some(rows)))
        if not skill.tools or name != "toolcall":  # whose other tests bring tools that the network does not have
            found += [Prompts(name, other, some(rows()), apart=True) for other, rows in skill.more_tests.items()]
    plans = [row for row in planner.test_rows() if row["answer"].count('"task"') > 1]
    planned = [step["task"] for row in plans for step in json.loads(row["answer"])["steps"]]
    # They are routed one by one, before `#1` is filled in.
    steps = {
        "cron": [task for task in planned if task.endswith(" as cron")],
        "toolcall": [task for task in planned if "#" in task],
    }
    return found + [Prompts(name, f"{name}, step", steps[name][:count]) for name in steps if name in skills]


def nobodys() -> list[Prompts]:
    return [Prompts(BASE, "general", HELD_OUT), Prompts(BASE, "elsewhere", out_of_scope())]


# ----------------------------------------------------------------------------------------------------------- deciders
def by_router(router: Router, network: Network, texts: Sequence[str]) -> list[str]:
    return [router.route_vector(vector).value for vector in sync.run(network.reader.aembed(texts))]


def nearest(examples: Mapping[str, Sequence[str]], network: Network, nearby: int = 5) -> Decides:
    """The label with most of the nearest examples, by the cosine of states whose mean was taken away."""
    known = [(label, text) for label, texts in examples.items() for text in texts]
    x_ND = np.array(sync.run(network.reader.aembed([text for _, text in known])))
    centre_D = x_ND.mean(axis=0)
    x_ND = _unit(x_ND - centre_D)

    def decide(texts: Sequence[str]) -> list[str]:
        y_TD = _unit(np.array(sync.run(network.reader.aembed(texts))) - centre_D)
        closest_TN = np.argsort(-(y_TD @ x_ND.T), axis=1)[:, :nearby]
        return [Counter(known[at][0] for at in row).most_common(1)[0][0] for row in closest_TN]

    return decide


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return np.asarray(x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True))


def asked_base(skills: Mapping[str, Skill], network: Network) -> Decides:
    """The base chooses among the names, with what each is for before the request."""
    listed = "\n".join(f"{name}: {skill.purpose}" for name, skill in skills.items())
    names = [*skills, BASE]

    def decide(texts: Sequence[str]) -> list[str]:
        found = []
        for text in texts:
            question = f"{listed}\n{BASE}: Everything else.\n\nRequest: {text}\nWho should answer it? Say the name."
            found.append(sync.run(network.base.achoose(question, names)).value)
        return found

    return decide


# ------------------------------------------------------------------------------------------------------------- figures
def share(decide: Decides, several: Sequence[Prompts], *, told: bool = False, misses: bool = False) -> dict[str, float]:
    """Of each kind the share that goes where it should; in all of what counts, in and out of scope."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for one in several:
        chosen = decide(one.texts)
        counted = Counter(chosen)
        if not one.apart:
            side = "out" if one.label == BASE else "in"
            right[side] += counted[one.label]
            total[side] += len(one.texts)
        right[one.kind], total[one.kind] = counted[one.label], len(one.texts)
        if told:
            others = ", ".join(f"{name} {count}" for name, count in counted.most_common() if name != one.label)
            part = counted[one.label] / len(one.texts)
            print(f"{'*' if one.apart else ' '}{one.kind:22} {part:.3f} of {len(one.texts):3}  {others}", flush=True)
        for text, name in zip(one.texts, chosen, strict=True):
            if misses and name != one.label:
                print(f"    {name}: {text[:150]!r}")
    return {kind: right[kind] / total[kind] for kind in total}


def calibrated(router: Router, network: Network, several: Sequence[Prompts]) -> dict[str, float]:
    """The expected calibration errors, on what counts in the two figures."""
    likeliest: list[tuple[float, bool]] = []
    decided: list[tuple[float, bool]] = []
    for one in several:
        if one.apart:
            continue
        for vector in sync.run(network.reader.aembed(one.texts)):
            decision = router.route_vector(vector)
            best = decision.options[0]
            likeliest.append((best.probability, best.value == one.label))
            decided.append((decision.probability, decision.value == one.label))
    return {
        name: calibration_error(*zip(*found, strict=True))
        for name, found in {"likeliest": likeliest, "decided": decided}.items()
    }


def added(router: Router, network: Network, texts: Sequence[str]) -> list[float]:
    """Seconds until the first token, routed and not, of one request after the other; the difference of each. A number
    in front keeps them from finding each other in the cache."""
    chance, model = random.Random(1), network.base.bind(max_tokens=1)
    differences = []
    for text in texts:
        taken = {}
        for routed in chance.sample([False, True], 2):
            request = f"{chance.randrange(1000, 10000)} {text}"
            began = time.perf_counter()
            if routed:
                sync.run(router.route(request, network.reader))
            model.invoke(request)
            taken[routed] = time.perf_counter() - began
        differences.append(taken[True] - taken[False])
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="skills; none is all")
    parser.add_argument("--library", type=Path, help="the cards' own examples, of those skills that are there")
    parser.add_argument("--rows", type=int, default=60, help="prompts of each test")
    parser.add_argument("--asked", type=int, default=3, help="prompts of each test that the base is asked about")
    parser.add_argument("--timed", type=int, default=TIMED, help="prompts whose time is taken")
    parser.add_argument("--misses", action="store_true", help="print what went to somebody else")
    given = parser.parse_args()
    skills = {one.name: one for one in read_recipe().chosen(given.names)}
    with Network.open(library=given.library, starter=False) as network:
        cards = {one.name: one.card.examples for one in network.mine()}
        if given.library:
            skills = {name: skill for name, skill in skills.items() if name in cards}
        examples: dict[str, Sequence[str]] = {
            name: cards[name] if given.library else skill.examples() for name, skill in skills.items()
        }
        examples[BASE] = (*PROMPTS, *OTHERS)
        began = time.perf_counter()
        planners = [name for name, skill in skills.items() if skill.kind == "planner"]
        router = sync.run(network.routes.router(examples, network.reader, planners))
        taken, count = time.perf_counter() - began, sum(map(len, examples.values()))
        print(f"{len(examples)} labels, {count} examples, read and fitted in {taken:.1f} s")
        several = [*held_out(skills, given.rows), *nobodys()]
        few = [Prompts(one.label, one.kind, one.texts[: given.asked], one.apart) for one in several]
        found = {
            "router": share(functools.partial(by_router, router, network), several, told=True, misses=given.misses),
            "nearest examples": share(nearest(examples, network), several),
            "the base, asked": share(asked_base(skills, network), few) if given.asked else {},
        }
        errors = calibrated(router, network, several)
        mixed = random.Random(0).sample([text for one in several if not one.apart for text in one.texts], given.timed)
        waits = added(router, network, mixed)
    for name, shares in found.items():
        if shares:
            print(f"{name:18} in scope {shares['in']:.3f}, out of scope left to the base {shares['out']:.3f}")
    print(f"calibration error: {errors['likeliest']:.3f} of the likeliest, {errors['decided']:.3f} of what is decided")
    print(f"added to a request: {1000 * statistics.median(waits):.2f} ms (median of {given.timed})")
    print(json.dumps({"added_ms": 1000 * statistics.median(waits), "calibration": errors, **found}))


if __name__ == "__main__":
    main()

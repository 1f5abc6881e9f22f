"""Do specialists that find each other beat one generalist? On composed mathematics, and on the tests of all skills.

    python benchmarks/collective.py --generalists DIR          the starter library beside the generalists in DIR
    python benchmarks/collective.py --only composed --questions 200 --dtype fp32
    plural school --generalist --out DIR                       trains the generalists, from the rows of all skills

Composed questions (benchmarks/composed) are answered directly, or step by step: each primitive question of a chain is
put with the values found so far, and who answers it is the base, a generalist, the specialist that the learned router
chooses, the right specialist (oracle router), or SymPy (oracle at each step). With `own plan` nobody is told the steps:
the network is asked the question and nothing else, and its planner splits it; a generalist answers the steps of that
same plan. A generalist is told what the right specialist would be told, with the same tools and grammar; so is the
base, at greater length. Steps that need nothing from each other, and all questions, are asked at once. A chain whose
value is no number ends there and is wrong. `best of n` is a generalist that answers every question again and again, at
`--temperature`, until it has computed as many tokens as the network did for the same (with its own plan, if nobody is
told the steps); the answer that came most often counts, of several the first.

`--skip N` leaves out the questions that `--questions N` would draw: somebody may have read them. `malformed` counts the
questions whose plan could not be used, after three tries.

The second table is of held-out rows of every skill in the library. Tokens are those that the engine computed, prompts,
answers and what the router reads; every line is an engine of its own, so that none finds another's prefixes. Accuracies
have 95% bootstrap intervals; differences are paired. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from composing import Outcome, alone, by_sympy, directly, followed, most_said, planned, questions, stepwise
from staff import SHOTS, Choose, Staff, answered, gathered, shots_of

from plural import Network, sync
from plural.evals import Row, Task, checker, interval
from plural.specialists import Library
from plural.types import Message
from plural.wiring.generalist import NAMES
from plural.wiring.recipe import STARTER_RECIPE, Skill, read_recipe
from plural.wiring.settings import STARTER

sys.path.append(str(STARTER_RECIPE))
from composed import SPLITS, chains
from maths import KINDS

T = TypeVar("T")
NETWORK = "network, learned router"
NETWORK_ALONE = "network, own plan"
DIRECT = (
    "Work out the question. Answer only with what is asked for at its end: a number, True or False, a letter, or the "
    "list in order."
)
MOST_SAMPLES = 64


# ------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Run(Generic[T]):
    """What came of all questions, the seconds of all together, the tokens that the engine computed, and how often every
    question was answered."""

    found: Sequence[T]
    seconds: float
    computed: int
    samples: int


@dataclass
class Bench:
    """Opens an engine for each line of a table; `right` keeps every line's values, question by question."""

    library: Path
    skills: Mapping[str, Skill]
    settings: Mapping[str, Any]
    tokens: int
    temperature: float
    right: dict[str, list[float]] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)

    def run(
        self,
        line: str,
        ask: Callable[[Staff], Sequence[Awaitable[T]]],
        value: Callable[[T], float],
        *,
        like: str = "",
        pick: Callable[[Sequence[T]], T] = lambda samples: samples[0],
    ) -> Run[T]:
        """All questions at once. To be compared with the line `like`, all of them again and again, at the temperature,
        until as many tokens were computed; `pick` then chooses of a question's samples."""

        async def everything(work: Sequence[Awaitable[T]]) -> list[T]:
            return list(await asyncio.gather(*work))

        temperature, least = (self.temperature, self.computed[like]) if like else (0.0, 0)
        with Network.open(library=self.library, starter=False, **self.settings) as network:
            staff = Staff(network, self.skills, self.tokens, temperature)
            before, began = network.engine.stats().computed, time.perf_counter()
            rounds = [sync.run(everything(ask(staff)))]
            while (computed := network.engine.stats().computed - before) < least and len(rounds) < MOST_SAMPLES:
                staff = Staff(network, self.skills, self.tokens, temperature, seed=len(rounds))
                rounds.append(sync.run(everything(ask(staff))))
            seconds = time.perf_counter() - began
        found = [pick(samples) for samples in zip(*rounds, strict=True)]
        self.right[line], self.computed[line] = [value(one) for one in found], computed
        return Run(found, seconds, computed, len(rounds))

    def figures(self, line: str) -> dict[str, float]:
        value, low, high = interval(self.right[line])
        return {"n": len(self.right[line]), "value": value, "low": low, "high": high}

    def difference(self, one: str, other: str) -> dict[str, float]:
        """The first less the second."""
        pairs = zip(self.right[one], self.right[other], strict=True)
        value, low, high = interval([a - b for a, b in pairs])
        return {"value": value, "low": low, "high": high}


def compose(bench: Bench, generalists: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """The first table: lines of ways to answer composed questions."""
    for split in SPLITS:
        found, left = chains(split)
        print(f"{split}: {len(found)} of {len(found) + len(left)} questions split into known steps")
    asked, shown = questions(given.questions, given.seed, given.skip)
    shots: dict[str, list[Message]] = {kind: shots_of(bench.skills[kind]) for kind in KINDS}
    same = dict.fromkeys(map(str, KINDS), shown)

    def whole(choose: Callable[[Staff], Choose]) -> Callable[[Staff], list[Awaitable[Outcome]]]:
        return lambda staff: [directly(split, chain, choose(staff)) for split, chain in asked]

    def steps(choose: Callable[[Staff], Choose]) -> Callable[[Staff], list[Awaitable[Outcome]]]:
        return lambda staff: [followed(split, chain, stepwise(choose(staff))) for split, chain in asked]

    def plans(choose: Callable[[Staff], Choose]) -> Callable[[Staff], list[Awaitable[Outcome]]]:
        return lambda staff: [planned(split, chain, staff, choose(staff)) for split, chain in asked]

    lines: dict[str, Callable[[Staff], Sequence[Awaitable[Outcome]]]] = {
        "base, directly": whole(lambda staff: staff.base(told=DIRECT)),
        f"base, directly, {SHOTS}-shot": whole(lambda staff: staff.base(same, told=DIRECT)),
        "base, step by step": steps(lambda staff: staff.base()),
        f"base, step by step, {SHOTS}-shot": steps(lambda staff: staff.base(shots)),
    }
    for name in generalists:
        lines[f"{name}, directly"] = whole(functools.partial(Staff.generalist, name=name))
        lines[f"{name}, step by step"] = steps(functools.partial(Staff.generalist, name=name))
        lines[f"{name}, own plan"] = plans(functools.partial(Staff.generalist, name=name))
    lines[NETWORK] = steps(lambda staff: staff.routed_step)
    lines[NETWORK_ALONE] = lambda staff: [alone(split, chain, staff) for split, chain in asked]
    lines["network, oracle router"] = steps(lambda staff: staff.right)
    lines["oracle at each step"] = lambda _: [followed(split, chain, by_sympy) for split, chain in asked]
    alike: dict[str, str] = {}
    for name in generalists:
        for way, other in {"directly": NETWORK_ALONE, "step by step": NETWORK, "own plan": NETWORK_ALONE}.items():
            lines[f"{name}, {way}, best of n"] = lines[f"{name}, {way}"]
            alike[f"{name}, {way}, best of n"] = other
    lines = {name: ask for name, ask in lines.items() if _wanted(name, given.lines)}
    lengths = sorted({len(chain.steps) for _, chain in asked})
    heads = [*SPLITS, *(f"{steps} steps" for steps in lengths), "step", "routed", "samples", "malformed"]
    print(heading("composed mathematics", heads), flush=True)
    table: dict[str, Any] = {}
    for line, ask in lines.items():
        like = alike.get(line, "")
        run = bench.run(line, ask, lambda one: float(one.right), like=like, pick=most_said)
        table[line] = {**bench.figures(line), **parts(run.found, lengths), "tokens": run.computed}
        table[line] |= {"seconds": run.seconds, "samples": run.samples, "like": like}
        table[line]["malformed"] = sum(one.malformed for one in run.found)
        print(drawn_line(line, table[line], heads), flush=True)
    return table


def parts(found: Sequence[Outcome], lengths: Sequence[int]) -> dict[str, float | None]:
    """The accuracy of each file, of each number of steps, of single steps as they were put, and of their routing."""
    steps = [step for one in found for step in one.steps]
    groups = {
        **{split: [one.right for one in found if one.split == split] for split in SPLITS},
        **{f"{count} steps": [one.right for one in found if len(one.chain.steps) == count] for count in lengths},
        "step": [step.right for step in steps],
        "routed": [step.routed for step in steps],
    }
    return {name: sum(each) / len(each) if each else None for name, each in groups.items()}


# ---------------------------------------------------------------------------------------------- the union of the skills
@dataclass(frozen=True)
class Answered:
    skill: str
    who: str
    value: float


def unite(bench: Bench, generalists: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """The second table: as many rows of every skill's own test."""
    chance = random.Random(given.seed)
    asked = []
    for skill in bench.skills.values():
        rows = skill.test_rows()
        chosen = chance.sample(rows, min(given.union_rows, len(rows)))
        asked += [(skill, row) for row in Task.of(skill.name, chosen, skill.checker).rows]
    shots = {name: shots_of(skill) for name, skill in bench.skills.items()}

    async def one(skill: Skill, row: Row, choose: Choose) -> Answered:
        chosen = await choose(skill.name, row.messages[-1].content)
        answer = await answered(chosen, row)
        return Answered(skill.name, chosen.who, checker(skill.checker)(answer, row.expected))

    lines: dict[str, Callable[[Staff], Choose]] = {
        "base": lambda staff: staff.base(),
        f"base, {SHOTS}-shot": lambda staff: staff.base(shots),
        **{name: functools.partial(Staff.generalist, name=name) for name in generalists},
        NETWORK: lambda staff: staff.routed,
        "network, oracle router": lambda staff: staff.right,
    }
    lines = {name: choose for name, choose in lines.items() if _wanted(name, given.lines)}
    heads = [*bench.skills, "routed"]
    print(heading("union of the skills", heads), flush=True)
    table: dict[str, Any] = {}
    for line, choose in lines.items():

        def ask(staff: Staff, choose: Callable[[Staff], Choose] = choose) -> list[Awaitable[Answered]]:
            return [one(skill, row, choose(staff)) for skill, row in asked]

        run = bench.run(line, ask, lambda each: each.value)
        groups = {name: [each.value for each in run.found if each.skill == name] for name in bench.skills}
        groups["routed"] = [float(each.who == each.skill) for each in run.found]
        shares = {name: sum(each) / len(each) for name, each in groups.items()}
        table[line] = {**bench.figures(line), **shares, "tokens": run.computed, "seconds": run.seconds}
        print(drawn_line(line, table[line], heads), flush=True)
    return table


# ----------------------------------------------------------------------------------------------------------- the script
def _wanted(line: str, begins: Sequence[str]) -> bool:
    """Everything is compared with the network."""
    return not begins or line in (NETWORK, NETWORK_ALONE) or line.startswith(tuple(begins))


def heading(title: str, heads: Sequence[str]) -> str:
    return f"{title:42}{'right':>7}{'95%':>16}{'n':>6}{'tokens':>10}{'s':>8}" + "".join(f"{one:>12}" for one in heads)


def drawn_line(line: str, figures: Mapping[str, Any], heads: Sequence[str]) -> str:
    between = f"[{figures['low']:.3f}, {figures['high']:.3f}]"
    counts = f"{figures['n']:6}{figures['tokens']:10}{figures['seconds']:8.1f}"
    shares = (
        "-" if (one := figures[head]) is None else str(one) if isinstance(one, int) else f"{one:.3f}" for head in heads
    )
    return f"{line:42}{figures['value']:7.3f}{between:>16}{counts}" + "".join(f"{one:>12}" for one in shares)


def against(bench: Bench, lines: Iterable[str]) -> dict[str, dict[str, float]]:
    """What the network is better by than every other line, question by question."""
    found = {line: bench.difference(NETWORK, line) for line in lines if line != NETWORK}
    for line, gap in found.items():
        print(f"  {NETWORK} - {line}: {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=STARTER, help="the specialists")
    parser.add_argument("--generalists", type=Path, help=f"the folder of {' and '.join(NAMES)}")
    parser.add_argument("--only", choices=("composed", "union"))
    parser.add_argument(
        "--lines", nargs="+", default=[], metavar="BEGIN", help="only those, such as: network generalist"
    )
    parser.add_argument("--questions", type=int, default=80, help="of each file of composed mathematics")
    parser.add_argument("--union-rows", type=int, default=40, help="of each skill's test")
    parser.add_argument("--tokens", type=int, default=256, help="of one answer at most")
    parser.add_argument("--seed", type=int, default=0, help="of which questions and rows")
    parser.add_argument("--skip", type=int, default=0, help="without the questions that so many of each file would be")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the samples that are voted on")
    parser.add_argument("--recipe", type=Path, help="another recipe than recipes/starter")
    parser.add_argument("--base", type=Path, help="another base than the embedded one")
    parser.add_argument("--dtype", help="how the base is held: auto, fp32, bf16, int8 or q4")
    given = parser.parse_args()
    specialists = Library(given.library).names()
    skills = {name: skill for name, skill in read_recipe(given.recipe).skills.items() if name in specialists}
    missing = [kind for kind in KINDS if kind not in skills]
    if missing and given.only != "union":
        sys.exit(f"{given.library} has nobody for {', '.join(missing)}: give --only union, or another --library.")
    settings = {"base": given.base, "dtype": given.dtype}
    said: dict[str, Any] = {
        "benchmark": "collective",
        "dtype": given.dtype or "auto",
        "seed": given.seed,
        "skip": given.skip,
    }
    with tempfile.TemporaryDirectory() as folder:
        generalists = gathered(given.library, given.generalists, Path(folder))
        for part, measure in {"composed": compose, "union": unite}.items():
            if given.only in (None, part):
                bench = Bench(Path(folder), skills, settings, given.tokens, given.temperature)
                said[part] = measure(bench, generalists, given)
                said[f"{part}, {NETWORK} less"] = against(bench, said[part])
    print(json.dumps(said))


if __name__ == "__main__":
    main()

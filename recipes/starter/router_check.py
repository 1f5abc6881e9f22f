"""How often the router chooses rightly on held-out prompts of every skill and on what no specialist is for.

    python recipes/starter/router_check.py

The router is fitted to the examples on the cards of the starter library, as the network does it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cron
import home
import planner
from general import HELD_OUT, PROMPTS
from toolcall_words import arithmetic, between_dates, next_runs

from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.models.base import load_base
from plural.specialists import Library
from plural.teams import Router

STARTER = Path(__file__).parents[2] / "plural" / "starter"
PER_LABEL = 60


def held_out_prompts() -> dict[str, list[str]]:
    """Prompts that no specialist and no router was shown, by who should answer them."""
    chance = random.Random(10_000_001)
    tools = [*arithmetic(chance, 30), *next_runs(chance, 18), *between_dates(chance, 12)]
    plans = [row for row in planner.test_rows() if row["answer"].count('"task"') > 1]
    planned = [step["task"] for row in plans for step in json.loads(row["answer"])["steps"]]
    return {
        "home": [row["prompt"] for row in chance.sample(home.test_rows(), PER_LABEL)],
        "cron": [row["prompt"] for row in chance.sample(cron.test_rows(), PER_LABEL)],
        "toolcall": [question for question, *_ in tools],
        "planner": [row["prompt"] for row in plans[:PER_LABEL]],
        "base": list(HELD_OUT),
        # What a plan's steps look like: they are routed one by one, before `#1` is filled in.
        "cron (step of a plan)": [task for task in planned if task.endswith(" as cron")][:PER_LABEL],
        "toolcall (step of a plan)": [task for task in planned if "#" in task][:PER_LABEL],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=STARTER)
    given = parser.parse_args()
    base = load_base()
    library = Library(given.library)
    shape = base.shape
    engine = Engine(
        base.decoder, base.tokenizer, lambda digest: library.by_digest(digest).load(shape), EngineSettings()
    )
    reader = ChatPlural(engine=engine, base=base, model_name="base")
    try:
        examples: dict[str, Sequence[str]] = {"base": PROMPTS}
        examples |= {one.name: one.card.examples for one in library}
        router = Router.fit({label: await reader.aembed(prompts) for label, prompts in examples.items()})
        print(f"fitted to {', '.join(f'{len(prompts)} {label}' for label, prompts in examples.items())} examples")
        total = right = 0
        for label, prompts in held_out_prompts().items():
            wanted = label.split(" ")[0]
            decisions = [router.route_vector(vector) for vector in await reader.aembed(prompts)]
            chosen = Counter(decision.value for decision in decisions)
            sure = sum(decision.probability for decision in decisions) / len(decisions)
            total, right = total + len(prompts), right + chosen[wanted]
            print(
                f"{label:26} {chosen[wanted] / len(prompts):.3f} of {len(prompts)}, mean p {sure:.2f}  {dict(chosen)}"
            )
            for prompt, decision in zip(prompts, decisions, strict=True):
                if decision.value != wanted:
                    print(f"    {decision.value} {decision.probability:.2f}: {prompt!r}")
        print(f"{'all':26} {right / total:.3f} of {total}")
    finally:
        engine.close()


if __name__ == "__main__":
    asyncio.run(main())

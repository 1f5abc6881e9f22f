"""What every kind of weights costs in quality, against fp32, on the real base.

    python benchmarks/quality.py                     perplexity on 8 x 256 tokens of prose, and 8 greedy answers
    python benchmarks/quality.py --windows 32        more of the text
    python benchmarks/quality.py --tasks 50          and the starter library's scores on 50 held-out rows each

The prose is the reference of the Python language, as the interpreter carries it (pydoc_data). An answer agrees as far
as it is fp32's, token by token. Everything runs on native kernels. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from plural import Network, sync
from plural.engine import Engine, EngineSettings, Request
from plural.engine.kernels.abi import instruction_set
from plural.engine.kernels.interface import AdapterWeights, Forward, Span
from plural.engine.kernels.native import NativeKernels
from plural.engine.kernels.packing import Kind
from plural.engine.kernels.pages import Pages
from plural.evals import Task, score
from plural.models.base import Base, load_base
from plural.types import Message, Sampling
from plural.wiring.recipe import read_recipe
from plural.wiring.retraining import answerer
from plural.wiring.settings import STARTER

PAGE = 16
PROMPTS = (
    "Explain why the sky is blue.",
    "Write a short letter that thanks a neighbour for watering the plants.",
    "What is the capital of France, and what is it known for?",
    "List five things to pack for a day in the mountains.",
    "Write a Python function that returns the largest of three numbers.",
    "Summarise the story of Cinderella in three sentences.",
    "Name three renewable sources of energy and say how each works.",
    "Give me a recipe for pancakes.",
)


def windows_of(base: Base, count: int, length: int) -> list[list[int]]:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = base.tokenizer.encode(text[: 8 * count * length])
    return [ids[at : at + length] for at in range(0, count * length, length)]


def log_probabilities(base: Base, forward: Forward, ids: Sequence[int]) -> Tensor:
    """Of every token but the first, all that it could have been: (tokens - 1, vocabulary)."""
    held = -(-len(ids) // PAGE)
    memory = Pages(base.config, held, PAGE, torch.float32, torch.device("cpu"))
    rows = range(len(ids))
    with torch.inference_mode():
        spans = [Span(0, len(ids), len(ids), range(1, held + 1))]
        return forward(ids, rows, rows[:-1], memory, spans, []).logits_RV.log_softmax(dim=-1)


def perplexities(base: Base, count: int, length: int) -> dict[str, dict[str, float]]:
    """Of each kind: perplexity, mean divergence from fp32 in nats, and how often both find the same token likeliest."""
    forwards = {kind: NativeKernels(kind).forward(base.decoder) for kind in Kind}  # fp32 is the first
    sums = {kind: [0.0, 0.0, 0.0] for kind in forwards}
    total = 0
    for ids in windows_of(base, count, length):
        next_R1 = torch.tensor(ids[1:])[:, None]
        exact_RV: Tensor | None = None
        for kind, forward in forwards.items():
            found_RV = log_probabilities(base, forward, ids)
            exact_RV = found_RV if exact_RV is None else exact_RV
            sums[kind][0] -= float(found_RV.gather(1, next_R1).sum())
            sums[kind][1] += float((exact_RV.exp() * (exact_RV - found_RV)).sum())
            sums[kind][2] += float((exact_RV.argmax(1) == found_RV.argmax(1)).sum())
        total += len(ids) - 1
    return {
        kind.name.lower(): {"perplexity": math.exp(lost / total), "divergence": apart / total, "same": same / total}
        for kind, (lost, apart, same) in sums.items()
    }


async def answers(engine: Engine, base: Base, tokens: int) -> list[list[int]]:
    async def one(prompt: str) -> list[int]:
        ids = base.chat.encode([Message("user", prompt)])
        request = Request(tuple(ids), Sampling(max_tokens=tokens, ignore_eos=True))
        return [event.token_id async for event in engine.generate(request)]

    return list(await asyncio.gather(*map(one, PROMPTS)))


def agreement(ours: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> tuple[float, int]:
    """The mean share of an answer before its first token that differs, and how many answers have none."""
    shares = [
        next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(other)) / len(other)
        for one, other in zip(ours, exact, strict=True)
    ]
    return sum(shares) / len(shares), shares.count(1.0)


def task_scores(dtype: str, rows: int) -> dict[str, float]:
    """The specialists of the starter library as `plural school` scores them."""
    skills = read_recipe().skills
    found = {}
    with Network.open(library=STARTER, starter=False, dtype=dtype) as network:
        for one in network.library:
            skill = skills[one.name]
            task = Task.of(one.name, skill.test_rows()[:rows], skill.checker)
            found[one.name] = sync.run(score(task, answerer(network, skill, one))).as_score().value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="of a window")
    parser.add_argument("--answer", type=int, default=64, help="tokens of a greedy answer")
    parser.add_argument("--tasks", type=int, metavar="ROWS", help="score the starter library, too")
    given = parser.parse_args()
    if instruction_set() is None:
        sys.exit("The native kernels are not built for this machine: there is nothing but fp32.")
    base = load_base()
    table: dict[str, dict[str, Any]] = {**perplexities(base, given.windows, given.tokens)}
    exact: list[list[int]] = []
    adapters: dict[str, AdapterWeights] = {}
    for dtype, row in table.items():
        engine = Engine(base.decoder, base.tokenizer, adapters.__getitem__, EngineSettings(dtype=dtype))
        found = sync.run(answers(engine, base, given.answer))
        engine.close()
        exact = exact or found
        row["agrees"], row["equal_answers"] = agreement(found, exact)
        if given.tasks:
            row["tasks"] = task_scores(dtype, given.tasks)
    print(f"{base.name}, {given.windows} x {given.tokens} tokens, {len(PROMPTS)} answers of {given.answer}")
    print(f"{'':8}{'perplexity':>12}{'divergence':>12}{'same token':>12}{'answers agree':>15}{'equal':>7}")
    for dtype, row in table.items():
        print(f"{dtype:8}{row['perplexity']:12.4f}{row['divergence']:12.6f}{row['same']:12.2%}", end="")
        print(f"{row['agrees']:15.0%}{row['equal_answers']:7}", end="")
        print("".join(f"  {name} {value:.3f}" for name, value in row.get("tasks", {}).items()))
    print(json.dumps({"benchmark": "quality", "windows": given.windows, "tokens": given.tokens, "dtypes": table}))


if __name__ == "__main__":
    main()

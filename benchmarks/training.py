"""How fast specialists are trained: beside transformers and peft, and eight at once beside eight one after another.

    python benchmarks/training.py                        both comparisons, rank 16 on every linear, fp32
    python benchmarks/training.py --steps 6 --only peers
    python benchmarks/training.py --only school --lengths 16

Peers get the same rows, batches and steps, padded, with peft's fastest attention and optimiser. Rows are digits in the
base's own chat format, of exactly so many tokens: of 64, the template takes some 35, the answer 16. The activated
adapter's prompts are computed once, in the first of three epochs, which counts; the last column is the ratio of the
steps after it. Eight specialists have rows of 16 or 64 tokens in a short template, one or two a step each. Tokens are
those of the rows, however few had to be computed. Kinds take turns, so that a slow moment of the machine meets all of
them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from plural.models.base import Base, load_base
from plural.models.chat import ChatFormat
from plural.models.export import write_huggingface
from plural.train import Course, Examples, PassSettings, Stepped, TrainSettings, read_examples, train
from plural.train.rows import Row, batch, encode

RATE = 1e-4
# A chat without a system message, so that a row of 16 tokens has words of its own.
SHORT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def examples(base: Base, path: Path, *, rows: int, tokens: int, answer: int, seed: int) -> Examples:
    """Rows of exactly `tokens` tokens, `answer` of them learned. Every digit is a token."""
    dice = random.Random(seed)

    def write(prompt: int) -> Examples:
        said = [["".join(dice.choices("0123456789", k=n)) for n in (prompt, answer - 1)] for _ in range(rows)]
        path.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in said))
        return read_examples(path)

    around = len(encode(base, write(1), "")[0].ids) - 1
    made = write(tokens - around)
    assert {len(row.ids) for row in encode(base, made, "")} == {tokens}
    return made


# ------------------------------------------------------------------------------------------------------------ trainers
def ours(base: Base, courses: Sequence[Course], folder: Path) -> Iterator[float]:
    """Seconds of each step, which is one of every course."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        events = train(base, courses, Path(out), PassSettings(compute="fp32", checkpoint_every=10**6))
        count, start = 0, 0.0
        for event in events:
            if isinstance(event, Stepped):
                count += 1
                if count % len(courses) == 0:
                    yield time.perf_counter() - start
            start = time.perf_counter() if count % len(courses) == 0 else start


def peft(model: Any, rows: Sequence[Row], settings: TrainSettings, invocation: tuple[int, ...]) -> Iterator[float]:
    """Seconds of each step of the same training by transformers and peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=int(settings.resolved_alpha()),
        target_modules=list(settings.targets),
        alora_invocation_tokens=list(invocation) or None,
    )
    tuned = get_peft_model(model, config)
    learned = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    tuned.train()
    for step in range(settings.steps(len(rows))):
        start = time.perf_counter()
        ids, seen, labels = _padded(batch(rows, step, settings))
        optimiser.zero_grad()
        tuned(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, settings.grad_clip)
        optimiser.step()
        yield time.perf_counter() - start
    tuned.unload()


def _padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        at = slice(0, len(row.ids))
        ids[i, at], seen[i, at] = torch.tensor(row.ids), 1
        labels[i, at] = torch.where(torch.tensor(row.learn), ids[i, at], -100)
    return ids, seen, labels


def by_turns(kinds: dict[str, Iterator[float]]) -> dict[str, list[float]]:
    """Seconds of every step of each kind, a step of each in turn until all are done."""
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    left = dict(kinds)
    while left:
        for kind in list(left):
            seconds = next(left[kind], None)
            if seconds is None:
                del left[kind]
            else:
                taken[kind].append(seconds)
    return taken


# --------------------------------------------------------------------------------------------------------- comparisons
def beside_peers(base: Base, given: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Row tokens a second of peft and of ours, plain and activated. The first step of each warms up and does not count
    for a plain LoRA; for an activated one it does, with the prompts of the first epoch.
    """
    from transformers import AutoModelForCausalLM

    path = write_huggingface(base, folder / "peer")
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    found: dict[str, dict[str, float]] = {}
    rows_of = given.batch * max(1, given.steps // 3)
    made = examples(base, folder / "rows.jsonl", rows=rows_of, tokens=given.tokens, answer=given.answer, seed=0)
    for kind in given.kinds:
        activated = kind == "activated"
        settings = TrainSettings(
            rank=given.rank, activated=activated, learning_rate=RATE, batch_rows=given.batch, max_steps=given.steps,
            holdout=0,
        )  # fmt: skip
        invocation = base.chat.invocation() if activated else ()
        rows = encode(base, made, "", invocation)
        course = Course(kind, made, settings)
        taken = by_turns(
            {"peft": peft(model, rows, settings, invocation), "ours": ours(base, [course], folder)},
        )
        first = 0 if activated else 1
        tokens = given.batch * given.tokens
        found[kind] = {who: tokens * len(each[first:]) / sum(each[first:]) for who, each in taken.items()}
        found[kind]["ratio"] = found[kind]["ours"] / found[kind]["peft"]
        epoch = rows_of // given.batch
        found[kind]["after one epoch"] = sum(taken["peft"][epoch:]) / sum(taken["ours"][epoch:])
        show(kind, found)
    return found


def school(base: Base, given: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Row tokens a second of eight specialists at once, and one after another."""
    short = replace(base, chat=ChatFormat(base.tokenizer, SHORT))
    found: dict[str, dict[str, float]] = {}
    for tokens in given.lengths:
        for rows in given.rows:
            settings = TrainSettings(
                rank=given.rank, learning_rate=RATE, batch_rows=rows, max_steps=given.steps, holdout=0
            )
            courses = []
            for i in range(given.specialists):
                path = folder / f"{tokens}-{i}.jsonl"
                made = examples(short, path, rows=4 * rows, tokens=tokens, answer=tokens // 4, seed=i)
                courses.append(Course(f"s{i}", made, settings.model_copy(update={"seed": i})))
            kinds = {course.name: ours(short, [course], folder) for course in courses}
            taken = by_turns({"together": ours(short, courses, folder), **kinds})
            together = sum(taken.pop("together")[1:])
            after_another = sum(sum(each[1:]) for each in taken.values())
            count = tokens * rows * given.specialists * (given.steps - 1)
            kind = f"{tokens} tokens, {rows} rows"
            found[kind] = {
                "one after another": count / after_another,
                "together": count / together,
                "ratio": after_another / together,
            }
            show(kind, found)
    return found


def show(kind: str, table: dict[str, dict[str, float]]) -> None:
    """The newest line of a table, under its headings if it is the first."""
    if len(table) == 1:
        print(f"{'row tokens/s':24}" + "".join(f"{heading:>20}" for heading in table[kind]))
    print(f"{kind:24}" + "".join(f"{figure:>20.2f}" for figure in table[kind].values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("peers", "school"))
    parser.add_argument("--kinds", nargs="+", choices=("plain", "activated"), default=["plain", "activated"])
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="rows of a step beside the peers")
    parser.add_argument("--tokens", type=int, default=64, help="of a row beside the peers")
    parser.add_argument("--answer", type=int, default=16, help="of those")
    parser.add_argument("--specialists", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64], help="tokens of a row in the school")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2], help="of each specialist in a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base()
    parts: dict[str, Callable[..., dict[str, dict[str, float]]]] = {"peers": beside_peers, "school": school}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            if given.only in (None, name):
                found[name] = part(base, given, Path(folder))
    asked = {"rank": given.rank, "steps": given.steps, "threads": given.threads}
    print(json.dumps({"benchmark": "training", **asked, "tokens_per_second": found}))


if __name__ == "__main__":
    main()

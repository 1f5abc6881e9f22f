"""What specialists are measured against: one LoRA for all skills, from the same rows in as many steps.

It is trained twice, with the rank of one specialist and with the ranks of all together.
"""

from __future__ import annotations

import itertools
import random
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plural.errors import PluralError, SettingsError
from plural.wiring.recipe import Row, Skill
from plural.wiring.retraining import Lesson, Retraining, Times, prepared, said, train_all, write_rows
from plural.wiring.school import TrainOrder
from plural.wiring.settings import read_settings
from plural.wiring.stages import Stage
from plural.wiring.training import raise_all

if TYPE_CHECKING:
    from plural.train import TrainSettings

SAME_RANK, ALL_RANKS = "generalist-same-rank", "generalist-all-ranks"
NAMES = (SAME_RANK, ALL_RANKS)
_PURPOSE = "Does what all specialists do; made to be compared with them."
_SEED = 0


def train_generalists(order: Retraining, names: Sequence[str] = NAMES) -> Iterator[Stage]:
    """Trains those of `names` at once, on rows and steps as the specialists of `order.skills` would have, and puts
    their PEFT directories into `order.out`.

    Raises SettingsError where they lie already, DataError and NumericError as `retrain` does.
    """
    from plural.models.base import load_base
    from plural.train import read_examples

    for name in names:
        if (order.out / name).exists():
            raise SettingsError(f"{order.out / name} exists already.", hint="Remove it, or choose another --out.")
    lessons = yield from prepared(order, Times())
    path = write_rows(order.work / "data" / "generalist.jsonl", union(order, lessons))
    examples = read_examples(path)
    settings = read_settings(base=order.base, device=order.device)
    base = load_base(settings.base, cache_dir=settings.resolve(settings.cache), device=settings.device)
    failed: list[PluralError] = []
    orders = [
        TrainOrder(path, name, each, purpose=_PURPOSE)
        for name, each in zip(NAMES, generalists(order, lessons, len(examples.rows)), strict=True)
        if name in names
    ]
    trained = yield from train_all(order, [(one, examples) for one in orders], base, failed)
    order.out.mkdir(parents=True, exist_ok=True)
    for name, one in trained.items():
        shutil.copytree(one.path, order.out / name)
        yield Stage("publishing", 1.0, "", f"in {order.out / name}", {"path": str(order.out / name)}, name)
    raise_all(failed)


def budget(order: Retraining, lesson: Lesson) -> tuple[TrainSettings, int]:
    """The settings of a specialist, and the steps that they allow it."""
    from plural.train import TrainSettings

    changed = said(max_steps=order.max_steps, activated=order.activated)
    settings = TrainSettings.of(**lesson.skill.settings | changed)
    rows = len(lesson.examples.rows)
    held = min(settings.holdout_rows, round(settings.holdout * rows))
    return settings, settings.steps(rows - held)


def union(order: Retraining, lessons: Sequence[Lesson]) -> list[Row]:
    """Of each skill as many rows as its training takes, epoch after epoch, each with what its specialist is told as a
    system message; all of them shuffled."""
    found: list[Row] = []
    for lesson in lessons:
        settings, steps = budget(order, lesson)
        rows = [_told(row, lesson.skill) for row in lesson.rows]
        chance = random.Random(_SEED)
        epochs = itertools.chain.from_iterable(chance.sample(rows, len(rows)) for _ in itertools.count())
        found += itertools.islice(epochs, steps * settings.batch_rows)
    random.Random(_SEED).shuffle(found)
    return found


def _told(row: Mapping[str, Any], skill: Skill) -> Row:
    if "messages" in row:
        messages = row["messages"]
    else:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}]
    return {**said(tools=row.get("tools")), "messages": [{"role": "system", "content": skill.instructions}, *messages]}


def generalists(order: Retraining, lessons: Sequence[Lesson], rows: int) -> tuple[TrainSettings, ...]:
    """Of both: all steps of the specialists, never fewer rows, the rate in the middle of theirs; activated if all of
    them are.

    It may use all of its steps: of the weights on the way those of the best held-out loss are kept, as theirs are.
    """
    from plural.train import TrainSettings

    budgets = [budget(order, lesson) for lesson in lessons]
    each = [settings for settings, _ in budgets]
    steps = sum(count for _, count in budgets)
    batch = -(-rows // steps)
    same = TrainSettings.of(
        rank=max(one.rank for one in each),
        activated=all(one.activated for one in each),
        learning_rate=statistics.median(one.learning_rate for one in each),
        batch_rows=batch,
        max_steps=steps,
        epochs=2.0 * batch * steps / rows,  # max_steps is what ends it
        evaluate_every=max(one.look_every(count) for one, count in budgets),
        patience=steps,
        seed=_SEED,
    )
    return same, same.model_copy(update={"rank": sum(one.rank for one in each)})

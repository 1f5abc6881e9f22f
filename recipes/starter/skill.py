"""What a skill of the starter library is: its data, its contract, how it is trained and what it is scored by."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plural.specialists import Contract

Row = dict[str, Any]
Rows = Callable[[], list[Row]]
EXAMPLES = 64


@dataclass(frozen=True)
class Skill:
    """`asked_of_base` is the longer prompt that the untrained base gets: it cannot know what the short one means.

    `more_tests` are other authors' rows and other wordings, each scored beside the own test.
    """

    name: str
    purpose: str
    instructions: str
    asked_of_base: str
    checker: str
    train_rows: Rows
    test_rows: Rows
    examples: Callable[[], list[str]]
    settings: dict[str, Any]
    licence: str
    output: Contract | None = None
    kind: Literal["skill", "planner"] = "skill"
    tools: tuple[str, ...] = ()
    max_tokens: int = 96
    more_tests: dict[str, Rows] = field(default_factory=dict)


def some(rows: Sequence[Row], count: int = EXAMPLES) -> list[str]:
    """Prompts for the router to learn from."""
    return [row["prompt"] for row in random.Random(3).sample(list(rows), count)]


# Small batches: these skills need many updates rather than many rows.
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "holdout_rows": 48, "evaluate_every": 100}
APACHE = "Apache-2.0"

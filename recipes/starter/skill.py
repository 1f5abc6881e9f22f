"""What the skills of the starter library share: settings, licence, examples for the router, tests kept apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from plural.evals import Fingerprint, Task
from plural.wiring.recipe import Row, Rows, Skill, to_first_answer

__all__ = ["APACHE", "EXAMPLES", "SETTINGS", "Row", "Rows", "Skill", "apart", "some"]

EXAMPLES = 128
# Rank 4 keeps the weights of all skills below 40 MB. `max_steps` ends a training, not the passes over its rows.
SETTINGS: dict[str, Any] = {
    "rank": 4,
    "learning_rate": 2e-3,
    "epochs": 100,
    "holdout_rows": 48,
    "evaluate_every": 100,
}
APACHE = "Apache-2.0"


def some(rows: Sequence[Row], count: int = EXAMPLES) -> list[str]:
    """Prompts for the router to learn from."""
    return [row["prompt"] for row in random.Random(3).sample(list(rows), count)]


def apart(tests: Sequence[Row], trained: Sequence[Row]) -> list[Row]:
    """The test rows that repeat no training row, exactly or nearly."""
    known = Fingerprint.of(Task.of("trained", map(to_first_answer, trained)).rows)
    leaks = known.leaks(Task.of("tests", map(to_first_answer, tests)).rows)
    lines = {leak.line for leak in leaks}
    return [row for line, row in enumerate(tests, start=1) if line not in lines]

"""What long work says while it goes on."""

from __future__ import annotations

import queue
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from plural import sync
from plural.evals import ScoreCard, Task, score
from plural.protocols import Answerer


@dataclass(frozen=True, slots=True)
class Stage:
    """Progress of one stage: `done` in [0, 1], a short note, and a line to keep when the stage has a result."""

    stage: str
    done: float
    note: str = ""
    result: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def scored(stage: str, task: Task, answerer: Answerer) -> Generator[Stage, None, ScoreCard]:
    """Scores in the background and tells how far it is."""
    counts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(lambda: sync.run(score(task, answerer, progress=lambda done, _: counts.put(done))))
        scoring.add_done_callback(lambda _: counts.put(None))
        while (done := counts.get()) is not None:
            yield Stage(stage, done / len(task.rows), f"{done} of {len(task.rows)} rows")
        result = scoring.result()
    yield Stage(stage, 1.0, f"{len(task.rows)} rows", f"{stage}: {result}", {"value": result.value, "n": result.n})
    return result

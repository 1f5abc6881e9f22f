"""What long work says while it goes on."""

from __future__ import annotations

import queue
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from plural import sync
from plural.evals import ScoreCard, Task, score
from plural.protocols import Answerer

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stage:
    """Progress of one stage: `done` in [0, 1], a short note, and a line to keep when the stage has a result.

    `name` is the specialist that it is about, where that is one of several.
    """

    stage: str
    done: float
    note: str = ""
    result: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def line(self) -> str:
        """The result as a person reads it among those of others."""
        return f"{self.name}: {self.result}" if self.name and self.result else self.result

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def counted(
    stage: str, total: int, unit: str, work: Callable[[Callable[[int], None]], Coroutine[Any, Any, Result]]
) -> Generator[Stage, None, Result]:
    """Does `work` in the background, which calls what it is given with how many of `total` are done, and says so."""
    counts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(lambda: sync.run(work(counts.put)))
        working.add_done_callback(lambda _: counts.put(None))
        while (done := counts.get()) is not None:
            yield Stage(stage, done / total, f"{done} of {total} {unit}")
        return working.result()


def scored(stage: str, task: Task, answerer: Answerer) -> Generator[Stage, None, ScoreCard]:
    """Scores in the background and tells how far it is."""
    result = yield from counted(
        stage,
        len(task.rows),
        "rows",
        lambda tell: score(task, answerer, progress=lambda done, _: tell(done)),
    )
    yield Stage(stage, 1.0, f"{len(task.rows)} rows", f"{stage}: {result}", {"value": result.value, "n": result.n})
    return result


def named(name: str, stages: Generator[Stage, None, Result]) -> Generator[Stage, None, Result]:
    """The same stages, each said to be of the specialist `name`."""
    with closing(stages):
        while True:
            try:
                stage = next(stages)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            yield replace(stage, name=name)

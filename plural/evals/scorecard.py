"""Scores of anything that answers: a base, a specialist, an agent, a team."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plural.errors import ModelError, SettingsError
from plural.evals.task import Row, Task
from plural.protocols import Answerer
from plural.types import Difference, Score

_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's answer. `failure` says why there is none: the answer then is empty and scores 0."""

    row: Row
    answer: str
    value: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """The mean over `n` rows, and the bounds of its 95% bootstrap interval."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    seconds: float
    results: tuple[RowResult, ...]

    @property
    def n(self) -> int:
        return len(self.results)

    @property
    def misses(self) -> tuple[RowResult, ...]:
        """The rows that scored less than 1."""
        return tuple(result for result in self.results if result.value < 1)

    def as_score(self, by: str = "", *, on: str = "", tokens: int | None = None) -> Score:
        """What a specialist's card keeps. `tokens` are all that were written."""
        return Score(
            self.metric,
            round(self.value, 4),
            self.n,
            by,
            low=round(self.low, 4),
            high=round(self.high, 4),
            tokens=None if tokens is None else round(tokens / self.n, 1),
            seconds=round(self.seconds / self.n, 4),
            on=on,
        )

    def minus(self, other: ScoreCard, what: str, *, on: str = "") -> Difference:
        """The paired bootstrap: rows are drawn, and with each row both of its scores.

        Raises SettingsError if the other one is of other rows.
        """
        if [result.row for result in self.results] != [result.row for result in other.results]:
            raise SettingsError(f"{what}: these are scores of different rows, which cannot be compared one by one.")
        pairs = zip(self.results, other.results, strict=True)
        value, low, high = interval([one.value - another.value for one, another in pairs])
        return Difference(what, round(value, 4), round(low, 4), round(high, 4), self.n, on)

    def __str__(self) -> str:
        return f"{self.task}: {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] by {self.metric}, n = {self.n}"


async def score(
    task: Task,
    answerer: Answerer,
    *,
    concurrency: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreCard:
    """Asks every row, at most `concurrency` at a time, and scores the answers; `progress` gets (rows done, rows).

    A contract that was broken or a limit that was reached scores 0. Every other error ends the scoring.

    Raises:
        SettingsError: `concurrency` is below 1, or the task's checker is unknown.
    """
    if concurrency < 1:
        raise SettingsError(f"concurrency is {concurrency}; it must be at least 1.")
    judge = task.judged()
    started = time.perf_counter()
    room = asyncio.Semaphore(concurrency)
    done = 0

    async def ask(row: Row) -> RowResult:
        nonlocal done
        async with room:
            result = await _ask(row, answerer)
        if not result.failure:
            result = RowResult(row, result.answer, judge(row, result.answer))
        done += 1
        if progress is not None:
            progress(done, len(task.rows))
        return result

    asked = [asyncio.ensure_future(ask(row)) for row in task.rows]
    try:
        results = tuple(await asyncio.gather(*asked))
    finally:
        for each in asked:
            each.cancel()
    value, low, high = interval([result.value for result in results])
    return ScoreCard(task.name, task.checker, value, low, high, time.perf_counter() - started, results)


async def _ask(row: Row, answerer: Answerer) -> RowResult:
    try:
        answer = await (answerer.answer(row.messages, row.tools) if row.tools else answerer.answer(row.messages))
    except ModelError as error:
        return RowResult(row, "", 0.0, str(error))
    return RowResult(row, answer, 0.0)


def interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the percentile bootstrap over rows, with a fixed seed."""
    scores_N = np.asarray(values, dtype=np.float64)
    if not len(scores_N):
        raise SettingsError("There are no rows to take the mean of.")
    drawn_RN = np.random.default_rng(seed).choice(scores_N, size=(_RESAMPLES, len(scores_N)))
    low, high = np.quantile(drawn_RN.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(scores_N.mean()), float(low), float(high)

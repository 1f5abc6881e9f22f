"""One step as flat rows: which tokens, whose pages, which adapter, and which rows are wanted afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from plural.engine.kernels.interface import Span
from plural.engine.request import EmbedJob, Job, PromptJob, ScoreJob
from plural.engine.scheduler import Work
from plural.types import AdapterRef

# A wanted row's number, and a token.
Spot: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Row `row` of the step is position `position` of `job`, and its logits are needed."""

    job: Job
    position: int
    row: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one job lie next to each other, and so do the jobs that wear the same adapters at the same scales.

    `spans` are those of `work`, in order. `worn` says which rows (start, stop) wear what, in the order in which it is
    added; rows before the offset of an adapter do not wear it. `states` are the rows whose hidden states an EmbedJob
    takes, `scored` the logits that scores are made of.
    """

    work: tuple[Work, ...]
    ids: list[int]
    positions: list[int]
    spans: tuple[Span, ...]
    worn: tuple[tuple[AdapterRef, int, int], ...]
    wanted: tuple[Wanted, ...]
    states: tuple[tuple[EmbedJob, int, int], ...]
    scored: tuple[Spot, ...]


def build_batch(work: Sequence[Work]) -> Batch:
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    worn: list[tuple[AdapterRef, int, int]] = []
    wanted: list[Wanted] = []
    states: list[tuple[EmbedJob, int, int]] = []
    latest = 0  # how many of `worn` are one job's
    ordered = tuple(sorted(work, key=_dress))
    for one in ordered:
        job, row = one.job, len(ids)
        ids += job.tokens[one.start : one.stop]
        positions += range(one.start, one.stop)
        spans.append(Span(row, len(ids), one.stop, job.pages))
        wanted += (Wanted(job, at, row + at - one.start) for at in job.wanted(one.start, one.stop))
        if isinstance(job, EmbedJob) and job.start < one.stop:
            states.append((job, row + max(0, job.start - one.start), len(ids)))
        acting = [
            (replace(ref, offset=0), row + max(0, ref.offset - one.start), len(ids))
            for ref in job.worn
            if ref.offset < one.stop
        ]
        # The rows of the job before may be worn on, if they wear the very same: in a mixture the order counts.
        before = worn[-len(acting) :] if latest == len(acting) else []
        if acting and [(ref, stop) for ref, _, stop in before] == [(ref, start) for ref, start, _ in acting]:
            worn[-len(acting) :] = [(ref, start, len(ids)) for ref, start, _ in before]
        else:
            worn += acting
            latest = len(acting)
    return Batch(ordered, ids, positions, tuple(spans), tuple(worn), tuple(wanted), tuple(states), _scored(wanted))


def _scored(wanted: Sequence[Wanted]) -> tuple[Spot, ...]:
    return tuple(
        (row, token)
        for row, one in enumerate(wanted)
        for job in (one.job.family if isinstance(one.job, PromptJob) else (one.job,))
        if isinstance(job, ScoreJob)
        for token in job.targets(one.position)
    )


def _dress(work: Work) -> list[tuple[str, float]]:
    return [(ref.digest, ref.scale) for ref in work.job.worn]

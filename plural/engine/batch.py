"""One step as flat rows: which tokens, whose pages, which adapter, and which rows are wanted afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from plural.engine.kernels.interface import Span
from plural.engine.request import EmbedJob, Job
from plural.engine.scheduler import Work
from plural.types import AdapterRef


@dataclass(frozen=True, slots=True)
class Wanted:
    """Row `row` of the step is position `position` of `job`, and its logits are needed."""

    job: Job
    position: int
    row: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one job lie next to each other, and so do the jobs that wear the same adapter at the same scale.

    `spans` are those of `work`, in order. `worn` says which rows (start, stop) wear what, `states` which rows' hidden
    states an EmbedJob takes. Rows before the offset of a job's adapter wear nothing.
    """

    work: tuple[Work, ...]
    ids: list[int]
    positions: list[int]
    spans: tuple[Span, ...]
    worn: tuple[tuple[AdapterRef, int, int], ...]
    wanted: tuple[Wanted, ...]
    states: tuple[tuple[EmbedJob, int, int], ...]


def build_batch(work: Sequence[Work]) -> Batch:
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    worn: list[tuple[AdapterRef, int, int]] = []
    wanted: list[Wanted] = []
    states: list[tuple[EmbedJob, int, int]] = []
    ordered = tuple(sorted(work, key=_dress))
    for one in ordered:
        job, row = one.job, len(ids)
        ids += job.tokens[one.start : one.stop]
        positions += range(one.start, one.stop)
        spans.append(Span(row, len(ids), one.stop, job.pages))
        wanted += (Wanted(job, at, row + at - one.start) for at in job.wanted(one.start, one.stop))
        if isinstance(job, EmbedJob):
            states.append((job, row, len(ids)))
        if job.worn is None or job.worn.offset >= one.stop:
            continue
        acting, dress = row + max(0, job.worn.offset - one.start), replace(job.worn, offset=0)
        if worn and (worn[-1][0], worn[-1][2]) == (dress, acting):
            worn[-1] = (dress, worn[-1][1], len(ids))
        else:
            worn.append((dress, acting, len(ids)))
    return Batch(ordered, ids, positions, tuple(spans), tuple(worn), tuple(wanted), tuple(states))


def _dress(work: Work) -> tuple[str, float]:
    worn = work.job.worn
    return ("", 0.0) if worn is None else (worn.digest, worn.scale)

"""The gate: a new version takes over a name only if it is shown to be not worse than what answers now.

Not worse is a test of non-inferiority, with one-sided confidence of 95%, by the paired bootstrap over rows:

1. On its own rows: the held-out rows of the new version and of the one it would replace, without those that either of
   them was trained on. Both answer all of them, each as it is served; where nothing is replaced, the base at its best
   answers in the other's place. The mean difference may lie above -0.05.
2. On the library's regression set: the held-out rows of all other specialists that are one request without tools, as
   requests to the network. Rows that
   the router sends to the same specialist before and after are answered as before, because nothing else has changed
   (within a plan, where steps are routed one by one, that is assumed). The others are answered by both networks, and
   the mean difference over all rows may lie above -0.02.

Few rows show little: a version that is as good, but by chance wrong elsewhere, passes only with more of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plural import sync
from plural.errors import ModelError, SpecialistError
from plural.evals import ChatAnswerer, Row, ScoreCard, Task, checker, interval
from plural.specialists import Card, Library, Specialist, check_name
from plural.specialists.card import CARD_FILE
from plural.specialists.peft_files import CONFIG_FILE
from plural.types import Difference
from plural.wiring.adopting import Told, adopt
from plural.wiring.network import BASE, Network
from plural.wiring.scoring import MOST_ROWS, Exam, best_base, exam_from, fingerprint, own_exam
from plural.wiring.settings import Settings, read_settings, shelf
from plural.wiring.stages import Stage, scored

OWN_MARGIN, REGRESSION_MARGIN = 0.05, 0.02
_LEVEL = 0.90  # of the two-sided interval whose lower end is the one-sided bound at 95%
_FEW = 30


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """What to publish: the directory of an adapter, with its card or without, or a name of the library, with or without
    "@VERSION".

    A name alone is its latest version that is kept. `told` is what the card of an adapter without one says. `data` are
    rows to compare on in the place of held-out ones.
    """

    what: str
    name: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    checker: str | None = None
    force: bool = False
    base: Path | None = None
    library: Path | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, and why that does not show the new version to be not worse; empty if it does."""

    compared: tuple[Difference, ...]
    problems: tuple[str, ...]


def publish(order: PublishOrder) -> Iterator[Stage]:
    """Carries out an order. Raises SpecialistError if the gate refuses; the version is kept and can be forced."""
    settings = read_settings(base=order.base, library=order.library)
    candidate = yield from _candidate(order, settings)
    promoted = yield from promote_if_not_worse(
        settings, candidate, data=order.data, checker_name=order.checker, force=order.force
    )
    yield Stage(
        "publishing", 1.0, "", f"{promoted.name} is version {promoted.card.version} now: {promoted.path}",
        {"name": promoted.name, "version": promoted.card.version},
    )  # fmt: skip


def promote_if_not_worse(
    settings: Settings,
    candidate: Specialist,
    *,
    data: Path | None = None,
    checker_name: str | None = None,
    exam: Exam | None = None,
    force: bool = False,
    opened: Network | None = None,
) -> Generator[Stage, None, Specialist]:
    """Lets the candidate, a version that the library keeps, take over its name. Its own rows are those of `data`, or of
    an `exam`, or else the held-out ones. `opened` is a network of these settings, if there is one already.
    """
    library = shelf(settings)
    current = _standing(library, candidate.name)
    with nullcontext(opened) if opened else Network.open(**settings.model_dump()) as network:
        candidate.load(network.base_model.shape)
        asked = exam_from(data, candidate, checker_name) if data else exam or _common_exam(candidate, current)
        verdict = yield from _judge(network, candidate, current, asked)
    problem = "; ".join(verdict.problems)
    if problem and not force:
        raise SpecialistError(
            f"{candidate.name!r} was not promoted: {problem}.",
            hint=f"It is kept as version {candidate.card.version}. More rows (--data FILE) may show more; "
            f"plural publish {candidate.name}@{candidate.card.version} --force promotes it all the same.",
        )
    if problem:
        yield Stage("publishing", 1.0, "", f"Warning, forced: {problem}. Its card says so.", {"warning": problem})
    own = current is not None and current.path.is_relative_to(library.root)
    return library.promote(
        candidate.name, candidate.card.version, expected=current.digest if own and current else "", warning=problem
    )


def _standing(library: Library, name: str) -> Specialist | None:
    """What the name stands for, if it can be read: a damaged one may be replaced by any."""
    try:
        return library.get(name)
    except SpecialistError:
        return None


def _candidate(order: PublishOrder, settings: Settings) -> Generator[Stage, None, Specialist]:
    folder, library = Path(order.what).expanduser(), shelf(settings)
    if folder.is_dir() and (folder / CONFIG_FILE).is_file() and not (folder / CARD_FILE).exists():
        adopted = yield from adopt(settings, folder, _told(order, folder))
        candidate = library.keep(adopted.path, name=adopted.name)
        shutil.rmtree(adopted.path)
        return candidate
    if order.told:
        raise SpecialistError(
            f"{', '.join(order.told)} is given, but {order.what} has a card or is no adapter's directory.",
            hint=f"Change its {CARD_FILE}, or leave it out.",
        )
    if folder.is_dir():
        return library.keep(folder, name=order.name or Card.read(folder).name)
    if order.name is not None:
        raise SpecialistError(
            f"{order.what} is no directory; --name goes with the directory of an adapter.",
            hint=f"It has a {CARD_FILE}.",
        )
    if "@" in order.what:
        return library.get(order.what)
    current, *others = library.versions(order.what)
    kept = [current, *others] if order.what not in library else others
    if not kept:
        raise SpecialistError(
            f"{order.what!r} has no version besides the one that it stands for.",
            hint="plural publish DIR publishes an adapter's directory; plural train makes one.",
        )
    return kept[0]


def _told(order: PublishOrder, folder: Path) -> Told:
    if order.name is None:
        raise SpecialistError(f"{folder} has no {CARD_FILE}.", hint="Give the new specialist a --name.")
    if not (order.told.get("test") or order.data or order.force):
        raise SpecialistError(
            f"{folder} has no {CARD_FILE}, and there are no rows to score it on.", hint="Give some with --test FILE."
        )
    return Told(check_name(order.name), checker=order.checker or "exact", **order.told)


# ------------------------------------------------------------------------------------------------------------- judging
def _judge(
    network: Network, candidate: Specialist, current: Specialist | None, exam: Exam | str
) -> Generator[Stage, None, Verdict]:
    """By an exam, or why there is none."""
    if isinstance(exam, str):
        return Verdict((), (exam,))
    before = yield from _before(network, candidate, current, exam)
    after = yield from scored(f"scoring version {candidate.card.version}", exam.task, _answerer(network, candidate))
    than = f"version {current.card.version}" if current else BASE
    differences = [one.value - other.value for one, other in zip(after.results, before.results, strict=True)]
    own = _compared(f"{candidate.name}@{candidate.card.version} - {than}", differences)
    compared, problems = [own], _worse(own, OWN_MARGIN, f"than {than} on its own rows")
    regression = yield from _regression(network, candidate)
    if regression:
        whole = _compared("the network with it - without it", regression)
        compared.append(whole)
        problems += _worse(whole, REGRESSION_MARGIN, "for the network on other specialists' rows")
    for one in compared:
        few = f"; {one.n} rows show little" if one.n < _FEW else ""
        line = f"{one.what}: {one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}], n = {one.n}{few}"
        yield Stage("comparing", 1.0, "", line, {"value": one.value, "low": one.low, "high": one.high, "n": one.n})
    return Verdict(tuple(compared), tuple(problems))


def _common_exam(candidate: Specialist, current: Specialist | None) -> Exam | str:
    """The held-out rows of both that neither was trained on, or why there are none."""
    both = [candidate, *([current] if current else [])]
    exams = [own_exam(one) for one in both if one.card.evidence is not None]
    names = sorted({exam.task.checker for exam in exams})
    if len(names) > 1:
        return f"the versions' held-out rows are judged by {' and '.join(names)}, which cannot be compared"
    rows = list({row.to_json(): row for exam in exams for row in exam.task.rows}.values())
    for one in both:
        trained = fingerprint(one)
        numbered = [Row(row.messages, row.expected, row.tools, row.calls, line) for line, row in enumerate(rows)]
        leaking = {leak.line for leak in trained.leaks(numbered)} if trained else set()
        rows = [row for line, row in enumerate(rows) if line not in leaking]
    if not rows:
        return "there are no held-out rows to compare on that neither version was trained on"
    random.Random(0).shuffle(rows)
    return Exam(Task(candidate.name, tuple(rows[:MOST_ROWS]), names[0]), exams[0].shots)


def _before(
    network: Network, candidate: Specialist, current: Specialist | None, exam: Exam
) -> Generator[Stage, None, ScoreCard]:
    if current is None:
        base = yield from best_base(network, candidate, exam)
        return base.best
    stage = f"scoring version {current.card.version}"
    return (yield from scored(stage, exam.task, _answerer(network, current)))


def _answerer(network: Network, specialist: Specialist) -> ChatAnswerer:
    return ChatAnswerer(network.model(specialist))


def _compared(what: str, differences: Sequence[float]) -> Difference:
    value, low, high = interval(differences, level=_LEVEL)
    return Difference(what, round(value, 4), round(low, 4), round(high, 4), len(differences))


def _worse(one: Difference, margin: float, where: str) -> list[str]:
    if one.low >= -margin:
        return []
    return [
        f"it is not shown to be not worse {where}: the difference is {one.value:+.3f}, with 95% confidence above "
        f"{one.low:+.3f}, and must lie above {-margin:+.3f} ({one.n} rows)"
    ]


# ---------------------------------------------------------------------------------------------------------- regression
def _regression(network: Network, candidate: Specialist) -> Generator[Stage, None, list[float]]:
    """For every row of the regression set what the candidate changes in its score."""
    rows = _regression_rows(network, candidate)
    if not rows:
        return []
    imagined = network.over(network.library.imagined(candidate))
    requests = [row.messages[-1].content for row, _ in rows]
    yield Stage("routing other specialists' rows", 0.0, f"{len(rows)} rows")
    moved = sync.run(_moved(network, imagined, candidate.name, requests))
    differences = [0.0] * len(rows)
    for count, index in enumerate(moved, start=1):
        row, judged_by = rows[index]
        without, with_it = (_value(one, row, judged_by) for one in (network, imagined))
        differences[index] = with_it - without
        yield Stage("asking again what is routed otherwise", count / len(moved), f"{count} of {len(moved)} rows")
    line = f"{len(moved)} of {len(rows)} rows of other specialists reach another one, or this one"
    yield Stage("routing other specialists' rows", 1.0, "", line, {"moved": len(moved), "n": len(rows)})
    return differences


def _regression_rows(network: Network, candidate: Specialist) -> list[tuple[Row, str]]:
    """Rows that are one request without tools, of every other specialist as many, and the checker that judges each."""
    asked: dict[str, list[tuple[Row, str]]] = {}
    for one in network.mine():
        if one.card.evidence is not None and one.card.kind == "skill" and one.name != candidate.name:
            task = own_exam(one).task
            rows = [(row, task.checker) for row in task.rows if len(row.messages) == 1 and not row.tools]
            random.Random(one.name).shuffle(rows)
            asked |= {one.name: rows} if rows else {}
    return [row for rows in asked.values() for row in rows[: max(1, MOST_ROWS // len(asked))]]


async def _moved(before: Network, after: Network, name: str, requests: Sequence[str]) -> list[int]:
    """The requests that are routed otherwise, or to the specialist that changes."""
    old, new = await before.router(), await after.router()
    if old is None or new is None:
        return list(range(len(requests)))
    vectors = await before.reader.aembed(requests)
    routes = [(old.route_vector(vector).value, new.route_vector(vector).value) for vector in vectors]
    return [index for index, (one, other) in enumerate(routes) if one != other or name in (one, other)]


def _value(network: Network, row: Row, judged_by: str) -> float:
    try:
        return checker(judged_by)(network.ask(row.messages[-1].content), row.expected)
    except ModelError:
        return 0.0

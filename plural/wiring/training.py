"""From examples to specialists in the library: train all at once, score beside the base, write the cards, publish."""

from __future__ import annotations

import queue
import random
import shlex
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plural import sync
from plural.errors import DataError, NumericError, SpecialistError
from plural.evals import ChatAnswerer, Row, ScoreCard, Task, score
from plural.specialists import Card, Lineage, Specialist, adapter_digest, read_invocation
from plural.specialists.card import CARD_FILE
from plural.wiring.network import Network
from plural.wiring.school import School, TrainOrder
from plural.wiring.settings import Settings, read_settings, shelf

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.train import Examples, Trained, TrainEvent

_MOST_EXAMPLES = 64
_MOST_TEST_ROWS = 100
_SHOTS = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """Progress of one stage of the specialist `name`: `done` in [0, 1], a short note, and a line to keep when the stage
    has a result.
    """

    stage: str
    done: float
    name: str
    note: str = ""
    result: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Lesson:
    """An order whose rows are read: `learned` are trained on, `task` is scored on, `shown` to the base as examples."""

    order: TrainOrder
    examples: Examples
    learned: Examples
    rows: tuple[Row, ...]
    task: Task
    shown: tuple[Row, ...]


def train_school(school: School) -> Iterator[Stage]:
    """Trains all specialists at once, then scores and publishes one after another. Each appears in the library whole,
    or not at all.

    Raises:
        DataError: bad rows, all of them by line number; nothing is trained.
        SpecialistError: a name is taken (without `replace`).
        StorageError: the disk is full; nothing more is published. An interrupted training goes on with `resume`.
        NumericError: at the very end, for specialists whose loss diverged; the others are published.
    """
    from plural.models.base import load_base
    from plural.train import Course, Trained, train

    settings = read_settings(base=school.base, library=school.library)
    for order in school.orders:
        _check_name_is_free(order, school, settings)
    lessons = _read_lessons(school.orders)
    work = settings.resolve(settings.cache) / "training"
    if not school.resume:
        for order in school.orders:
            shutil.rmtree(work / order.name, ignore_errors=True)
    base = load_base(settings.base, cache_dir=settings.resolve(settings.cache), device=settings.device)
    courses = [Course(one.order.name, one.learned, one.order.settings, one.order.instructions) for one in lessons]
    trained: dict[str, Trained] = {}
    diverged: NumericError | None = None
    try:
        for event in train(base, courses, work, school.passes, resume=school.resume):
            yield _stage(event)
            if isinstance(event, Trained):
                trained[event.name] = event
    except NumericError as error:
        diverged = error
    for lesson in lessons:
        if lesson.order.name in trained:
            card = _card(lesson, trained[lesson.order.name], base, school.command)
            yield from _score_and_publish(lesson, school, settings, card, trained[card.name].path)
            shutil.rmtree(work / card.name, ignore_errors=True)
    if diverged is not None:
        raise diverged


def _read_lessons(orders: Sequence[TrainOrder]) -> list[_Lesson]:
    """Raises DataError for all files that have bad rows."""
    lessons: list[_Lesson] = []
    bad: list[DataError] = []
    for order in orders:
        try:
            lessons.append(_lesson(order))
        except DataError as error:
            bad.append(error)
    if len(bad) > 1:
        problems = [(number, f"{what} ({error.source})") for error in bad for number, what in error.problems]
        raise DataError(f"{len(bad)} files", problems)
    if bad:
        raise bad[0]
    return lessons


def _lesson(order: TrainOrder) -> _Lesson:
    from plural.train import read_examples

    examples = read_examples(order.data)
    rows = Task.read(order.data, order.checker).rows
    task = _test_rows(order, rows)
    tested = {row.messages for row in task.rows}
    kept = tuple(example for example, row in zip(examples.rows, rows, strict=True) if row.messages not in tested)
    shown = tuple(row for row in rows if row.messages not in tested)[:_SHOTS]
    return _Lesson(order, examples, replace(examples, rows=kept), rows, task, shown)


def _card(lesson: _Lesson, trained: Trained, base: Base, command: str) -> Card:
    """The card, without scores."""
    order = lesson.order
    return Card(
        name=order.name,
        digest=adapter_digest(trained.path),
        base=base.digest,
        base_name=base.name,
        purpose=order.purpose,
        instructions=order.instructions,
        kind=order.kind,
        output=order.output,
        tools=order.tools,
        invocation=read_invocation(trained.path),
        examples=_examples(order, lesson.rows),
        lineage=Lineage(
            data_sha256=lesson.examples.sha256,
            rows=len(lesson.learned.rows),
            command=command or shlex.join(["plural", *sys.argv[1:]]),
            seed=order.settings.seed,
            settings=dict(trained.settings),
            seconds=round(trained.seconds, 1),
        ),
        licence=order.licence,
    )


def _score_and_publish(
    lesson: _Lesson, school: School, settings: Settings, card: Card, staged: Path
) -> Iterator[Stage]:
    """Base (at its best of two prompts) and specialist answer the held-out rows through the engine, side by side."""
    task, shown = lesson.task, lesson.shown
    (staged / CARD_FILE).write_text(card.to_json())
    with Network.open(**settings.model_dump() | {"library": staged.parent, "starter": False}) as network:
        base = ChatAnswerer(network.model(None, card.instructions))
        specialist = ChatAnswerer(network.model(Specialist(staged, card)))
        zero = yield from _scored(card.name, "scoring the base", task, base)
        few = yield from _scored(card.name, f"scoring the base, {len(shown)}-shot", task.with_examples(shown), base)
        own = yield from _scored(card.name, f"scoring {card.name}", task, specialist)
    best = few.as_score(f"{len(shown)}-shot") if few.value > zero.value else zero.as_score("zero-shot")
    scores = {"base": (best,), "specialist": (own.as_score("with its contract" if card.output else "zero-shot"),)}
    (staged / CARD_FILE).write_text(card.model_copy(update={"scores": scores}).to_json())
    published = shelf(settings).publish(staged, name=card.name, replace=school.replace)
    yield Stage("publishing", 1.0, card.name, "", f"{published.name} is in the network: {published.path}")


def _scored(name: str, stage: str, task: Task, answerer: ChatAnswerer) -> Generator[Stage, None, ScoreCard]:
    """Scores in the background and tells how far it is."""
    counts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(lambda: sync.run(score(task, answerer, progress=lambda done, _: counts.put(done))))
        scoring.add_done_callback(lambda _: counts.put(None))
        while (done := counts.get()) is not None:
            yield Stage(stage, done / len(task.rows), name, f"{done} of {len(task.rows)} rows")
        result = scoring.result()
    facts = {"value": result.value, "n": result.n}
    yield Stage(stage, 1.0, name, f"{len(task.rows)} rows", f"{name}, {stage}: {result}", facts)
    return result


def _stage(event: TrainEvent) -> Stage:
    from plural.train import Diverged, Evaluated, Stepped, Trained, TrainStarted

    facts, name = asdict(event), event.name
    match event:
        case TrainStarted():
            resumed = f", going on at step {event.step}" if event.step else ""
            note = f"{event.rows} rows, {event.holdout_rows} held out, {event.parameters:,} parameters"
            return Stage("training", 0.0, name, "", f"{name}: {note}, {event.compute}{resumed}", facts)
        case Stepped():
            note = f"step {event.step}/{event.of}  loss {event.loss:.3f}  {event.tokens_per_second:.0f} tokens/s"
            return Stage("training", event.step / event.of, name, note, "", facts)
        case Evaluated():
            best = "  (best so far)" if event.best else ""
            told = f"step {event.step}: held-out loss {event.holdout_loss:.4f}{best}"
            return Stage("evaluating", 1.0, name, told, "", facts)
        case Diverged():
            return Stage("diverged", 1.0, name, "", f"{event.message} {event.hint}", facts)
        case Trained():
            note = f"{event.steps} steps, {event.tokens:,} tokens in {event.seconds:.0f} s"
            return Stage("training", 1.0, name, note, f"{name} is trained: {note}", {**facts, "path": str(event.path)})


def _check_name_is_free(order: TrainOrder, school: School, settings: Settings) -> None:
    path = settings.resolve(settings.library) / order.name
    if path.exists() and not school.replace:
        raise SpecialistError(
            f"There is a specialist {order.name!r} in {path.parent}.", hint="Use --replace, or choose another name."
        )


def _test_rows(order: TrainOrder, rows: Sequence[Row]) -> Task:
    """The rows that are only scored on: a given file's, or a tenth of the data, whole prompts at a time."""
    if order.test is not None:
        return Task.read(order.test, order.checker, name=order.name)
    prompts = sorted({row.messages for row in rows}, key=repr)
    random.Random(order.settings.seed).shuffle(prompts)
    held = set(prompts[: max(1, min(_MOST_TEST_ROWS, len(prompts) // 10))])
    return Task(order.name, tuple(row for row in rows if row.messages in held), order.checker)


def _examples(order: TrainOrder, rows: Sequence[Row]) -> tuple[str, ...]:
    """What the router learns from: given prompts, or some of the data's, the shortest way a person says it."""
    if order.examples:
        return order.examples
    prompts = sorted({row.messages[-1].content for row in rows if row.messages[-1].role == "user"})
    random.Random(order.settings.seed).shuffle(prompts)
    return tuple(prompts[:_MOST_EXAMPLES])

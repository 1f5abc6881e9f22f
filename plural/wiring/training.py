"""From examples to specialists in the library: train all at once, score beside the base, write the cards, publish."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from plural.errors import DataError, NumericError, PluralError, SpecialistError
from plural.evals import Fingerprint, Row, Task, refuse
from plural.specialists import Card, Contract, Lineage, Specialist, adapter_digest, read_invocation
from plural.specialists.card import CARD_FILE
from plural.wiring import contracts
from plural.wiring.network import Network
from plural.wiring.publishing import promote_if_not_worse
from plural.wiring.school import School, TrainOrder
from plural.wiring.scoring import SHOTS, Exam, evaluate, write_evidence
from plural.wiring.settings import Settings, read_settings, shelf
from plural.wiring.stages import Stage, named

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.models.tokenizer import Tokenizer
    from plural.train import Examples, Trained, TrainEvent

Given = TypeVar("Given")
Made = TypeVar("Made")

_MOST_EXAMPLES = 64
_MOST_TEST_ROWS = 100


@dataclass(frozen=True)
class _Lesson:
    """An order whose rows are read: those of `learned` are trained on, again as rows in `trained_on`."""

    order: TrainOrder
    examples: Examples
    learned: Examples
    rows: tuple[Row, ...]
    trained_on: tuple[Row, ...]
    exam: Exam


def train_school(school: School, opened: Network | None = None) -> Iterator[Stage]:
    """Trains all specialists at once, then scores and publishes one after another. Each appears in the library whole,
    or not at all. `opened` is a network to train for, if there is one: its base and engine serve here, too.

    Raises:
        DataError: bad rows, rows that break a given contract, or test rows that are trained on, all of them by line
            number; nothing is trained.
        SpecialistError: a name is taken (without `replace`); or, at the very end, what is not shown to be as good as
            what it would replace.
        StorageError: the disk is full; nothing more is published. An interrupted training goes on with `resume`.
        NumericError: at the very end, for specialists whose loss diverged; the others are published.
    """
    from plural.train import Course, Trained, train

    settings = opened.settings if opened else read_settings(base=school.base, library=school.library)
    for order in school.orders:
        _check_name_is_free(order, school, settings)
    lessons = _each(_lesson, school.orders)
    base = opened.base_model if opened else _load_base(settings)
    settled = _each(lambda lesson: _settle(lesson, base.tokenizer), lessons)
    for lesson, found in zip(lessons, settled, strict=True):
        facts = {"contract": found.contract and found.contract.model_dump()}
        yield Stage("contract", 1.0, "", found.note, facts, lesson.order.name)
    work = settings.resolve(settings.cache) / "training"
    if not school.resume:
        for order in school.orders:
            shutil.rmtree(work / order.name, ignore_errors=True)
    courses = [Course(one.order.name, one.learned, one.order.settings, one.order.instructions) for one in lessons]
    trained: dict[str, Trained] = {}
    failed: list[PluralError] = []
    try:
        for event in train(base, courses, work, school.passes, resume=school.resume):
            yield _stage(event)
            if isinstance(event, Trained):
                trained[event.name] = event
    except NumericError as error:
        failed.append(error)
    for lesson, found in zip(lessons, settled, strict=True):
        if (done := trained.get(lesson.order.name)) is not None:
            card = _card(lesson, done, base, found.contract, school.command)
            yield from _score_and_publish(lesson, school, settings, card, done, failed, opened)
            shutil.rmtree(work / card.name, ignore_errors=True)
    _raise_all(failed)


def _load_base(settings: Settings) -> Base:
    from plural.models.base import load_base

    return load_base(settings.base, cache_dir=settings.resolve(settings.cache), device=settings.device)


@contextmanager
def _examined(settings: Settings, staged: Specialist, opened: Network | None) -> Iterator[Network]:
    """A network whose engine finds the adapter that is staged."""
    if opened is not None:
        with opened.library.showing(staged):
            yield opened
        return
    with Network.open(**settings.model_dump() | {"library": staged.path.parent, "starter": False}) as network:
        yield network


def _each(make: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
    """Raises DataError for all files that have bad rows."""
    made: list[Made] = []
    bad: list[DataError] = []
    for one in given:
        try:
            made.append(make(one))
        except DataError as error:
            bad.append(error)
    if len(bad) > 1:
        problems = [(number, f"{what} ({error.source})") for error in bad for number, what in error.problems]
        raise DataError(f"{len(bad)} files", problems, hint=" ".join(dict.fromkeys(error.hint for error in bad)))
    if bad:
        raise bad[0]
    return made


def _raise_all(failed: Sequence[PluralError]) -> None:
    """One error for all of them, of the first one's kind."""
    if len(failed) > 1:
        hints = dict.fromkeys(error.hint for error in failed)
        raise type(failed[0])(" ".join(error.message for error in failed), hint=" ".join(hints))
    if failed:
        raise failed[0]


def _lesson(order: TrainOrder) -> _Lesson:
    from plural.train import read_examples

    examples = read_examples(order.data)
    rows = Task.read(order.data, order.checker).rows
    task = _test_rows(order, rows)
    tested = {row.messages for row in task.rows}
    kept = tuple(example for example, row in zip(examples.rows, rows, strict=True) if row.messages not in tested)
    trained_on = tuple(row for row in rows if row.messages not in tested)
    return _Lesson(order, examples, replace(examples, rows=kept), rows, trained_on, Exam(task, trained_on[:SHOTS]))


def _settle(lesson: _Lesson, tokenizer: Tokenizer) -> contracts.Settled:
    """Raises DataError naming every row, of the data and of given test rows, that breaks a given contract."""
    order = lesson.order
    given = order.output or order.contract
    settled = contracts.settle(given, lesson.rows, lesson.trained_on, str(order.data), tokenizer)
    if settled.contract is not None and given != contracts.AUTO and order.test is not None:
        contracts.check(settled.contract, lesson.exam.task.rows, str(order.test), tokenizer)
    return settled


def _card(lesson: _Lesson, trained: Trained, base: Base, contract: Contract | None, command: str) -> Card:
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
        output=contract,
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
    lesson: _Lesson,
    school: School,
    settings: Settings,
    card: Card,
    trained: Trained,
    failed: list[PluralError],
    opened: Network | None,
) -> Iterator[Stage]:
    """Base and specialist answer the held-out rows through the engine, side by side. A specialist that replaces another
    one must pass the gate; if it does not, the library keeps it as a version, and the error is appended to `failed`."""
    staged, name = trained.path, card.name
    card = card.model_copy(update={"evidence": write_evidence(staged, lesson.exam, lesson.trained_on)})
    (staged / CARD_FILE).write_text(card.to_json())
    with _examined(settings, Specialist(staged, card), opened) as network:
        card = yield from named(name, evaluate(network, Specialist(staged, card), lesson.exam))
    (staged / CARD_FILE).write_text(card.to_json())
    if school.replace and name in shelf(settings):
        kept = shelf(settings).keep(staged, name=name)
        try:
            published = yield from named(name, promote_if_not_worse(settings, kept, opened=opened))
        except SpecialistError as error:
            failed.append(error)
            yield Stage("refused", 1.0, "", error.message, {"version": kept.card.version}, name)
            return
    else:
        published = shelf(settings).publish(staged, name=name, replace=False)
    yield Stage("publishing", 1.0, "", f"in the network: {published.path}", {"path": str(published.path)}, name)


def _stage(event: TrainEvent) -> Stage:
    from plural.train import Diverged, Evaluated, Stepped, Trained, TrainStarted

    facts, name = asdict(event), event.name
    match event:
        case TrainStarted():
            resumed = f", going on at step {event.step}" if event.step else ""
            note = f"{event.rows} rows, {event.holdout_rows} held out, {event.parameters:,} parameters"
            return Stage("training", 0.0, "", f"{note}, {event.compute}{resumed}", facts, name)
        case Stepped():
            note = f"step {event.step}/{event.of}  loss {event.loss:.3f}  {event.tokens_per_second:.0f} tokens/s"
            return Stage("training", event.step / event.of, note, "", facts, name)
        case Evaluated():
            best = "  (best so far)" if event.best else ""
            told = f"step {event.step}: held-out loss {event.holdout_loss:.4f}{best}"
            return Stage("evaluating", 1.0, told, "", facts, name)
        case Diverged():
            return Stage("diverged", 1.0, "", f"{event.message} {event.hint}", facts, name)
        case Trained():
            note = f"{event.steps} steps, {event.tokens:,} tokens in {event.seconds:.0f} s"
            return Stage("training", 1.0, note, f"trained: {note}", {**facts, "path": str(event.path)}, name)


def _check_name_is_free(order: TrainOrder, school: School, settings: Settings) -> None:
    path = settings.resolve(settings.library) / order.name
    if path.exists() and not school.replace:
        raise SpecialistError(
            f"There is a specialist {order.name!r} in {path.parent}.", hint="Use --replace, or choose another name."
        )


def _test_rows(order: TrainOrder, rows: Sequence[Row]) -> Task:
    """The rows that are only scored on: a given file's, or a tenth of the data.

    Raises DataError if a given file repeats rows of the data. Rows of the data that repeat each other stay together.
    """
    print_of_rows = Fingerprint.of(rows)
    if order.test is not None:
        task = Task.read(order.test, order.checker, name=order.name)
        refuse(print_of_rows.leaks(task.rows), str(order.test), str(order.data))
        return task
    members: dict[int, list[Row]] = {}
    for row, first in zip(rows, print_of_rows.groups(), strict=True):
        members.setdefault(first, []).append(row)
    groups = list(members.values())
    random.Random(order.settings.seed).shuffle(groups)
    wanted = max(1, min(_MOST_TEST_ROWS, len(groups) // 10))
    held: list[Row] = []
    for group in groups:
        if len(held) < wanted and len(held) + len(group) <= max(1, len(rows) // 2):
            held += group
    if not held:
        raise DataError(
            str(order.data),
            [(0, f"its {len(rows)} rows repeat each other or nearly, so that none can be held out to score on")],
            hint="Nothing was trained. Give more different rows, or rows to score on with --test.",
        )
    return Task(order.name, tuple(sorted(held, key=lambda row: row.line)), order.checker)


def _examples(order: TrainOrder, rows: Sequence[Row]) -> tuple[str, ...]:
    """What the router learns from: given prompts, or some of the data's, the shortest way a person says it."""
    if order.examples:
        return order.examples
    prompts = sorted({row.messages[-1].content for row in rows if row.messages[-1].role == "user"})
    random.Random(order.settings.seed).shuffle(prompts)
    return tuple(prompts[:_MOST_EXAMPLES])

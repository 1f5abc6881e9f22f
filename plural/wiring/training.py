"""From examples to specialists in the library: train all at once, score beside the base, write the cards, publish."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from plural.errors import DataError, NumericError, PluralError, SpecialistError
from plural.evals import Fingerprint, Row, Task, refuse
from plural.specialists import Card, Library, Lineage, Specialist, Trial, adapter_digest, read_invocation
from plural.wiring import contracts
from plural.wiring.network import Network
from plural.wiring.publishing import promote_if_not_worse
from plural.wiring.school import School, TrainOrder
from plural.wiring.scoring import SHOTS, Exam, evaluate, fingerprint, write_evidence
from plural.wiring.settings import Settings, read_settings, shelf
from plural.wiring.stages import Stage, named
from plural.wiring.told import candidate_stages, train_stage

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.models.tokenizer import Tokenizer
    from plural.train import Course, Examples, Swept, Trained

Given = TypeVar("Given")
Made = TypeVar("Made")

_MOST_EXAMPLES = 64
_MOST_TEST_ROWS = 100


@dataclass(frozen=True)
class _Lesson:
    """An order whose rows are read: those of `learned` are trained on, again as rows in `trained_on`.

    `before` are those that its parent was trained on, which may be replaced by the time that this one is published.
    """

    order: TrainOrder
    parent: Specialist | None
    before: Fingerprint | None
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
    settings = opened.settings if opened else read_settings(base=school.base, library=school.library)
    work = settings.resolve(settings.cache) / "training"
    library = shelf(settings)
    done = {order.name for order in school.orders if school.resume and _is_published(work / order.name, library)}
    for order in school.orders:
        if order.name not in done:
            _check_name_is_free(order, school, library)
    lessons = _each(lambda order: _lesson(order, _parent(order, library, done)), school.orders)
    base = opened.base_model if opened else _load_base(settings)
    settled = _each(lambda lesson: _settle(lesson, base.tokenizer), lessons)
    _check_lengths(lessons, base)
    for lesson, found in zip(lessons, settled, strict=True):
        facts = {"contract": found.contract and found.contract.model_dump()}
        yield Stage("contract", 1.0, "", found.note, facts, lesson.order.name)
        if lesson.parent is not None and lesson.before is None:
            line = f"what {lesson.order.parent} was trained on is not known: held-out rows may be among it"
            yield Stage("comparing rows", 1.0, "", line, name=lesson.order.name)
    if not school.resume:
        for order in school.orders:
            shutil.rmtree(work / order.name, ignore_errors=True)
    yield from candidate_stages(school.orders)
    failed: list[PluralError] = []
    trained, swept = yield from _train(school, lessons, base, work, failed)
    for lesson, found in zip(lessons, settled, strict=True):
        name = lesson.order.name
        if name in done:
            line = f"in the network since the training was cut off: {library.get(name).path}"
            yield Stage("publishing", 1.0, "", line, name=name)
        elif (made := trained.get(name)) is not None:
            prompts = _examples(lesson.order, lesson.rows)
            order = replace(lesson.order, output=found.contract, examples=prompts)
            parent = lesson.parent.digest if lesson.parent else None
            trials = _trials(lesson.order, swept.get(name))
            card = card_of(order, lesson.learned, made, base, school.command, parent=parent, trials=trials)
            yield from _score_and_publish(lesson, school, settings, card, made, failed, opened)
    # Only now: what lies here tells a training that is resumed which of its specialists it has published.
    for name in trained:
        shutil.rmtree(work / name, ignore_errors=True)
    raise_all(failed)


def _check_lengths(lessons: Sequence[_Lesson], base: Base) -> None:
    """Raises DataError for rows that are longer than the context, in data and in files of test rows."""
    from plural.train.rows import encode

    files = [(examples, lesson.order.instructions) for lesson in lessons for examples in _files(lesson)]
    _each(lambda file: encode(base, *file), files)


def _train(
    school: School, lessons: Sequence[_Lesson], base: Base, work: Path, failed: list[PluralError]
) -> Generator[Stage, None, tuple[dict[str, Trained], dict[str, Swept]]]:
    """What was trained, and how sweeps went, by the specialists' names."""
    from plural.train import Swept, Trained, train

    courses = [course for lesson in lessons for course in _courses(lesson, base)]
    trained: dict[str, Trained] = {}
    swept: dict[str, Swept] = {}
    try:
        for event in train(base, courses, work, school.passes, resume=school.resume):
            yield train_stage(event)
            if isinstance(event, Trained):
                trained[event.path.name] = event
            elif isinstance(event, Swept):
                swept[event.name] = event
    except NumericError as error:
        failed.append(error)
    return trained, swept


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


def raise_all(failed: Sequence[PluralError]) -> None:
    """One error for all of them, of the first one's kind."""
    if len(failed) > 1:
        hints = dict.fromkeys(error.hint for error in failed)
        raise type(failed[0])(" ".join(error.message for error in failed), hint=" ".join(hints))
    if failed:
        raise failed[0]


def _is_published(staged: Path, library: Library) -> bool:
    """Whether its name stands for what is staged, and not for an adapter that only happens to be the same."""
    try:
        mine, there = Card.read(staged), library.get(staged.name).card
    except SpecialistError:
        return False
    return (there.digest, there.created) == (mine.digest, mine.created)


def _parent(order: TrainOrder, library: Library, done: AbstractSet[str]) -> Specialist | None:
    """What it is trained further from; if this training has replaced that by now, the version that was replaced."""
    if not order.parent:
        return None
    found = library.get(order.parent)
    replaced = found.card.promotion.replaced if found.card.promotion else None
    return library.get(f"{order.parent}@{replaced}") if order.parent in done and replaced else found


def _lesson(order: TrainOrder, parent: Specialist | None) -> _Lesson:
    from plural.train import read_examples

    order = _adopted(order, parent.card) if parent else order
    examples = read_examples(order.data)
    rows = Task.read(order.data, order.checker).rows
    before = fingerprint(parent) if parent else None
    task = _test_rows(order, rows, before)
    tested = {row.asked for row in task.rows}
    kept = tuple(example for example, row in zip(examples.rows, rows, strict=True) if row.asked not in tested)
    trained_on = tuple(row for row in rows if row.asked not in tested)
    learned, exam = replace(examples, rows=kept), Exam(task, trained_on[:SHOTS])
    return _Lesson(order, parent, before, examples, learned, rows, trained_on, exam)


def _files(lesson: _Lesson) -> Iterator[Examples]:
    """What is read after the specialist's instructions: the data, and test rows of a file of their own."""
    from plural.train import Example, Examples

    yield lesson.examples
    if lesson.order.test is not None:
        rows = tuple(Example(row.line, row.answered(), row.tools) for row in lesson.exam.task.rows)
        yield Examples(lesson.order.test, "", rows, 0)


def _adopted(order: TrainOrder, card: Card) -> TrainOrder:
    """What is not said of a specialist that is trained further is as on the card of the one it comes from."""
    free = order.contract == contracts.AUTO and order.output is None
    return replace(
        order,
        purpose=order.purpose or card.purpose,
        instructions=order.instructions or card.instructions,
        tools=order.tools or card.tools,
        examples=order.examples or card.examples,
        kind=card.kind,
        licence=card.licence if order.licence == "unspecified" else order.licence,
        output=card.output if free else order.output,
        contract=contracts.NONE if free else order.contract,
    )


def _courses(lesson: _Lesson, base: Base) -> list[Course]:
    """One, or the candidates of the sweep."""
    from plural.train import Course

    order = lesson.order
    course = Course(
        order.name,
        lesson.learned,
        order.settings,
        order.instructions,
        start=lesson.parent.load(base.shape) if lesson.parent else None,
    )
    if not order.candidates:
        return [course]
    return [replace(course, name=one.name, settings=one.settings, sweep=order.name) for one in order.candidates]


def _trials(order: TrainOrder, swept: Swept | None) -> tuple[Trial, ...]:
    varied = {one.name: dict(one.varied) for one in order.candidates}
    tried = swept.tried if swept else ()
    return tuple(Trial(settings=varied[one.name], steps=one.steps, loss=one.loss) for one in tried)


def _settle(lesson: _Lesson, tokenizer: Tokenizer) -> contracts.Settled:
    """Raises DataError naming every row, of the data and of given test rows, that breaks a given contract."""
    order = lesson.order
    given = order.output or order.contract
    settled = contracts.settle(given, lesson.rows, lesson.trained_on, str(order.data), tokenizer)
    if settled.contract is not None and given != contracts.AUTO and order.test is not None:
        contracts.check(settled.contract, lesson.exam.task.rows, str(order.test), tokenizer)
    return settled


def card_of(
    order: TrainOrder,
    learned: Examples,
    trained: Trained,
    base: Base,
    command: str = "",
    *,
    parent: str | None = None,
    trials: tuple[Trial, ...] = (),
) -> Card:
    """The card, without scores; `order` says what its contract and the router's examples are."""
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
        examples=order.examples,
        lineage=Lineage(
            data_sha256=learned.sha256,
            rows=len(learned.rows),
            command=command or shlex.join(["plural", *sys.argv[1:]]),
            seed=order.settings.seed,
            settings=dict(trained.settings),
            seconds=round(trained.seconds, 1),
            parent=parent,
            sweep=trials,
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
    evidence = write_evidence(staged, lesson.exam, lesson.trained_on, lesson.before)
    card = card.model_copy(update={"evidence": evidence})
    card.write(staged)
    with _examined(settings, Specialist(staged, card), opened) as network:
        card = yield from named(name, evaluate(network, Specialist(staged, card), lesson.exam))
    card.write(staged)
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


def _check_name_is_free(order: TrainOrder, school: School, library: Library) -> None:
    if library.owns(order.name) and not school.replace:
        raise SpecialistError(
            f"There is a specialist {order.name!r} in {library.where}.", hint="Use --replace, or choose another name."
        )


def _test_rows(order: TrainOrder, rows: Sequence[Row], known: Fingerprint | None) -> Task:
    """The rows that are only scored on: a given file's, or a tenth of the data.

    Raises DataError if a given file repeats rows of the data, or those `known` that its parent was trained on. Rows of
    the data that repeat each other stay together.
    """
    if order.test is not None:
        task = Task.read(order.test, order.checker, name=order.name)
        refuse(Fingerprint.of(rows).leaks(task.rows), str(order.test), str(order.data))
        refuse(known.leaks(task.rows) if known else (), str(order.test), f"what {order.parent} was trained on")
        return task
    held = hold_out(rows, order.settings.seed, {leak.line for leak in known.leaks(rows)} if known else set())
    if not held:
        theirs = f", or what {order.parent} was trained on" if known else ""
        problem = f"its {len(rows)} rows repeat each other or nearly{theirs}, so that none can be held out to score on"
        hint = "Nothing was trained. Give more different rows, or rows to score on with --test."
        raise DataError(str(order.data), [(0, problem)], hint=hint)
    return Task(order.name, held, order.checker)


def hold_out(rows: Sequence[Row], seed: int, known: AbstractSet[int]) -> tuple[Row, ...]:
    """A tenth of the rows, drawn by the seed, those that repeat each other together, and none of the lines `known`."""
    members: dict[int, list[Row]] = {}
    for row, first in zip(rows, Fingerprint.of(rows).groups(), strict=True):
        members.setdefault(first, []).append(row)
    groups = [group for group in members.values() if known.isdisjoint(row.line for row in group)]
    random.Random(seed).shuffle(groups)
    wanted = max(1, min(_MOST_TEST_ROWS, len(members) // 10))
    held: list[Row] = []
    for group in groups:
        if len(held) < wanted and len(held) + len(group) <= max(1, len(rows) // 2):
            held += group
    return tuple(sorted(held, key=lambda row: row.line))


def _examples(order: TrainOrder, rows: Sequence[Row]) -> tuple[str, ...]:
    """What the router learns from: given prompts, or some of the data's, the shortest way a person says it."""
    if order.examples:
        return order.examples
    prompts = sorted({row.messages[-1].content for row in rows if row.messages[-1].role == "user"})
    random.Random(order.settings.seed).shuffle(prompts)
    return tuple(prompts[:_MOST_EXAMPLES])

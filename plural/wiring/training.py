"""From a file of examples to a specialist in the library: train, score beside the base, write the card, publish."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plural.errors import DataError, SpecialistError
from plural.evals import Fingerprint, Row, Task, refuse
from plural.specialists import Card, Contract, Lineage, Specialist, adapter_digest, check_name, read_invocation
from plural.specialists.card import CARD_FILE
from plural.wiring import contracts
from plural.wiring.network import Network
from plural.wiring.publishing import promote_if_not_worse
from plural.wiring.scoring import SHOTS, Exam, evaluate, write_evidence
from plural.wiring.settings import Settings, read_settings, shelf
from plural.wiring.stages import Stage

if TYPE_CHECKING:
    from plural.train import TrainEvent

_MOST_EXAMPLES = 64
_MOST_TEST_ROWS = 100


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """What is to be trained, and what its card will say. `None` leaves a setting at the trainer's default.

    Without `test`, a tenth of the rows (at most 100) is kept out of training and scored on. `contract` is "auto" (learn
    one from the answers), "none", or the file of one; `output`, a contract itself, goes before it.
    """

    data: Path
    name: str
    purpose: str = ""
    instructions: str = ""
    test: Path | None = None
    checker: str = "exact"
    contract: str = contracts.AUTO
    output: Contract | None = None
    tools: tuple[str, ...] = ()
    kind: Literal["skill", "planner"] = "skill"
    examples: tuple[str, ...] = ()
    rank: int | None = None
    activated: bool = False
    learning_rate: float | None = None
    epochs: float | None = None
    seed: int = 0
    compute: str = "auto"
    licence: str = "unspecified"
    command: str = ""
    replace: bool = False
    resume: bool = False
    base: Path | None = None
    library: Path | None = None


def train_specialist(order: TrainOrder) -> Iterator[Stage]:
    """Carries out an order. The specialist appears in the library at the very end, whole, or not at all.

    Raises:
        DataError: bad rows, all of them by line number; nothing is trained.
        SpecialistError: the name is taken (without `replace`) or cannot be a name.
        StorageError: the disk is full; nothing is published. An interrupted training goes on with `resume`.
    """
    from plural.models.base import load_base
    from plural.train import Trained, TrainSettings, read_examples, train

    settings = read_settings(base=order.base, library=order.library)
    _check_name_is_free(order, settings)
    chosen = TrainSettings.of(
        rank=order.rank,
        activated=order.activated,
        learning_rate=order.learning_rate,
        epochs=order.epochs,
        seed=order.seed,
        compute=order.compute,
    )
    examples = read_examples(order.data)
    rows = Task.read(order.data, order.checker).rows
    task = _test_rows(order, rows)
    tested = {row.messages for row in task.rows}
    kept = tuple(example for example, row in zip(examples.rows, rows, strict=True) if row.messages not in tested)
    trained_on = [row for row in rows if row.messages not in tested]
    work = settings.resolve(settings.cache) / "training" / order.name
    if not order.resume:
        shutil.rmtree(work, ignore_errors=True)
    base = load_base(settings.base, cache_dir=settings.resolve(settings.cache), device=settings.device)
    given = order.output or order.contract
    settled = contracts.settle(given, rows, trained_on, str(order.data), base.tokenizer)
    if settled.contract is not None and given != contracts.AUTO and order.test is not None:
        contracts.check(settled.contract, task.rows, str(order.test), base.tokenizer)
    yield Stage("contract", 1.0, "", settled.note, {"contract": settled.contract and settled.contract.model_dump()})
    trained: Trained | None = None
    learned = replace(examples, rows=kept)
    for event in train(base, learned, chosen, work / order.name, instructions=order.instructions, resume=order.resume):
        yield _stage(event)
        if isinstance(event, Trained):
            trained = event
    assert trained is not None  # what every training ends with, or it raises
    lineage = Lineage(
        data_sha256=examples.sha256,
        rows=len(kept),
        command=order.command or shlex.join(["plural", *sys.argv[1:]]),
        seed=order.seed,
        settings=dict(trained.settings),
        seconds=round(trained.seconds, 1),
    )
    card = Card(
        name=order.name,
        digest=adapter_digest(trained.path),
        base=base.digest,
        base_name=base.name,
        purpose=order.purpose,
        instructions=order.instructions,
        kind=order.kind,
        output=settled.contract,
        tools=order.tools,
        invocation=read_invocation(trained.path),
        examples=_examples(order, rows),
        lineage=lineage,
        licence=order.licence,
    )
    exam = Exam(task, tuple(row for row in rows if row.messages not in tested)[:SHOTS])
    yield from _score_and_publish(order, settings, card, trained.path, exam, trained_on)
    shutil.rmtree(work, ignore_errors=True)


def _score_and_publish(
    order: TrainOrder, settings: Settings, card: Card, staged: Path, exam: Exam, trained_on: Sequence[Row]
) -> Iterator[Stage]:
    """Base and specialist answer the held-out rows through the engine, side by side. A specialist that replaces another
    one must pass the gate."""
    card = card.model_copy(update={"evidence": write_evidence(staged, exam, trained_on)})
    (staged / CARD_FILE).write_text(card.to_json())
    with Network.open(**settings.model_dump() | {"library": staged.parent, "starter": False}) as network:
        card = yield from evaluate(network, Specialist(staged, card), exam)
    (staged / CARD_FILE).write_text(card.to_json())
    if order.replace and order.name in shelf(settings):
        published = yield from promote_if_not_worse(settings, shelf(settings).keep(staged, name=order.name))
    else:
        published = shelf(settings).publish(staged, name=order.name, replace=False)
    yield Stage("publishing", 1.0, "", f"{published.name} is in the network: {published.path}")


def _stage(event: TrainEvent) -> Stage:
    from plural.train import Evaluated, Stepped, Trained, TrainStarted

    facts = asdict(event)
    match event:
        case TrainStarted():
            resumed = f", going on at step {event.step}" if event.step else ""
            note = f"{event.rows} rows, {event.holdout_rows} held out, {event.parameters:,} parameters"
            return Stage("training", 0.0, "", f"{note}, {event.compute}{resumed}", facts)
        case Stepped():
            note = f"step {event.step}/{event.of}  loss {event.loss:.3f}  {event.tokens_per_second:.0f} tokens/s"
            return Stage("training", event.step / event.of, note, "", facts)
        case Evaluated():
            best = "  (best so far)" if event.best else ""
            return Stage(
                "evaluating", 1.0, "", f"step {event.step}: held-out loss {event.holdout_loss:.4f}{best}", facts
            )
        case Trained():
            note = f"{event.steps} steps, {event.tokens:,} tokens in {event.seconds:.0f} s"
            return Stage("training", 1.0, note, f"trained: {note}", {**facts, "path": str(event.path)})


def _check_name_is_free(order: TrainOrder, settings: Settings) -> None:
    check_name(order.name)
    path = settings.resolve(settings.library) / order.name
    if path.exists() and not order.replace:
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
    random.Random(order.seed).shuffle(groups)
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
    random.Random(order.seed).shuffle(prompts)
    return tuple(prompts[:_MOST_EXAMPLES])

"""Expert iteration: a specialist answers, a check keeps what is right, the specialist learns from that, and again.

This is rejection sampling as STaR (arXiv 2203.14465) and ReST-EM (arXiv 2312.06585) have it: where nobody has written
answers, but right ones can be told from wrong ones, what is right by chance becomes what is said by habit.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plural.errors import DataError, SettingsError, SpecialistError
from plural.evals import (
    CHECKERS,
    ChatAnswerer,
    Exercises,
    Fingerprint,
    Row,
    ScoreCard,
    Task,
    read_contract,
    read_exercises,
    refuse,
    to_langchain,
)
from plural.specialists import Card, Contract, Evidence, Lineage, Specialist, adapter_digest, read_invocation
from plural.specialists.peft_files import store
from plural.wiring.network import Network
from plural.wiring.publishing import promote_if_not_worse
from plural.wiring.scoring import SHOTS, Exam, evaluate, fingerprint, own_exam, write_evidence
from plural.wiring.settings import read_settings, shelf
from plural.wiring.stages import Stage, counted, named, scored
from plural.wiring.told import train_stage
from plural.wiring.training import hold_out

if TYPE_CHECKING:
    from plural.engine.chat import ChatPlural
    from plural.train import PassSettings, Trained, TrainSettings

_MOST_EXAMPLES = 64
_AT_ONCE = 16  # prompts in the engine at once, each with all of its samples


@dataclass(frozen=True, slots=True)
class ImproveOrder:
    """Whom to improve (one of the library's, or a new one that starts from the base), on what, and by which check.

    Every prompt is answered `samples` times in each of at most `rounds` rounds; at most `keep` different right answers
    to one are learned from. Without `test`, a tenth of the prompts is kept out and only scored on.
    """

    name: str
    prompts: Path
    checker: str
    settings: TrainSettings
    passes: PassSettings
    samples: int = 8
    rounds: int = 2
    temperature: float = 1.0
    keep: int = 4
    threshold: float = 1.0
    test: Path | None = None
    purpose: str = ""
    instructions: str = ""
    contract: Path | None = None
    base: Path | None = None
    library: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("rounds", 1), ("keep", 1)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not self.temperature > 0:
            raise SettingsError(
                f"temperature is {self.temperature:g}; it must be above 0.", hint="At 0 all samples are the same."
            )
        if not 0 < self.threshold <= 1:
            raise SettingsError(f"threshold is {self.threshold:g}; it must be above 0 and at most 1.")


@dataclass(frozen=True)
class _Practice:
    """What is practised, what only shows whether that helps, and what whoever practises is like."""

    exercises: Exercises
    practised: tuple[Row, ...]
    exam: Exam
    parent: Specialist | None
    instructions: str
    output: Contract | None


@dataclass(frozen=True)
class _Round:
    """Who answers after round `number` (None: the base), how many held-out prompts right, and what that took.

    `learned` are the rows that were trained on, `seconds` and `history` of all rounds so far.
    """

    number: int
    specialist: Specialist | None
    score: ScoreCard
    learned: Path | None = None
    trained: Trained | None = None
    seconds: float = 0.0
    history: tuple[Mapping[str, Any], ...] = ()


def improve(order: ImproveOrder) -> Iterator[Stage]:
    """Carries out an order; what comes out best on held-out prompts takes over the name, if the gate lets it.

    Raises:
        DataError: bad rows, or test rows that are practised, all of them by line.
        SettingsError: an option that cannot be, or a checker that fails.
        SpecialistError: nothing got better; or the gate refuses, and the version is kept.
        NumericError: the loss diverged.
        StorageError: the disk is full; nothing was published.
    """
    settings = read_settings(base=order.base, library=order.library)
    library = shelf(settings)
    practice = _practice(order, library.get(order.name) if order.name in library else None)
    if practice.parent is not None and fingerprint(practice.parent) is None:
        line = "what it was trained on is not known: held-out prompts may be among it"
        yield Stage("comparing rows", 1.0, "", line, name=order.name)
    work = settings.resolve(settings.cache) / "improving" / order.name
    shutil.rmtree(work, ignore_errors=True)
    with Network.open(**settings.model_dump() | {"library": work, "starter": False}) as network:
        best = yield from named(order.name, _rounds(network, order, practice))
        if best.specialist is None or best.trained is None:
            raise SpecialistError(
                f"{order.name} did not get better than {best.score.value:.2f} of {best.score.n} held-out prompts.",
                hint="Nothing was published. Give more prompts, more samples, or another temperature.",
            )
        finished = yield from named(order.name, _finished(network, order, practice, best))
    kept = library.keep(finished.path, name=order.name)
    exam = practice.exam if kept.card.evidence is None else None
    promoted = yield from named(order.name, promote_if_not_worse(settings, kept, exam=exam))
    shutil.rmtree(work, ignore_errors=True)
    facts = {"path": str(promoted.path), "version": promoted.card.version}
    yield Stage("publishing", 1.0, "", f"in the network: {promoted.path}", facts, order.name)


# ---------------------------------------------------------------------------------------------------------------- rows
def _practice(order: ImproveOrder, parent: Specialist | None) -> _Practice:
    if parent is not None:
        for key in ("instructions", "contract"):
            if getattr(order, key):
                raise SettingsError(f"{key} is given, but {order.name} has its own.", hint=f"Leave out --{key}.")
    exercises = read_exercises(order.prompts, order.checker, order.threshold)
    known = fingerprint(parent) if parent else None
    if order.test is not None:
        tested = read_exercises(order.test, order.checker, order.threshold)
        refuse(Fingerprint.of(exercises.rows).leaks(tested.rows), str(order.test), str(order.prompts))
        refuse(known.leaks(tested.rows) if known else (), str(order.test), f"what {order.name} was trained on")
        practised, task = exercises.rows, tested.task(order.name, tested.rows)
    else:
        seen = {leak.line for leak in known.leaks(exercises.rows)} if known else set()
        held = hold_out(exercises.rows, order.settings.seed, seen)
        if not held:
            problem = "there is no prompt that can be held out: they repeat each other, or what it was trained on"
            raise DataError(str(order.prompts), [(0, problem)], hint="Give more prompts, or some with --test.")
        lines = {row.line for row in held}
        practised = tuple(row for row in exercises.rows if row.line not in lines)
        task = exercises.task(order.name, held)
    if parent is not None:
        instructions, output = parent.card.instructions, parent.card.output
    else:
        instructions, output = order.instructions, read_contract(order.contract) if order.contract else None
    shots = practised[:SHOTS] if order.checker in CHECKERS else ()
    return _Practice(exercises, practised, Exam(task, shots), parent, instructions, output)


# -------------------------------------------------------------------------------------------------------------- rounds
def _rounds(network: Network, order: ImproveOrder, practice: _Practice) -> Generator[Stage, None, _Round]:
    """The best round. The library of the network holds those who answer, as round-0 and so on."""
    start: Specialist | None = None
    if practice.parent is not None:
        practice.parent.load(network.base_model.shape)
        start = network.library.publish(practice.parent.path, name="round-0", replace=True)
    best = _Round(0, start, (yield from _looked(network, practice, start, 0)))
    found: dict[int, dict[str, None]] = {}
    for number in range(1, order.rounds + 1):
        if best.score.value == 1:
            return best
        for line, answers in (yield from _sampled(network, order, practice, best.specialist, number)).items():
            found.setdefault(line, {}).update(dict.fromkeys(answers))
        if len(found) < 2:
            told = f"round {number}: {len(found)} prompts were answered right; there is nothing to learn from"
            yield Stage("stopping", 1.0, "", told)
            return best
        learned = [
            replace(row, expected=answer)
            for row in practice.practised
            for answer in list(found.get(row.line, ()))[: order.keep]
        ]
        now = yield from _learned(network, order, practice, best, learned)
        if now.score.value <= best.score.value:
            told = f"round {number} is not better than round {best.number}: {now.score.value:.3f}"
            yield Stage("stopping", 1.0, "", told, {"best": best.number})
            return best
        best = now
    return best


def _looked(
    network: Network, practice: _Practice, specialist: Specialist | None, number: int
) -> Generator[Stage, None, ScoreCard]:
    """How many of the held-out prompts are answered right, as they would be when it is served."""
    answerer = ChatAnswerer(_model(network, practice, specialist))
    return (yield from scored(f"round {number}: held-out prompts", practice.exam.task, answerer))


def _model(network: Network, practice: _Practice, specialist: Specialist | None) -> ChatPlural:
    return network.model(specialist, practice.instructions, output=practice.output)


def _sampled(
    network: Network, order: ImproveOrder, practice: _Practice, specialist: Specialist | None, number: int
) -> Generator[Stage, None, dict[int, list[str]]]:
    """The right answers to each prompt, by its line."""
    model, before = _model(network, practice, specialist), network.engine.stats()
    rows = practice.practised

    async def work(tell: Callable[[int], None]) -> list[list[str]]:
        room = asyncio.Semaphore(_AT_ONCE)
        done = 0

        async def ask(row: Row) -> list[str]:
            nonlocal done
            asked = [to_langchain(message) for message in row.messages]
            seed = _seed(order.settings.seed, number, row.line)
            async with room:
                said = await model.asample(asked, order.samples, temperature=order.temperature, seed=seed)
            done += len(said)
            tell(done)
            return [answer.strip() for answer in said]

        asking = [asyncio.ensure_future(ask(row)) for row in rows]
        try:
            return list(await asyncio.gather(*asking))
        finally:
            for each in asking:
                each.cancel()

    stage, total = f"round {number}: answering", len(rows) * order.samples
    right: dict[int, list[str]] = {}
    for row, answers in zip(rows, (yield from counted(stage, total, "answers", work)), strict=True):
        found = [answer for answer in answers if answer and practice.exercises.right(row, answer)]
        if found:
            right[row.line] = found
    now, count = network.engine.stats(), sum(map(len, right.values()))
    facts = {
        "answers": total,
        "right": count,
        "prompts": len(rows),
        "solved": len(right),
        "computed": now.computed - before.computed,
        "cached": now.cached - before.cached,
    }
    line = f"round {number}: {count} of {total} answers right, to {len(right)} of {len(rows)} prompts"
    yield Stage(stage, 1.0, f"{total} answers", line, facts)
    return right


def _seed(*of: int) -> int:
    """Of the first sample. Those of other prompts and rounds are far away."""
    return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=4).digest(), "big") >> 1


def _learned(
    network: Network, order: ImproveOrder, practice: _Practice, before: _Round, rows: Sequence[Row]
) -> Generator[Stage, None, _Round]:
    """Trains whoever answered further on what was right, and looks at the result."""
    from plural.train import Course, Trained, read_examples, train

    number = before.number + 1
    path = network.library.root / f"round-{number}.jsonl"
    store(path, "".join(f"{row.to_json()}\n" for row in rows).encode())
    start = before.specialist.load(network.base_model.shape) if before.specialist else None
    course = Course(f"round-{number}", read_examples(path), order.settings, practice.instructions, start=start)
    trained: Trained | None = None
    for event in train(network.base_model, [course], network.library.root, order.passes):
        yield train_stage(event)
        if isinstance(event, Trained):
            trained = event
    assert trained is not None  # else the loss diverged, which is raised
    specialist = Specialist(trained.path, _card(network, order, practice, course.name, trained.path))
    specialist.card.write(trained.path)
    score = yield from _looked(network, practice, specialist, number)
    told = {"rows": len(rows), "held_out": score.n, "right": round(score.value, 4)}
    seconds = before.seconds + trained.seconds
    return _Round(number, specialist, score, path, trained, seconds, (*before.history, told))


# ------------------------------------------------------------------------------------------------------- what comes out
def _card(network: Network, order: ImproveOrder, practice: _Practice, name: str, folder: Path) -> Card:
    """Without scores and lineage; like the parent's, where there is one."""
    base = network.base_model
    made: dict[str, Any] = {
        "name": name,
        "digest": adapter_digest(folder),
        "base": base.digest,
        "base_name": base.name,
        "invocation": read_invocation(folder),
        "instructions": practice.instructions,
        "output": practice.output,
    }
    if practice.parent is None:
        prompts = dict.fromkeys(row.messages[-1].content for row in practice.practised)
        return Card(**made, purpose=order.purpose, examples=tuple(prompts)[:_MOST_EXAMPLES])
    card = practice.parent.card
    purpose = order.purpose or card.purpose
    like = {key: getattr(card, key) for key in ("kind", "tools", "examples", "licence")}
    return Card(**made, **like, purpose=purpose)


def _finished(
    network: Network, order: ImproveOrder, practice: _Practice, best: _Round
) -> Generator[Stage, None, Specialist]:
    """The best round's specialist with evidence, scores and lineage."""
    assert best.specialist is not None  # who asks for this has somebody who was trained
    assert best.trained is not None
    assert best.learned is not None
    specialist, parent = best.specialist, practice.parent
    learned = Task.read(best.learned).rows
    evidence, inherited = _evidence(specialist.path, order, practice, learned)
    improved = {
        "checker": order.checker,
        "samples": order.samples,
        "temperature": order.temperature,
        "rounds": [dict(one) for one in best.history],
    }
    lineage = Lineage(
        data_sha256=hashlib.sha256(best.learned.read_bytes()).hexdigest(),
        rows=len(learned),
        command=shlex.join(["plural", *sys.argv[1:]]),
        seed=order.settings.seed,
        settings={**best.trained.settings, "improved": improved},
        seconds=round(best.seconds, 1),
        parent=parent.digest if parent else None,
    )
    card = specialist.card.model_copy(update={"evidence": evidence, "lineage": lineage})
    own = evidence is not None and inherited is None
    exams = [replace(practice.exam, on="" if own else (order.test or order.prompts).name)]
    for exam in (*exams, *([inherited] if inherited else [])):
        card = yield from evaluate(network, Specialist(specialist.path, card), exam)
    card.write(specialist.path)
    return Specialist(specialist.path, card)


def _evidence(
    folder: Path, order: ImproveOrder, practice: _Practice, learned: Sequence[Row]
) -> tuple[Evidence | None, Exam | None]:
    """What it can be scored on later, and the parent's exam if that is it. A function of the user's is not kept: a card
    names no code to run.
    """
    parent = practice.parent
    if parent is not None and parent.card.evidence is not None:
        exam = own_exam(parent)
        numbered = [replace(row, line=number) for number, row in enumerate(exam.task.rows)]
        leaking = {leak.line for leak in Fingerprint.of(learned).leaks(numbered)}
        rows = tuple(row for row in numbered if row.line not in leaking)
        if rows:
            exam = replace(exam, task=replace(exam.task, rows=rows))
            return write_evidence(folder, exam, learned, fingerprint(parent)), exam
    if order.checker in CHECKERS:
        return write_evidence(folder, practice.exam, learned, fingerprint(parent) if parent else None), None
    return None, None

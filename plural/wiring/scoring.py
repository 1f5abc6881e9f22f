"""What a specialist is good for: base, specialist, and specialist under its grammar, on the same held-out rows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plural.errors import SpecialistError
from plural.evals import ChatAnswerer, Fingerprint, Row, ScoreCard, Task, refuse
from plural.specialists import Card, Evidence, Library, Specialist
from plural.specialists.card import HELDOUT_FILE, SHOTS_FILE, TRAINED_FILE
from plural.specialists.peft_files import store
from plural.types import Difference, Sampling, Score
from plural.wiring.network import Network
from plural.wiring.stages import Stage, named, scored

if TYPE_CHECKING:
    from plural.engine.chat import ChatPlural

SHOTS = 4
MOST_ROWS = 200
_LEAST_TO_SHOW = 20  # a smaller file is not asked to give some of its rows as examples


@dataclass(frozen=True, slots=True)
class Exam:
    """What is asked: the rows, those that are shown to the base, and the rows' name on the card (see `Score.on`)."""

    task: Task
    shots: tuple[Row, ...] = ()
    on: str = ""

    @property
    def calls(self) -> bool:
        """Whether every answer is a call of a tool."""
        return all(row.calls for row in self.task.rows)


# ------------------------------------------------------------------------------------------------------------ evidence
def write_evidence(
    folder: Path, exam: Exam, trained: Sequence[Row] | None, before: Fingerprint | None = None
) -> Evidence:
    """Puts what a specialist is scored on beside its card, and the fingerprint of what it was trained on, now and
    `before`, but for None.
    """
    rows = drawn(exam.task.rows, MOST_ROWS)
    written = {HELDOUT_FILE: _lines(rows)}
    if exam.shots:
        written[SHOTS_FILE] = _lines(exam.shots)
    if trained is not None:
        known = before.with_more(trained) if before else Fingerprint.of(trained)
        written[TRAINED_FILE] = known.to_bytes()
    for name, content in written.items():
        store(folder / name, content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
    return Evidence.model_validate({"checker": exam.task.checker, "rows": len(rows), "files": hashes})


def drawn(rows: tuple[Row, ...], most: int) -> tuple[Row, ...]:
    """So many of them at most, always the same ones."""
    return rows if len(rows) <= most else tuple(random.Random(0).sample(rows, most))


def own_exam(specialist: Specialist, checker: str | None = None) -> Exam:
    """The held-out rows that a specialist carries. Raises SpecialistError if it carries none, and says what to do."""
    evidence, content = specialist.card.evidence, specialist.evidence(HELDOUT_FILE)
    if evidence is None or content is None:
        lineage = specialist.card.lineage
        made = f" They come from: {lineage.command}." if lineage else ""
        raise SpecialistError(
            f"{specialist.name!r} carries no held-out rows to score it on.",
            hint=f"Give some: plural eval {specialist.name} --data FILE --checker {_metric(specialist.card)}.{made}",
        )
    return Exam(_task(specialist, HELDOUT_FILE, content, checker or evidence.checker), _shots(specialist))


def exam_from(path: Path, specialist: Specialist, checker: str | None) -> Exam:
    """Rows of a file. Without examples of the specialist's own, four of them are shown to the base and not scored.

    Raises DataError for bad rows, and for rows that the specialist was trained on, all of them by line.
    """
    evidence = specialist.card.evidence
    task = Task.read(path, checker or (evidence.checker if evidence else _metric(specialist.card)), name=path.name)
    trained = fingerprint(specialist)
    if trained is not None:
        refuse(trained.leaks(task.rows), str(path), f"the data that {specialist.name} was trained on")
    if shots := _shots(specialist):
        return Exam(task, shots, path.name)
    return Exam(*split_shots(task), path.name)


def split_shots(task: Task) -> tuple[Task, tuple[Row, ...]]:
    """Four rows are shown to the base and not asked, where there are enough."""
    if len(task.rows) < _LEAST_TO_SHOW:
        return task, ()
    return replace(task, rows=task.rows[SHOTS:]), task.rows[:SHOTS]


def fingerprint(specialist: Specialist) -> Fingerprint | None:
    """Of the rows that it was trained on; None if it carries none."""
    content = specialist.evidence(TRAINED_FILE)
    return None if content is None else Fingerprint.from_bytes(content, str(specialist.path / TRAINED_FILE))


def _shots(specialist: Specialist) -> tuple[Row, ...]:
    content = specialist.evidence(SHOTS_FILE)
    return _task(specialist, SHOTS_FILE, content, "exact").rows if content else ()


def _task(specialist: Specialist, name: str, content: bytes, checker: str) -> Task:
    return Task.parse(content.decode(), str(specialist.path / name), checker, name=specialist.name)


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(f"{row.to_json()}\n" for row in rows).encode()


def _metric(card: Card) -> str:
    return card.scores["specialist"][0].metric if card.scores.get("specialist") else "exact"


# ------------------------------------------------------------------------------------------------------------- scoring
def evaluate(network: Network, specialist: Specialist, exam: Exam) -> Generator[Stage, None, Card]:
    """The specialist's card with the scores on these rows in the place of earlier ones on the same rows."""
    card, output = specialist.card, specialist.card.output
    held = output is not None or exam.calls
    free, used = yield from _asked("scoring the specialist", network, exam, network.model(specialist, grammar=False))
    served, how = free, "zero-shot"
    own = {"free": free.as_score("zero-shot", on=exam.on, tokens=used)} if held else {}
    if held:
        stage, how = "scoring the specialist under its grammar", "with its contract" if output else "must call"
        served, used = yield from _asked(stage, network, exam, network.model(specialist), must_call=exam.calls)
    own["specialist"] = served.as_score(how, on=exam.on, tokens=used)
    base = yield from best_base(network, specialist, exam)
    differences = [served.minus(base.best, "specialist - base", on=exam.on)]
    if held:
        differences.append(served.minus(free, "grammar - free", on=exam.on))
    return _with_scores(card, exam.on, {"base": base.scores, **{who: (one,) for who, one in own.items()}}, differences)


@dataclass(frozen=True, slots=True)
class BaseScores:
    """The base's best card, and all of its scores, the best one first."""

    best: ScoreCard
    scores: tuple[Score, ...]


def best_base(network: Network, specialist: Specialist, exam: Exam) -> Generator[Stage, None, BaseScores]:
    """The base at its best: asked without and with examples (where there are some that fit into the context and have no
    other tools than the rows), told what the specialist is told or, if that is nothing, what it is for; then the better
    of the two once more under the specialist's grammar. Where every answer is a call, it must call.

    The best is chosen on the rows themselves, to the base's advantage.
    """
    card = specialist.card
    told = card.instructions or card.purpose
    ways = {"zero-shot": exam}
    if can_show(exam.shots, exam.task.rows):
        few = replace(exam, task=exam.task.with_examples(exam.shots))
        prompts = (network.base_model.chat.encode(row.messages, row.tools, instructions=told) for row in few.task.rows)
        if max(map(len, prompts)) + _limit(network, exam) <= network.base_model.context:
            ways[f"{len(exam.shots)}-shot"] = few
    tried: list[tuple[ScoreCard, Score]] = []
    for way, asked in ways.items():
        model = network.model(None, told)
        found, tokens = yield from _asked(f"scoring the base, {way}", network, asked, model, must_call=exam.calls)
        tried.append((found, found.as_score(way, on=exam.on, tokens=tokens)))
    if card.output is not None:
        _, better = max(tried, key=lambda one: one[0].value)
        model = network.model(None, told, output=card.output)
        way = f"{better.by}, grammar"
        found, tokens = yield from _asked(f"scoring the base, {way}", network, ways[better.by], model)
        tried.append((found, found.as_score(way, on=exam.on, tokens=tokens)))
    tried.sort(key=lambda one: -one[0].value)
    best = tried[0][0]
    rows = zip(best.results, exam.task.rows, strict=True)
    best = replace(best, results=tuple(replace(result, row=row) for result, row in rows))  # without the examples
    return BaseScores(best, tuple(score for _, score in tried))


def can_show(shots: Sequence[Row], rows: Sequence[Row]) -> bool:
    """Whether there are examples, and whoever is asked has the tools that they call."""
    return bool(shots) and all(tool in row.tools for row in rows for shot in shots for tool in shot.tools)


def _asked(
    stage: str, network: Network, exam: Exam, model: ChatPlural, *, must_call: bool = False
) -> Generator[Stage, None, tuple[ScoreCard, int]]:
    """The scores and the number of new tokens. An answer much longer than any that is expected is cut off."""
    limited = model.model_copy(update={"sampling": Sampling(max_tokens=_limit(network, exam))})
    answerer = ChatAnswerer(limited, tool_choice="required" if must_call else "auto")
    found = yield from scored(stage, exam.task, answerer)
    return found, answerer.usage.completion


def _limit(network: Network, exam: Exam) -> int:
    """New tokens of an answer at most."""
    if exam.task.judge is not None:  # it knows no answer whose length would say anything
        return network.settings.max_tokens
    longest = max(len(network.base_model.tokenizer.encode(row.expected)) for row in exam.task.rows)
    return min(network.settings.max_tokens, 2 * longest + 16)


def _with_scores(card: Card, on: str, scores: dict[str, tuple[Score, ...]], differences: Sequence[Difference]) -> Card:
    """Scores on the held-out rows that it carries stand first."""
    merged: dict[str, tuple[Score, ...]] = {}
    for who in ("base", "specialist", "free"):
        others = tuple(score for score in card.scores.get(who, ()) if score.on != on)
        mine = scores.get(who, ())
        found = (*others, *mine) if on else (*mine, *others)
        if found:
            merged[who] = found
    kept = tuple(one for one in card.differences if one.on != on)
    ordered = (*kept, *differences) if on else (*differences, *kept)
    return card.model_copy(update={"scores": merged, "differences": ordered})


# ---------------------------------------------------------------------------------------------------------- the command
@dataclass(frozen=True, slots=True)
class EvalOrder:
    """Whom to score, "all" for everybody who carries held-out rows, and on what if not on those."""

    name: str
    data: Path | None = None
    checker: str | None = None
    rows: int | None = None
    base: Path | None = None
    library: Path | None = None


def evaluate_order(order: EvalOrder, done: list[Card]) -> Iterator[Stage]:
    """Scores each, writes its card and appends it to `done`. Cards of the starter library, which is only read, are not.

    Raises SpecialistError and DataError before anything is scored.
    """
    with Network.open(base=order.base, library=order.library) as network:
        exams = list(_exams(order, network))
        for specialist, exam in exams:
            if exam.on and fingerprint(specialist) is None:
                line = f"what it was trained on is not known: {exam.on} may overlap it"
                yield Stage("comparing rows", 1.0, "", line, name=specialist.name)
            card = yield from named(specialist.name, evaluate(network, specialist, exam))
            yield _write(network.library, specialist, card)
            done.append(card)


def _exams(order: EvalOrder, network: Network) -> Iterator[tuple[Specialist, Exam]]:
    if order.name == "all":
        if order.data is not None:
            raise SpecialistError("--data holds one specialist's rows.", hint="Name the specialist instead of all.")
        chosen = [one for one in network.mine() if one.card.evidence is not None]
        if not chosen:
            raise SpecialistError(
                f"None of the specialists in {network.library.root} carries held-out rows.",
                hint="plural eval NAME --data FILE scores one on rows of yours.",
            )
    else:
        chosen = [network.library.get(order.name)]
    for specialist in chosen:
        specialist.load(network.base_model.shape)
        exam = (
            own_exam(specialist, order.checker)
            if order.data is None
            else exam_from(order.data, specialist, order.checker)
        )
        yield specialist, replace(exam, task=replace(exam.task, rows=exam.task.rows[: order.rows]))


def _write(library: Library, specialist: Specialist, card: Card) -> Stage:
    try:
        library.amend(specialist, card)
    except SpecialistError as error:
        return Stage("writing the card", 1.0, "", f"not written: {error.message}", name=specialist.name)
    return Stage("writing the card", 1.0, "", "the scores are on its card", name=specialist.name)

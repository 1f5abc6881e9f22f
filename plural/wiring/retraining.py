"""A library from nothing, as `plural school` makes it: a recipe's data, one training of all skills, scores, cards."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plural.errors import NumericError, PluralError
from plural.evals import ChatAnswerer, Fingerprint, Row, ScoreCard, Task, interval, refuse
from plural.specialists import Card, Library, Specialist
from plural.specialists.card import CARD_FILE
from plural.specialists.peft_files import store
from plural.types import Difference, Sampling, Score
from plural.wiring import report
from plural.wiring.network import Network
from plural.wiring.recipe import Recipe, Skill, to_first_answer
from plural.wiring.school import TrainOrder
from plural.wiring.scoring import SHOTS, Exam, can_show, drawn, write_evidence
from plural.wiring.settings import read_settings
from plural.wiring.stages import Stage, named, scored
from plural.wiring.told import train_stage
from plural.wiring.training import card_of, raise_all

if TYPE_CHECKING:
    from plural.models.base import Base
    from plural.train import Examples, PassSettings, Trained

# Rows that the base is asked: it answers each in several ways, and slowly.
BASE_ROWS = 100
# Held-out rows that a specialist carries, and those with tools, which are long: a library is to stay small.
CARRIED, CARRIED_WITH_TOOLS = 40, 20
TWIN = "-activated"
GRAMMAR = "grammar - free"
# An activated adapter is taken where it is at most so much worse than the plain one.
POINT = 0.01


@dataclass(frozen=True, slots=True)
class Retraining:
    """`skills` of `recipe` become the library in `out`. `work` keeps data, adapters and checkpoints.

    `rows` are scored on at most. None of `max_steps` and `activated` means what the recipe says of each skill. With
    `twins` each skill is trained twice, plain and activated, and the activated one is published where it is no more
    than a point worse. `left_out` is only said: skills whose rows cannot be made here. `resume` goes on with what lies
    in `work`.
    """

    recipe: Recipe
    skills: tuple[Skill, ...]
    out: Path
    work: Path
    passes: PassSettings
    form: str | None = None
    left_out: tuple[str, ...] = ()
    rows: int | None = None
    max_steps: int | None = None
    activated: bool | None = None
    twins: bool = False
    resume: bool = False
    base: Path | None = None
    device: str | None = None

    @property
    def adapters(self) -> Path:
        """Where adapters lie until they are published."""
        return self.work / "adapters"

    @property
    def names(self) -> list[str]:
        """Of all that are trained, before they are published."""
        ends = ("", TWIN) if self.twins else ("",)
        return [skill.name + end for skill in self.skills for end in ends]

    def command(self, skill: Skill, *, activated: bool) -> str:
        """What makes this one skill again."""
        said = f" --form {self.form}" if self.form else ""
        said += f" --max-steps {self.max_steps}" if self.max_steps else ""
        return f"plural school {skill.name}{said}{' --activated' if activated else ''}"


@dataclass(frozen=True)
class Lesson:
    """A skill with its data: the rows that are learned from, as the recipe gives them and as training reads them, the
    rows of every test, the skill's own first, and what is shown to the base."""

    skill: Skill
    rows: Sequence[Mapping[str, Any]]
    examples: Examples
    tests: Mapping[str, Task]
    shown: tuple[Row, ...]


@dataclass
class Times:
    """Seconds of each stage, in the order in which they came."""

    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage, what] = time.monotonic() - began


# ---------------------------------------------------------------------------------------------------------- the command
def retrain(order: Retraining) -> Iterator[Stage]:
    """Trains all skills at once, then scores and publishes one after another, and writes the table of all in `out`.

    Raises:
        DataError: a test row repeats a training row; nothing is trained.
        NumericError: at the very end, for skills whose loss diverged; the others are published.
        StorageError: the disk is full. `resume` goes on from there.
    """
    from plural.models.base import load_base

    times = Times()
    lessons = yield from prepared(order, times)
    settings = read_settings(base=order.base, device=order.device)
    base = load_base(settings.base, cache_dir=settings.resolve(settings.cache), device=settings.device)
    orders = {lesson.skill.name: _orders(order, lesson) for lesson in lessons}
    failed: list[PluralError] = []
    everybody = [(one, lesson.examples) for lesson in lessons for one in orders[lesson.skill.name]]
    trained = yield from train_all(order, everybody, base, failed)
    times.seconds["training", "all at once"] = max((one.seconds for one in trained.values()), default=0.0)
    store(order.out / "general.txt", ("\n".join(order.recipe.general) + "\n").encode())
    opened = settings.model_dump() | {"library": order.adapters, "starter": False}
    with Network.open(**opened) as network:
        for lesson in lessons:
            done = [(one, trained[one.name]) for one in orders[lesson.skill.name] if one.name in trained]
            if not done:
                continue
            with times.of("scoring", lesson.skill.name):
                cards = yield from _graded(order, network, lesson, done)
            yield _published(order, lesson.skill, cards)
    path = store(order.out / report.FILE, report.page(list(Library(order.out)), times.seconds).encode())
    yield Stage("table", 1.0, "", f"the table is in {path}", {"path": str(path)})
    raise_all(failed)


def add_evidence(order: Retraining) -> Iterator[Stage]:
    """Lets every specialist of `order.skills` that lies in `order.out` carry held-out rows, as `retrain` would, and
    scores it on them. Adapters and other scores stay as they are.

    Raises what `retrain` raises, and SpecialistError for a skill that is not there.
    """
    library = Library(order.out)
    chosen = [library.get(skill.name) for skill in order.skills]
    lessons = yield from prepared(order, Times())
    settings = read_settings(base=order.base, device=order.device)
    with Network.open(**settings.model_dump() | {"library": order.out, "starter": False}) as network:
        for lesson, specialist in zip(lessons, chosen, strict=True):
            specialist.load(network.base_model.shape)
            lineage = specialist.card.lineage
            if lineage is None or lineage.data_sha256 != lesson.examples.sha256:
                line = "the recipe makes other rows now than those that it was trained on"
                yield Stage("comparing rows", 1.0, "", line, name=lesson.skill.name)
            card = yield from named(lesson.skill.name, _with_evidence(network, lesson, specialist))
            card.write(specialist.path)


def prepared(order: Retraining, times: Times) -> Generator[Stage, None, list[Lesson]]:
    """The data of every skill, written as training reads it. Raises DataError for a test that repeats training rows."""
    lessons = []
    if order.left_out:
        needed = ", ".join(sorted({order.recipe.skills[name].needs for name in order.left_out}))
        yield Stage("data", 1.0, "", f"left out, because there is no {needed}: {', '.join(order.left_out)}")
    for skill in order.skills:
        yield Stage("data", 0.0, name=skill.name)
        with times.of("data", skill.name):
            lessons.append(_lesson(skill, order.work / "data"))
        yield Stage("data", 1.0, f"{len(lessons[-1].examples.rows)} rows", name=skill.name)
    return lessons


def _lesson(skill: Skill, folder: Path) -> Lesson:
    from plural.train import read_examples

    made = skill.train_rows()
    path = write_rows(folder / f"{skill.name}.jsonl", made)
    given = {skill.name: skill.test_rows, **skill.more_tests}
    tests = {name: Task.of(name, rows(), skill.checker) for name, rows in given.items()}
    trained = Task.of(skill.name, [to_first_answer(row) for row in made]).rows
    known = Fingerprint.of(trained)
    for name, task in tests.items():
        refuse(known.leaks(task.rows), f"the test {name}", str(path))
    shown = trained[:SHOTS] if can_show(trained[:SHOTS], tests[skill.name].rows) else ()
    return Lesson(skill, made, read_examples(path), tests, shown)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Raises StorageError."""
    return store(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


# ------------------------------------------------------------------------------------------------------------- training
def _orders(order: Retraining, lesson: Lesson) -> list[TrainOrder]:
    from plural.train import TrainSettings

    skill, examples = lesson.skill, tuple(lesson.skill.examples())
    kinds = {"": False, TWIN: True} if order.twins else {"": order.activated}
    return [
        TrainOrder(
            data=lesson.examples.source,
            name=skill.name + end,
            settings=TrainSettings.of(**skill.settings | said(max_steps=order.max_steps, activated=activated)),
            purpose=skill.purpose,
            instructions=skill.instructions,
            checker=skill.checker,
            output=skill.output,
            tools=skill.tools,
            kind=skill.kind,
            examples=examples,
            licence=skill.licence,
        )
        for end, activated in kinds.items()
    ]


def said(**given: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in given.items() if value is not None}


def train_all(
    order: Retraining, everybody: Sequence[tuple[TrainOrder, Examples]], base: Base, failed: list[PluralError]
) -> Generator[Stage, None, dict[str, Trained]]:
    """One training of all; those whose loss diverged are missing in what it returns, and their error is in `failed`."""
    from plural.train import Course, Trained, train

    if not order.resume:
        for one, _ in everybody:
            shutil.rmtree(order.adapters / one.name, ignore_errors=True)
    courses = [Course(one.name, learned, one.settings, one.instructions) for one, learned in everybody]
    trained: dict[str, Trained] = {}
    cards = {one.name: (one, learned) for one, learned in everybody}
    try:
        for event in train(base, courses, order.adapters, order.passes, resume=order.resume):
            yield train_stage(event)
            if isinstance(event, Trained):
                trained[event.name] = event
                _describe(order, *cards[event.name], event, base)
    except NumericError as error:
        failed.append(error)
    return trained


def _describe(order: Retraining, one: TrainOrder, learned: Examples, trained: Trained, base: Base) -> None:
    """Puts a card beside the adapter, with the scores of an earlier run if there was one."""
    skill = next((skill for skill in order.skills if one.name.removesuffix(TWIN) == skill.name), None)
    command = order.command(skill, activated=one.settings.activated) if skill else ""
    card = card_of(one, learned, trained, base, command)
    before = Card.read(trained.path) if (trained.path / CARD_FILE).exists() else card
    if (before.digest, before.output) == (card.digest, card.output):
        kept = {key: getattr(before, key) for key in ("scores", "differences", "evidence")}
        card = card.model_copy(update=kept)
    card.write(trained.path)


# -------------------------------------------------------------------------------------------------------------- scoring
def answerer(network: Network, skill: Skill, specialist: Specialist | None, *, grammar: bool = True) -> ChatAnswerer:
    """A specialist under its contract, where there are tools bound to call one; or the base, told in its own words what
    is wanted, in the same way. Without `grammar` it may say what it likes.
    """
    model = network.model(specialist, skill.asked_of_base, output=skill.output, grammar=grammar)
    limited = model.model_copy(update={"sampling": Sampling(max_tokens=skill.max_tokens)})
    return ChatAnswerer(limited, tool_choice="required" if grammar else "auto")


def _graded(
    order: Retraining, network: Network, lesson: Lesson, done: Sequence[tuple[TrainOrder, Trained]]
) -> Generator[Stage, None, dict[str, Card]]:
    """The cards with every figure: of each test the base's best, and what each of the skill's adapters scores."""
    cards = {one.name: Card.read(trained.path) for one, trained in done}
    tests = {name: replace(task, rows=task.rows[: order.rows]) for name, task in lesson.tests.items()}
    if all(_is_graded(card, lesson.skill, tests, twins=len(done) > 1) for card in cards.values()):
        return cards
    scores: dict[str, dict[str, list[Score]]] = {name: {"base": [], "specialist": []} for name in cards}
    differences: list[Difference] = []
    own: dict[str, ScoreCard] = {}
    for test, task in tests.items():
        on = "" if test == lesson.skill.name else test
        bases = yield from named(lesson.skill.name, _best_base(network, lesson, task, on))
        answered: list[ScoreCard] = []
        for one, trained in done:
            asked = answerer(network, lesson.skill, Specialist(trained.path, cards[one.name]))
            stage = f"scoring {on}" if on else "scoring the specialist"
            card = yield from named(one.name, scored(stage, task, asked))
            answered.append(card)
            own.setdefault(one.name, card)
            scores[one.name]["base"] += bases
            scores[one.name]["specialist"] += _as_scores(lesson.skill, card, test, on, asked, _drawn(lesson.skill))
        if len(answered) > 1:
            differences.append(answered[1].minus(answered[0], report.AGAINST, on=on))
    for one, trained in done:
        found = {who: tuple(each) for who, each in scores[one.name].items()}
        changed = cards[one.name].model_copy(update={"scores": found, "differences": tuple(differences)})
        graded = Specialist(trained.path, changed)
        cards[one.name] = yield from named(one.name, _with_evidence(network, lesson, graded, own[one.name]))
        cards[one.name].write(trained.path)
    return cards


def _with_evidence(
    network: Network, lesson: Lesson, specialist: Specialist, answered: ScoreCard | None = None
) -> Generator[Stage, None, Card]:
    """Puts some rows of the skill's own test beside the adapter; the card that names them, with what is scored on them
    without a grammar and what the grammar adds. `answered` is how it has answered them under it, if it has.

    It gets no fingerprint of what it was trained on, which has 84 bytes a row: its recipe makes those rows again.
    """
    skill, card = lesson.skill, specialist.card
    task = lesson.tests[skill.name]
    if answered is not None:
        task = replace(task, rows=tuple(result.row for result in answered.results))
    task = replace(task, rows=drawn(task.rows, CARRIED_WITH_TOOLS if task.rows[0].tools else CARRIED))
    evidence = write_evidence(specialist.path, Exam(task, lesson.shown), None)
    card = card.model_copy(update={"evidence": evidence})
    if skill.output is None and not task.rows[0].tools:
        return card
    asked = answerer(network, skill, specialist, grammar=False)
    free = yield from scored("scoring the specialist without its grammar", task, asked)
    if answered is None:
        held = yield from scored("scoring the specialist", task, answerer(network, skill, specialist))
    else:
        lines = {result.row.line: result for result in answered.results}
        held = replace(answered, results=tuple(lines[row.line] for row in task.rows))
    gap = held.minus(free, GRAMMAR)
    others = tuple(one for one in card.differences if one.what != GRAMMAR)
    scores = {**card.scores, "free": (free.as_score("free", tokens=asked.usage.completion),)}
    return card.model_copy(update={"scores": scores, "differences": (*others, gap)})


def _is_graded(card: Card, skill: Skill, tests: Mapping[str, Task], *, twins: bool) -> bool:
    """Whether an earlier run has scored it on just these rows."""
    wanted = {("" if name == skill.name else name, len(task.rows)) for name, task in tests.items()}
    found = {(score.on, score.n) for score in card.scores.get("specialist", ())}
    compared = any(one.what == report.AGAINST for one in card.differences)
    return found == wanted and compared == twins and card.evidence is not None


def _best_base(network: Network, lesson: Lesson, task: Task, on: str) -> Generator[Stage, None, list[Score]]:
    """The better of asking without and with examples, chosen on the rows themselves, to the base's advantage."""
    few = replace(task, rows=task.rows[:BASE_ROWS])
    ways = {"zero-shot": few} | ({f"{len(lesson.shown)}-shot": few.with_examples(lesson.shown)} if lesson.shown else {})
    tried: list[tuple[float, list[Score]]] = []
    for way, asked in ways.items():
        stage = f"scoring {on}: the base, {way}" if on else f"scoring the base, {way}"
        base = answerer(network, lesson.skill, None)
        card = yield from scored(stage, asked, base)
        tried.append(
            (card.value, _as_scores(lesson.skill, card, task.name, on, base, f"{way}, {_drawn(lesson.skill)}"))
        )
    return max(tried, key=lambda one: one[0])[1]


def _drawn(skill: Skill) -> str:
    return "grammar" if skill.output or skill.tools else "free"


def _as_scores(skill: Skill, card: ScoreCard, test: str, on: str, asked: ChatAnswerer, by: str) -> list[Score]:
    """The score, and what another author's own checker says where the test has one."""
    found = [card.as_score(by, on=on, tokens=asked.usage.completion)]
    if test in skill.judges:
        judge = skill.judges[test]()
        value, low, high = interval([float(judge(place, one.answer)) for place, one in enumerate(card.results)])
        value, low, high = (round(each, 4) for each in (value, low, high))
        found.append(replace(found[0], metric="author's checker", value=value, low=low, high=high))
    return found


# ----------------------------------------------------------------------------------------------------------- publishing
def _published(order: Retraining, skill: Skill, cards: Mapping[str, Card]) -> Stage:
    """Whichever of the skill's adapters is to be served takes the skill's name. Git keeps what was there before."""
    name = chosen({name: card.scores["specialist"][0].value for name, card in cards.items()})
    library = Library(order.out)
    if skill.name in library:
        library.remove(skill.name)
    one = library.publish(order.adapters / name, name=skill.name, replace=False)
    own = one.card.scores["specialist"][0]
    base = one.card.scores["base"][0]
    line = f"{own.value:.3f}, base {base.value:.3f}; in {one.path}"
    return Stage("publishing", 1.0, "", line, {"path": str(one.path), "value": own.value}, name)


def chosen(values: Mapping[str, float]) -> str:
    """The activated twin, unless the plain one is better by more than a point: its prompts are read once for all."""
    plain = next(iter(values))
    twin = next((name for name in values if name.endswith(TWIN)), plain)
    return twin if values[twin] >= values[plain] - POINT else plain

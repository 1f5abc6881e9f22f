"""What the router learns from the journal: requests whose right answerer is known by now, each with that one's name.

Three things say who was right. A person said so (`plural correct`), a person asked a specialist by name (`plural ask
--to`), or the router was sure and the run went well: it has an answer, no step of it failed, no limit cut it off. Where
they differ, the first of these counts, and of one kind the last.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from plural.errors import DataError, RunError, SettingsError, StorageError, unknown_name
from plural.teams.router import BASE
from plural.types import LimitReached, Routed, RunFinished, StepFinished

if TYPE_CHECKING:
    from plural.specialists import Library
    from plural.teams.journal import Journal

SURE = 0.8
# Of one label the router takes the latest of each kind; its card's examples are about as many.
MOST = 64
_KINDS = ("person", "asked", "run")


@dataclass(frozen=True, slots=True)
class Lesson:
    """`text` belongs to `label`: a person said so, or asked that one by name, or a run went well."""

    text: str
    label: str
    by: Literal["person", "asked", "run"]
    run: str


@dataclass(frozen=True, slots=True)
class Lessons:
    """Those in one file, a JSON object a line, which is only ever written at its end."""

    path: Path

    @classmethod
    def of(cls, library: Library) -> Self:
        """Those of a library's owner; they lie in its folder."""
        return cls(library.root / "lessons.jsonl")

    def read(self) -> list[Lesson]:
        """In the order in which they were learned. Raises DataError, which names the line, for a damaged file."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}.") from error
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(Lesson(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise DataError(str(self.path), [(number, f"no lesson: {error}")], hint="Delete that line.") from error
        return found

    def add(self, lessons: Iterable[Lesson]) -> int:
        """Writes down those that are new; how many they are. Raises StorageError."""
        known = set(self.read())
        new = [lesson for lesson in dict.fromkeys(lessons) if lesson not in known]
        if new:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(lesson)) + "\n" for lesson in new)
            except OSError as error:
                raise StorageError(f"{self.path} could not be written: {error.strerror}.") from error
        return len(new)


def examples(lessons: Iterable[Lesson], labels: Collection[str]) -> dict[str, list[str]]:
    """What each of `labels` learns: texts that nobody else has, the latest `MOST` of each kind. Lessons of
    somebody who is not there wait until they come back."""
    latest: dict[str, Lesson] = {}
    for lesson in lessons:
        before = latest.get(lesson.text)
        if before is None or _KINDS.index(lesson.by) <= _KINDS.index(before.by):
            latest.pop(lesson.text, None)
            latest[lesson.text] = lesson
    found: dict[str, list[str]] = {label: [] for label in labels}
    for by in _KINDS:
        for label in labels:
            texts = [lesson.text for lesson in latest.values() if (lesson.label, lesson.by) == (label, by)]
            found[label] += texts[-MOST:]
    return found


def went_well(journal: Journal, *, sure: float = SURE) -> Iterator[Lesson]:
    """A lesson of every decision that turned out right, of the runs in the journal, the oldest first.

    Raises:
        SettingsError: `sure` is no probability.
    """
    if not 0 <= sure <= 1:
        raise SettingsError(f"sure is {sure}; it must be in [0, 1].")
    for info in reversed(journal.runs()):
        if info.status != "finished":
            continue
        said = [entry.what for entry in journal.entries(info.id)]
        if not any(isinstance(each, RunFinished) and each.answer.strip() for each in said):
            continue
        if any(_went_wrong(each) for each in said):
            continue
        asked = journal.target(info.id).get("to")
        if asked == BASE:  # which is asked by name to see what it says, not because it is right
            continue
        for each in said:
            if isinstance(each, Routed) and not each.decision.by and (asked or each.decision.probability >= sure):
                yield Lesson(each.task, each.decision.value, "asked" if asked else "run", info.id)


def _went_wrong(event: object) -> bool:
    """An answer that was cut off says nothing against who was asked."""
    if isinstance(event, LimitReached):
        return event.limit != "max_tokens"
    return isinstance(event, StepFinished) and event.failed


def correction(journal: Journal, run: str, label: str, known: Collection[str], *, step: int = 0) -> Lesson:
    """That a run, or a step of its plan, should have gone to `label`.

    Raises:
        RunError: there is no such run, or no such step in it.
        SpecialistError: nobody is called so.
    """
    if label not in known:
        raise unknown_name("specialist", label, sorted(known))
    found = journal.find(run).id
    routed = {each.what.step: each.what.task for each in journal.entries(found) if isinstance(each.what, Routed)}
    if step not in routed:
        what = f"step {step} that was routed" if step else "request that was routed"
        raise RunError(f"Run {found} has no {what}.", hint=f"Steps: {', '.join(map(str, sorted(routed))) or 'none'}.")
    return Lesson(routed[step], label, "person", found)

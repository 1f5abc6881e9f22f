"""Prompts without answers, and the checks that tell right answers from wrong ones."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plural.errors import DataError, SettingsError
from plural.evals.checkers import CHECKERS, checker
from plural.evals.task import Row, Task, read_asked

# Given what stands in a line of the prompts, and an answer: its score in [0, 1], or whether it is right.
Check = Callable[[Mapping[str, Any], str], float | bool]
GYM = "reasoning_gym"


@dataclass(frozen=True)
class Exercises:
    """Prompts as rows, and the check that `given`, what stands in the line of each, is handed to.

    An answer is right if its score is at least `threshold`.
    """

    rows: tuple[Row, ...]
    given: Mapping[int, Mapping[str, Any]]
    check: Check
    called: str
    threshold: float = 1.0

    def right(self, row: Row, answer: str) -> bool:
        """Raises SettingsError for a check that fails or does not give a score."""
        try:
            value = self.check(self.given[row.line], answer)
        except Exception as error:
            raise SettingsError(
                f"The checker {self.called} failed in line {row.line}: {type(error).__name__}: {error}.",
                hint=f"The answer was {answer!r:.200}.",
            ) from error
        if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
            raise SettingsError(
                f"The checker {self.called} gave {value!r:.80} in line {row.line}.",
                hint="It must give a number from 0 to 1, or whether the answer is right.",
            )
        return value >= self.threshold

    def task(self, name: str, rows: Sequence[Row]) -> Task:
        """Some of the rows, scored 1 for every right answer."""
        return Task(name, tuple(rows), self.called, judge=lambda row, answer: float(self.right(row, answer)))


def read_exercises(path: Path, called: str, threshold: float = 1.0) -> Exercises:
    """`{"prompt": ...}` or `{"messages": [...]}` a line, and whatever else the check wants to know.

    `called` is a function ("check.py:right"), "reasoning_gym" (which wants `answer` and `metadata`, as its datasets
    have them), or a checker's name (which wants `answer`).

    Raises DataError naming every bad line at once, SettingsError for a checker that there is not.
    """
    check = find_check(called)
    wanted = ("answer", "metadata") if called == GYM else ("answer",) if called in CHECKERS else ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), [(0, f"cannot be read: {error}")]) from error
    rows: list[Row] = []
    given: dict[int, Mapping[str, Any]] = {}
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            row = _row(fields, number)
            missing = [key for key in wanted if not fields.get(key)]
            if missing:
                raise ValueError(f"there is no {missing[0]}, which the checker {called} compares with")
            if called in CHECKERS:
                check(fields, "")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            problems.append((number, str(error)))
            continue
        rows.append(row)
        given[number] = fields
    if not rows and not problems:
        problems.append((0, "there are no rows"))
    if problems:
        raise DataError(str(path), problems)
    return Exercises(tuple(rows), given, check, called, threshold)


def _row(fields: Any, number: int) -> Row:
    if not isinstance(fields, dict):
        raise ValueError(f"{fields!r:.80} is not an object")
    if "tools" in fields:
        raise ValueError("there are tools, which nobody calls here")
    answer = fields.get("answer", "")
    if not isinstance(answer, str):
        raise ValueError(f"answer is {answer!r:.80}; it must be text")
    return Row(read_asked(fields), answer, line=number)


def find_check(called: str) -> Check:
    """Raises SettingsError for a file, a function or a name that there is not."""
    if called == GYM:
        return _gym()
    if ":" in called:
        path, _, name = called.rpartition(":")
        return _function(Path(path), name)
    compare = checker(called)
    return lambda given, answer: compare(answer, given["answer"])


def _function(path: Path, name: str) -> Check:
    if not path.is_file():
        raise SettingsError(f"There is no file {path} with a checker.", hint="Name it as FILE.py:function.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} is no Python file.", hint="Name a checker as FILE.py:function.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise SettingsError(f"{path} has no function {name!r}.", hint=f"It has: {functions or 'none'}.")
    return found  # type: ignore[no-any-return]


def _gym() -> Check:
    spec = importlib.machinery.PathFinder.find_spec(GYM)
    if spec is None or spec.submodule_search_locations is None:
        raise SettingsError("reasoning_gym is not installed.", hint="pip install reasoning-gym")
    folder = Path(spec.submodule_search_locations[0])

    def score(given: Mapping[str, Any], answer: str) -> float:
        judge = gym_dataset(folder, given["metadata"]["source_dataset"]).score_answer
        return float(judge(answer=answer, entry=given))

    return score


@functools.cache
def gym_dataset(folder: Path, name: str) -> Any:
    """A dataset of reasoning-gym, which lies in `folder`, that scores answers to its own rows.

    The package imports all of its datasets, and they what few have installed. Where that fails, only the module is
    imported that registers this one.

    Raises ValueError for a name that none registers, ImportError for what that one module needs.
    """
    said = re.compile(rf'(?:DATASET_NAME = |register_dataset\()"{re.escape(name)}"')
    file = next((file for file in sorted(folder.rglob("*.py")) if said.search(file.read_text("utf-8"))), None)
    if file is None:
        raise ValueError(f"reasoning_gym has no dataset {name!r}")
    with contextlib.suppress(ImportError):
        importlib.import_module(GYM)
    parts = file.relative_to(folder).with_suffix("").parts
    for above in (parts[:depth] for depth in range(len(parts))):
        package = ".".join((GYM, *above))
        if package not in sys.modules:
            bare = sys.modules[package] = types.ModuleType(package)
            bare.__path__ = [str(folder.joinpath(*above))]
    importlib.import_module(".".join((GYM, *parts)))
    dataset, config = importlib.import_module(f"{GYM}.factory").DATASETS[name]
    return dataset(config())

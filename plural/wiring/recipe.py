"""A recipe: the skills that a library is made of, as code that generates their data. A clone has one, a package none.

`FOLDER/skills.py` names SKILLS (name to Skill), FORMS (name to the Skill of each form of answer that it can be taught
in) and GENERAL (prompts that no specialist is for).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from plural.errors import SettingsError
from plural.specialists import Contract

Row = dict[str, Any]
Rows = Callable[[], list[Row]]
# Whether another author's own checker takes an answer to the row of this number.
Judge = Callable[[int, str], bool]

STARTER_RECIPE = Path(__file__).parents[2] / "recipes" / "starter"


@dataclass(frozen=True)
class Skill:
    """What one specialist is made from, and how. `settings` are those of its training.

    `asked_of_base` is the longer prompt that the untrained base gets: it cannot know what the short one means.
    Its rows can only be made where there is a command `needs`.
    `more_tests` are other authors' rows and other wordings, each scored beside the own test; `judges` are such authors'
    own checkers, by the test that they judge.
    """

    name: str
    purpose: str
    instructions: str
    asked_of_base: str
    checker: str
    train_rows: Rows
    test_rows: Rows
    examples: Callable[[], list[str]]
    settings: dict[str, Any]
    licence: str
    output: Contract | None = None
    kind: Literal["skill", "planner"] = "skill"
    tools: tuple[str, ...] = ()
    max_tokens: int = 96
    needs: str = ""
    more_tests: Mapping[str, Rows] = field(default_factory=dict)
    judges: Mapping[str, Callable[[], Judge]] = field(default_factory=dict)


def to_first_answer(row: Mapping[str, Any]) -> Row:
    """Of a dialogue what a test row has of it: what it asks, and what comes next."""
    if "messages" not in row:
        return dict(row)
    first = next(place for place, message in enumerate(row["messages"]) if message["role"] == "assistant")
    return {**row, "messages": row["messages"][: first + 1]}


@dataclass(frozen=True)
class Recipe:
    """What a folder's `skills.py` says."""

    folder: Path
    skills: Mapping[str, Skill]
    forms: Mapping[str, Mapping[str, Skill]]
    general: tuple[str, ...]

    @property
    def left_out(self) -> tuple[str, ...]:
        """The skills whose rows cannot be made on this machine."""
        return tuple(one.name for one in self.skills.values() if one.needs and shutil.which(one.needs) is None)

    def chosen(self, names: Sequence[str] = (), form: str | None = None) -> tuple[Skill, ...]:
        """The skills of these names, or all that can be made here, each in the recipe's own form of answer or in
        another one.

        Raises SettingsError for a name or a form that the recipe does not have.
        """
        if unknown := [name for name in names if name not in self.skills]:
            raise SettingsError(
                f"No skill of {self.folder} is called {unknown[0]!r}.", hint=f"Skills: {', '.join(self.skills)}."
            )
        wanted = list(dict.fromkeys(names or (name for name in self.skills if name not in self.left_out)))
        if form is None:
            return tuple(self.skills[name] for name in wanted)
        if without := [name for name in wanted if form not in self.forms.get(name, {})]:
            having = ", ".join(name for name, forms in self.forms.items() if form in forms)
            raise SettingsError(
                f"{without[0]} cannot be taught in the form {form!r}.", hint=f"These can: {having or 'none'}."
            )
        return tuple(self.forms[name][form] for name in wanted)


def read_recipe(folder: Path | None = None) -> Recipe:
    """The recipe in `folder`; without one the starter library's, which lies beside the package in a clone.

    Raises SettingsError when there is none, or when a package that it generates its data with is not installed.
    """
    where = (folder or STARTER_RECIPE).expanduser().resolve()
    file = where / "skills.py"
    if not file.is_file():
        clone = "What the starter library is made from is no part of the installed package: work in a clone of Plural."
        raise SettingsError(f"There is no recipe in {where}: it has no skills.py.", hint="" if folder else clone)
    try:
        module = _module(file)
        return Recipe(where, module.SKILLS, module.FORMS, tuple(module.GENERAL))
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The recipe in {where} needs the package {error.name}, which is not installed.",
            hint="pip install 'plural[school]' and, without their dependencies, those in requirements-carried.txt.",
        ) from error
    except AttributeError as error:
        raise SettingsError(f"{file}: {error}.", hint="A recipe has SKILLS, FORMS and GENERAL.") from error


def _module(file: Path) -> ModuleType:
    """Imported under a name of its own, so that two recipes can be read; its flat siblings keep their bare names."""
    name = f"plural_recipe_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # a .py file always has one
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

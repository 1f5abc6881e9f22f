"""A team as a YAML file that a person may edit; what is wrong with it is said with its line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from plural.errors import PlanError, StorageError
from plural.teams.drafting.drafts import Draft, Fault, Place

_CUT = re.compile(r"\s+(#\d+)")
_ABOUT = """\
# A team and its plan. Steps are numbered in their order, from 1; `inputs` names those whose results a step builds on,
# #1 in a task stands for the result of step 1, {task} for what the team is run with. A step with several agents is
# solved together.
"""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Quotes a text with Unicode's own line breaks, which would come back as spaces."""


def _represented(dumper: Any, text: str) -> Any:
    broken = any(each in text for each in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if broken else None)


_Dumper.add_representer(str, _represented)


def write_team(draft: Draft, path: Path) -> None:
    """Raises StorageError when it cannot be written."""
    try:
        path.write_text(to_yaml(draft), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror or error}.") from error


def to_yaml(draft: Draft) -> str:
    said = draft.model_dump(mode="json", exclude_defaults=True)
    said |= {"ways": draft.ways.model_dump(include={"observers", "refinement", "memory"}) | said.get("ways", {})}
    written: str = yaml.dump(said, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return _ABOUT + written


def read_team(path: Path, specialists: Collection[str], tools: Collection[str]) -> Draft:
    """Raises PlanError that names every line on which something is wrong, and what."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}.") from error
    return from_yaml(text, specialists, tools, source=str(path))


def from_yaml(text: str, specialists: Collection[str], tools: Collection[str], *, source: str = "the team") -> Draft:
    """Raises PlanError as `read_team` does."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"{source} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(said, dict):
        raise PlanError(
            f"{source} is no team.", hint="It needs task, agents and steps; `plural draft --save` makes one."
        )
    faults = [*_twice(tree, ()), *_cut_off(tree, text.splitlines())]
    if not faults:
        try:
            draft = Draft.model_validate(said)
            faults = list(draft.faults(specialists, tools))
        except ValidationError as error:
            faults = [Fault(tuple(each["loc"]), _said(each)) for each in error.errors()]
    if faults:
        told = "; ".join(f"line {_line(tree, fault.place)}: {fault}" for fault in faults)
        raise PlanError(f"{source} cannot be carried out. {told}.", hint="Change the file.")
    return draft


def _said(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "missing":
        return "it is missing"
    return f"it is {error['input']!r:.60}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _twice(node: Any, place: Place) -> Iterator[Fault]:
    """A key that comes twice: YAML would take the last and say nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield Fault((*place, name), "it is given twice")
            seen.add(name)
            yield from _twice(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _twice(value, (*place, index))


def _cut_off(node: Any, lines: Sequence[str], place: Place = ()) -> Iterator[Fault]:
    """A text without quotes that goes on with `#1`, which YAML would leave out and say nothing."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _cut_off(value, lines, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _cut_off(value, lines, (*place, index))
    elif node.style is None:
        rest = "".join(lines[node.end_mark.line : node.end_mark.line + 1])[node.end_mark.column :]
        if found := _CUT.match(rest):
            yield Fault(place, f"YAML reads {found[1]} as a comment; put the text in quotes")


def _line(node: Any, place: Place) -> int:
    """Where it stands, or else where it should."""
    line: int = node.start_mark.line + 1
    for part in place:
        below = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:  # of a key that comes twice, the last
                if key.value == part:
                    line, below = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            below = node.value[part]
            line = below.start_mark.line + 1
        if below is None:
            return line
        node = below
    return line

"""What is to be trained: from files of examples and what was said on the command line, or from a `school.toml`.

activated = true              # of every specialist, where its table says nothing else

[tickets]                     # its name
data = "tickets.jsonl"        # beside this file
purpose = "Sorts support tickets."
rank = 16
sweep = {learning_rate = [1e-3, 2e-3]}
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from plural.errors import DataError, SettingsError
from plural.specialists import Contract, check_name
from plural.wiring.contracts import AUTO, NONE
from plural.wiring.sweeps import Candidate, candidates, read_sweep

if TYPE_CHECKING:
    from plural.train import PassSettings, TrainSettings

_PATHS = ("data", "test", "contract")
# What is not said by its own name.
_MADE = ("settings", "candidates", "parent")


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """One specialist: what it learns from and how, and what its card will say.

    Without `test`, a tenth of the rows (at most 100) is kept out of training and scored on. `contract` is "auto" (learn
    one from the answers), "none", or the file of one; `output` is a contract itself. With `candidates`, the best of
    them is what it becomes, and `settings` are what they share. A specialist that is trained further is named by
    `parent`; what is not said of the new one is as on its card.
    """

    data: Path
    name: str
    settings: TrainSettings
    purpose: str = ""
    instructions: str = ""
    test: Path | None = None
    checker: str = "exact"
    contract: str = AUTO
    output: Contract | None = None
    tools: tuple[str, ...] = ()
    kind: Literal["skill", "planner"] = "skill"
    examples: tuple[str, ...] = ()
    licence: str = "unspecified"
    candidates: tuple[Candidate, ...] = ()
    parent: str = ""


@dataclass(frozen=True, slots=True)
class School:
    """Orders that are carried out at once, on one base, into one library."""

    orders: tuple[TrainOrder, ...]
    passes: PassSettings
    command: str = ""
    replace: bool = False
    resume: bool = False
    base: Path | None = None
    library: Path | None = None


@dataclass(frozen=True)
class _Given:
    """What is said of one specialist, and where, before anything of it is checked."""

    where: str
    values: Mapping[str, Any]


def read_school(
    files: Sequence[Path], names: Sequence[str] = (), said: Mapping[str, Any] | None = None, **more: Any
) -> School:
    """The orders of `files`: JSONL is one specialist, named by `names` in turn or else by its file; TOML is several.

    What is `said` goes before what a file says; `None` is not said. `more` are the fields of `School`.

    Raises SettingsError for an unknown field or a wrong value, SpecialistError for a name that cannot be one, DataError
    for a file that cannot be read.
    """
    from plural.train import PassSettings, TrainSettings

    given: list[_Given] = []
    passes: dict[str, Any] = {}
    left = list(names)
    for path in files:
        if path.suffix == ".toml":
            given += _tables(path, passes, set(PassSettings.model_fields))
        else:
            given.append(_Given(str(path), {"data": path, "name": left.pop(0) if left else path.stem}))
    if left:
        raise SettingsError(
            f"The name {left[0]!r} is one too many.", hint="Names belong to the JSONL files, in their order."
        )
    spoken = {key: value for key, value in (said or {}).items() if value is not None}
    passes |= {key: spoken.pop(key) for key in PassSettings.model_fields if key in spoken}
    if "sweep" in spoken:
        spoken["sweep"] = read_sweep(spoken["sweep"])
        if both := sorted(spoken.keys() & spoken["sweep"].keys()):
            raise SettingsError(f"{both[0]} is given and swept.", hint=f"Leave out --{both[0].replace('_', '-')}.")
    alone = [key for key in ("purpose", "test") if key in spoken]
    if alone and len(given) != 1:
        raise SettingsError(
            f"{alone[0]} is said of {len(given)} specialists at once.", hint="Give them tables in a school.toml."
        )
    orders = tuple(_order(one, spoken, set(TrainSettings.model_fields)) for one in given)
    return School(orders, PassSettings.of(**passes), **more)


def _tables(path: Path, passes: dict[str, Any], shared: Iterable[str]) -> list[_Given]:
    """The tables of a school.toml; what stands above them is of all of them, or of the pass they share."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), [(0, f"cannot be read: {error}")]) from error
    tables = {name: table for name, table in content.items() if isinstance(table, dict) and not _is_sweep(name, table)}
    above = {name: value for name, value in content.items() if name not in tables}
    passes |= {name: above.pop(name) for name in shared if name in above}
    if not tables:
        raise DataError(str(path), [(0, "has no table; a table is a specialist, with its data")])
    made = []
    for name, table in tables.items():
        where = f"[{name}] in {path}"
        values = {"name": name, **_over(where, above, table)}
        values |= {key: path.parent / str(values[key]) for key in _PATHS if values.get(key) not in (None, AUTO, NONE)}
        made.append(_Given(where, values))
    return made


def _is_sweep(name: str, table: Mapping[str, Any]) -> bool:
    """A sweep of all specialists, and not one that is called so."""
    return name == "sweep" and "data" not in table


def _over(where: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What is said `above` goes before what is said `below`; `contract` and `output` are two ways to say one thing."""
    ways = ("contract", "output")
    if all(way in above for way in ways):
        raise SettingsError(f"{where}: contract and output are both given.", hint="Give one of them.")
    said = any(way in above for way in ways)
    return {**{key: value for key, value in below.items() if not (said and key in ways)}, **above}


def _order(given: _Given, said: Mapping[str, Any], training: set[str]) -> TrainOrder:
    from plural.train import TrainSettings

    values = _over(given.where, given.values, said)
    sweep, parent = values.pop("sweep", {}), values.pop("from", "")
    known = [one.name for one in fields(TrainOrder) if one.name not in _MADE]
    unknown = sorted(values.keys() - training - set(known))
    if unknown:
        raise SettingsError(
            f"{given.where}: there is no field {', '.join(map(repr, unknown))}.",
            hint=f"Fields: {', '.join([*known, 'from', 'sweep', *sorted(training)])}.",
        )
    missing = [one.name for one in fields(TrainOrder) if one.default is MISSING and one.name in known]
    absent = [name for name in missing if name not in values]
    if absent:
        raise SettingsError(f"{given.where}: {absent[0]} is not given.")
    card = {key: values[key] for key in known if key in values}
    _check_card(given.where, card)
    if not isinstance(parent, str):
        raise SettingsError(f"{given.where}: from is {parent!r}; it must be a specialist's name.")
    shared = {key: value for key, value in values.items() if key in training}
    try:
        settings = TrainSettings.of(**shared)
        if not isinstance(sweep, dict):
            raise SettingsError(f"sweep is {sweep!r}; it must be a table of lists.")
        found = candidates(card["name"], shared, sweep) if sweep else ()
    except SettingsError as error:
        raise SettingsError(f"{given.where}: {error.message}", hint=error.hint) from error
    return TrainOrder(settings=settings, candidates=found, parent=parent, **card)


def _check_card(where: str, card: dict[str, Any]) -> None:
    """What a file says of the card, in the card's types."""
    check_name(str(card["name"]))
    if "contract" in card:
        card["contract"] = str(card["contract"])
    for key in ("tools", "examples"):
        if key in card:
            if not isinstance(card[key], list | tuple) or not all(isinstance(one, str) for one in card[key]):
                raise SettingsError(f"{where}: {key} is {card[key]!r}; it must be a list of texts.")
            card[key] = tuple(card[key])
    if isinstance(card.get("output"), dict):
        try:
            card["output"] = Contract(**card["output"])
        except ValidationError as error:
            raise SettingsError(f"{where}: output is {card['output']!r}: {error.errors()[0]['msg']}.") from error
    if card.get("kind", "skill") not in ("skill", "planner"):
        raise SettingsError(f"{where}: kind is {card['kind']!r}; it is skill or planner.")
    for key in ("purpose", "instructions", "checker", "licence"):
        if not isinstance(card.get(key, ""), str):
            raise SettingsError(f"{where}: {key} is {card[key]!r}; it must be a text.")

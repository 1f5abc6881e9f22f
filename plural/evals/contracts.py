"""Output contracts learned from answers: choices, a JSON Schema, or the pattern of a common shape.

What is learned accepts every answer it was learned from, and is only as narrow as the answers can show. The next answer
is one that was never seen about as probably as an answer so far was one that was seen only once (Good and Turing; Good
1953). A list is closed when that is at most one in a hundred.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plural.agents.contract import Contract as Checked
from plural.agents.contract import contract_of
from plural.errors import ContractError, GrammarError
from plural.evals.task import Row
from plural.specialists import Contract

_LEAST = 20  # answers that a closed list or a required key is learned from
_MOST_OPTIONS = 50
_ROWS_AN_OPTION = 10
_MOST_NUMBERS = 5  # more numbers than these are a quantity, not a list
_LONGEST_OPTION = 64
_UNSEEN = 0.01
_COPIED = 0.5
# After so many answers without an exception at most one in twenty breaks the shape, with 95% confidence: rule of three.
_LEAST_SHAPED = 60
_FIELD = r"[0-9A-Za-z*?/,#-]{1,40}"
_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"([01]?[0-9]|2[0-3]):[0-5][0-9]"
_SHAPES: Mapping[str, str] = {
    "whole numbers": r"-?(0|[1-9][0-9]{0,17})",
    "numbers": r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?",
    "dates": _DATE,
    "clock times": rf"{_CLOCK}(:[0-5][0-9])?( ?[AP]M)?",
    "dates with a time": rf"{_DATE}[ T]{_CLOCK}(:[0-5][0-9])?",
    "cron expressions": rf"{_FIELD}( {_FIELD}){{4}}",
}
_NUMBER = re.compile(r"-?[0-9]+([.,][0-9]+)*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, to what. `line` is that of the row."""

    line: int
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Learned:
    """`contract` is None when the answers show none; `why` says in either case what they show."""

    contract: Contract | None
    why: str


def answers(rows: Sequence[Row]) -> list[Answer]:
    """Everything that an assistant says in the rows and that is no tool call."""
    found: list[Answer] = []
    for row in rows:
        heard = ""
        for message in row.messages:
            if message.role != "assistant":
                heard = message.content
            elif not message.tool_calls:
                found.append(Answer(row.line, heard, message.content))
        if not row.calls:
            found.append(Answer(row.line, heard, row.expected))
    return found


def learn(said: Sequence[Answer]) -> Learned:
    """The narrowest contract that the answers show."""
    if len(said) < _LEAST:
        return Learned(None, f"{len(said)} answers are too few to learn a contract from; {_LEAST} are needed")
    texts = [(answer.prompt, answer.text) for answer in said]
    options = _options(texts)
    if options is not None:
        contract = Contract(kind="choices", source=json.dumps(options, ensure_ascii=False))
        return Learned(contract, f"each of {len(said)} answers is one of {len(options)}")
    try:
        values = [(answer.prompt, _parsed(answer.text)) for answer in said]
    except (ValueError, RecursionError):
        return _shaped(texts)
    if not all(isinstance(value, dict | list) for _, value in values):
        return _shaped(texts)
    schema = json.dumps(_schema(values), ensure_ascii=False, separators=(",", ":"))
    return Learned(Contract(kind="json_schema", source=schema), f"each of {len(said)} answers is JSON of this form")


def read_contract(path: Path) -> Contract:
    """A contract from a file: `.json` holds a JSON Schema or a list of choices, any other file one regular expression.

    Raises GrammarError for a file that holds none of them.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        given = json.loads(text) if path.suffix == ".json" else text
    except (OSError, ValueError) as error:
        raise GrammarError(f"The contract {path} cannot be read: {error}.") from error
    if not given or not isinstance(given, str | dict | list):
        raise GrammarError(
            f"The contract {path} is {text!r:.60}.", hint="A .json file holds a schema or a list of choices."
        )
    made = contract_of(given)
    assert made is not None  # what a text, a dict and a list become
    return Contract(kind=made.kind, source=made.source)


def broken(contract: Contract, said: Sequence[Answer]) -> list[tuple[int, str]]:
    """(line, what is wrong) for every answer that the contract does not accept. Raises GrammarError for a wrong one."""
    checked = Checked(contract.kind, contract.source)
    problems: list[tuple[int, str]] = []
    for answer in said:
        try:
            checked.parse(answer.text)
        except ContractError as error:
            problems.append((answer.line, error.message.rstrip(".")))
    return problems


# ------------------------------------------------------------------------------------------------------------- learning
def _options(texts: Sequence[tuple[str, str]]) -> list[str] | None:
    """The list that the texts come from, if it is a short one and all of it was seen."""
    counts = Counter(text for _, text in texts)
    numbers = all(_NUMBER.fullmatch(text) for text in counts)
    if len(texts) < max(_LEAST, _ROWS_AN_OPTION * len(counts)):
        return None
    if len(counts) > (_MOST_NUMBERS if numbers else _MOST_OPTIONS):
        return None
    if any(len(text) > _LONGEST_OPTION or "\n" in text or not text for text in counts):
        return None
    return None if _unseen(counts, len(texts)) > _UNSEEN or _copied(texts, list(counts)) else sorted(counts)


def _unseen(counts: Counter[str], total: int) -> float:
    return sum(1 for count in counts.values() if count == 1) / total


def _copied(texts: Sequence[tuple[str, str]], options: Sequence[str]) -> bool:
    """Whether most texts are taken from their prompts: then other prompts will ask for others.

    A prompt that names all of the options lists them.
    """
    lower = [option.casefold() for option in options]
    copied = 0
    for prompt, text in texts:
        asked = prompt.casefold()
        copied += text.casefold() in asked and not all(option in asked for option in lower)
    return copied > _COPIED * len(texts)


def _shaped(texts: Sequence[tuple[str, str]]) -> Learned:
    if len(texts) >= _LEAST_SHAPED:
        for name, pattern in _SHAPES.items():
            shape = re.compile(pattern)
            if all(shape.fullmatch(text) for _, text in texts):
                if name == "cron expressions" and not any("*" in text for _, text in texts):
                    break
                return Learned(Contract(kind="regex", source=pattern), f"all {len(texts)} answers are {name}")
    return Learned(None, "the answers are free text")


def _parsed(text: str) -> Any:
    """Raises ValueError for what is no JSON that a grammar can draw: keys that are repeated, NaN, infinity."""
    return json.loads(text, object_pairs_hook=_object_of, parse_constant=_refuse)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _schema(values: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What all the values of one place have in common; with each goes the prompt it answers."""
    texts = [(prompt, value) for prompt, value in values if isinstance(value, str)]
    lists = [(prompt, value) for prompt, value in values if isinstance(value, list)]
    objects = [(prompt, value) for prompt, value in values if isinstance(value, dict)]
    numbers = [value for _, value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    forms: list[dict[str, Any]] = []
    if any(value is None for _, value in values):
        forms.append({"type": "null"})
    if any(isinstance(value, bool) for _, value in values):
        forms.append({"type": "boolean"})
    if numbers:
        whole = len(numbers) >= _LEAST and all(isinstance(value, int) for value in numbers)
        forms.append({"type": "integer" if whole else "number"})
    if texts:
        options = _options(texts)
        forms.append({"type": "string"} if options is None else {"enum": options})
    if lists:
        items = [(prompt, item) for prompt, value in lists for item in value]
        forms.append({"type": "array", "items": _schema(items)} if items else {"type": "array"})
    if objects:
        forms.append(_object_schema(objects))
    if len(forms) == 1:
        return forms[0]
    if all(form.keys() == {"type"} for form in forms):
        return {"type": [form["type"] for form in forms]}
    return {"anyOf": forms}


def _object_schema(objects: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    counts = Counter(key for _, value in objects for key in value)
    order = _order([list(value) for _, value in objects], counts)
    closed = len(objects) >= _LEAST and len(counts) <= _MOST_OPTIONS and _unseen(counts, len(objects)) <= _UNSEEN
    if not closed or order is None:
        everything = [(prompt, item) for prompt, value in objects for item in value.values()]
        return {"type": "object", **({"additionalProperties": _schema(everything)} if everything else {})}
    below = {key: _schema([(prompt, value[key]) for prompt, value in objects if key in value]) for key in order}
    required = [key for key in order if counts[key] == len(objects)]
    return {
        "type": "object",
        "properties": below,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _order(orders: Sequence[Sequence[str]], counts: Counter[str]) -> list[str] | None:
    """One order of the keys that is every object's, because a grammar draws them in one; None if there is none."""
    after: dict[str, set[str]] = {key: set() for key in counts}
    for keys in {tuple(keys) for keys in orders}:
        for index, key in enumerate(keys[:-1]):
            after[key].add(keys[index + 1])
    waiting = Counter(key for later in after.values() for key in later)
    ready = [key for key in counts if not waiting[key]]
    found: list[str] = []
    while ready:
        key = ready.pop(0)
        found.append(key)
        for later in sorted(after[key]):
            waiting[later] -= 1
            if not waiting[later]:
                ready.append(later)
    return found if len(found) == len(counts) else None

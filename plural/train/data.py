"""Training rows from JSONL: `{"prompt", "answer"}`, or `{"messages": [...]}` with optional `"tools": [...]`.

Preferences are `{"prompt", "chosen", "rejected"}`, or messages without the last answer, `"chosen"` and `"rejected"`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from plural.errors import DataError
from plural.types import Message, Role, ToolCall, ToolSpec


@dataclass(frozen=True)
class Example:
    """One conversation; the assistant's messages are what is learned. `line` counts from 1 in the file.

    Where there is a `rejected` last message, it is only learned that the last one is better.
    """

    line: int
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    rejected: Message | None = None

    @property
    def prompt(self) -> str:
        """Everything before the last message: rows of one prompt are never split between training and held-out."""
        return json.dumps([_plain(message) for message in self.messages[:-1]], sort_keys=True)

    @property
    def content(self) -> str:
        said = [*self.messages, *([self.rejected] if self.rejected else [])]
        return json.dumps([*map(_plain, said), [tool.name for tool in self.tools]], sort_keys=True)

    @property
    def endings(self) -> tuple[tuple[Message, ...], ...]:
        """The whole conversation; with a rejected answer, once more with that one."""
        return (self.messages, (*self.messages[:-1], self.rejected)) if self.rejected else (self.messages,)


@dataclass(frozen=True)
class Examples:
    """`sha256` is of the file's bytes; `duplicates` rows say the same as an earlier one."""

    source: Path
    sha256: str
    rows: tuple[Example, ...]
    duplicates: int

    @property
    def preferences(self) -> bool:
        return any(row.rejected for row in self.rows)


def read_examples(path: Path) -> Examples:
    """Raises DataError naming every bad line at once, and for a file with fewer than two rows."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), [(0, f"cannot be read: {error.strerror}")]) from error
    rows: list[Example] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(_example(number, line))
        except _BadRowError as bad:
            problems.append((number, str(bad)))
    problems += _mixed(rows)
    if problems:
        raise DataError(str(path), sorted(problems))
    if len(rows) < 2:
        raise DataError(str(path), [(0, f"{len(rows)} rows; training needs at least 2, one of them to be held out")])
    distinct = len({row.content for row in rows})
    return Examples(path, hashlib.sha256(content).hexdigest(), tuple(rows), len(rows) - distinct)


def _mixed(rows: Sequence[Example]) -> list[tuple[int, str]]:
    """What is not of the first row's kind."""
    kinds = {True: "a rejected answer", False: "no rejected answer"}
    first = rows[0].rejected is not None if rows else False
    told = f"; line {rows[0].line} has {kinds[first]}" if rows else ""
    return [(row.line, f"has {kinds[not first]}{told}") for row in rows if (row.rejected is not None) != first]


class _BadRowError(ValueError):
    pass


def _example(number: int, line: bytes) -> Example:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadRowError(f"is not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise _BadRowError(f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _BadRowError(f"is {_kind(row)}, not an object")
    if row.keys() == {"prompt", "answer"}:
        prompt, answer = _text(row, "prompt"), _text(row, "answer")
        return Example(number, (Message("user", prompt), Message("assistant", answer)))
    if {"chosen", "rejected"} <= row.keys():
        return _preference(number, row)
    if "messages" in row and row.keys() <= {"messages", "tools"}:
        messages = tuple(_message(i, each) for i, each in enumerate(_list(row, "messages"), 1))
        if not messages or messages[-1].role != "assistant":
            raise _BadRowError("does not end with an assistant message")
        if len(messages) < 2:
            raise _BadRowError("has nothing before the assistant message")
        return Example(number, messages, tuple(map(_tool, _list(row, "tools"))) if "tools" in row else ())
    raise _BadRowError(
        f"has the keys {', '.join(sorted(row)) or 'none'}; it needs prompt and answer, or messages; "
        "for a preference chosen and rejected besides the prompt or the messages"
    )


def _preference(number: int, row: Mapping[str, Any]) -> Example:
    if row.keys() == {"prompt", "chosen", "rejected"}:
        asked: tuple[Message, ...] = (Message("user", _text(row, "prompt")),)
    elif "messages" in row and row.keys() <= {"messages", "chosen", "rejected", "tools"}:
        asked = tuple(_message(i, each) for i, each in enumerate(_list(row, "messages"), 1))
        if not asked or asked[-1].role == "assistant":
            raise _BadRowError("must end its messages before the assistant's, which are chosen and rejected")
    else:
        raise _BadRowError(f"has the keys {', '.join(sorted(row))}; a preference has a prompt or messages, and tools")
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    if chosen == rejected:
        raise _BadRowError(f"has {chosen!r:.80} both chosen and rejected")
    tools = tuple(map(_tool, _list(row, "tools"))) if "tools" in row else ()
    return Example(number, (*asked, Message("assistant", chosen)), tools, Message("assistant", rejected))


def _message(position: int, given: Any) -> Message:
    where = f"message {position}"
    if not isinstance(given, dict):
        raise _BadRowError(f"{where} is {_kind(given)}, not an object")
    unknown = given.keys() - {"role", "content", "tool_calls", "tool_call_id"}
    if unknown:
        raise _BadRowError(f"{where} has the unknown key {min(unknown)}")
    role = given.get("role")
    if role not in get_args(Role):
        raise _BadRowError(f"{where} has the role {role!r}; roles are {', '.join(get_args(Role))}")
    content = given.get("content", "")
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise _BadRowError(f"{where} has a content that is {_kind(content)}, not text")
    calls = tuple(_call(where, i, each) for i, each in enumerate(given.get("tool_calls") or []))
    if calls and role != "assistant":
        raise _BadRowError(f"{where} calls tools, but only an assistant can")
    if not content.strip() and not calls:
        raise _BadRowError(f"{where} is empty")
    call_id = given.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        raise _BadRowError(f"{where} has a tool_call_id that is {_kind(call_id)}, not text")
    return Message(cast(Role, role), content, calls, call_id)


def _call(where: str, index: int, given: Any) -> ToolCall:
    if not isinstance(given, dict) or not given.keys() <= {"id", "name", "arguments"}:
        raise _BadRowError(f"{where} has a tool call that is not {{name, arguments}}")
    name, arguments = given.get("name"), given.get("arguments")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise _BadRowError(f"{where} has a tool call without a name or whose arguments are no object")
    return ToolCall(str(given.get("id", f"call_{index}")), name, arguments)


def _tool(given: Any) -> ToolSpec:
    if not isinstance(given, dict) or not given.keys() <= {"name", "description", "parameters"}:
        raise _BadRowError("has a tool that is not {name, description, parameters}")
    name, description, parameters = given.get("name"), given.get("description", ""), given.get("parameters")
    if not isinstance(name, str) or not name or not isinstance(description, str) or not isinstance(parameters, dict):
        raise _BadRowError("has a tool without a name or whose parameters are no JSON Schema")
    return ToolSpec(name, description, parameters)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise _BadRowError(f"{key} is {_kind(value)}, not text")
    if not value.strip():
        raise _BadRowError(f"{key} is empty")
    return value


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row[key]
    if not isinstance(value, list):
        raise _BadRowError(f"{key} is {_kind(value)}, not a list")
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _plain(message: Message) -> list[Any]:
    return [message.role, message.content, [[call.name, dict(call.arguments)] for call in message.tool_calls]]

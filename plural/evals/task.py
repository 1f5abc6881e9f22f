"""A task: rows of messages with the answer that is expected, and the checker that compares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

from plural.errors import DataError
from plural.evals.checkers import checker as find_checker
from plural.types import Message, Role, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked and what should come. For tool calls (`calls`) `expected` is the calls' JSON list.

    `line` counts from 1 in the file that it was read from.
    """

    messages: tuple[Message, ...]
    expected: str
    tools: tuple[ToolSpec, ...] = ()
    calls: bool = False
    line: int = field(default=0, compare=False)

    @property
    def asked(self) -> str:
        """What is asked, as one text by which rows are told apart."""
        return json.dumps([_as_dict(message) for message in self.messages], default=dict)

    def answered(self) -> tuple[Message, ...]:
        """The conversation with the answer that should come. Raises KeyError where several calls would do."""
        if not self.calls:
            return (*self.messages, Message("assistant", self.expected))
        made = [(call["name"], call["arguments"]) for call in json.loads(self.expected)]
        calls = tuple(ToolCall(f"call_{number}", *call) for number, call in enumerate(made))
        return (*self.messages, Message("assistant", "", calls))

    def to_json(self) -> str:
        """The line that `Task.read` reads it from."""
        last = {"role": "assistant", "content": self.expected}
        if self.calls:
            last = {"role": "assistant", "content": "", "tool_calls": json.loads(self.expected)}
        row: dict[str, Any] = {"messages": [*map(_as_dict, self.messages), last]}
        if self.tools:
            row["tools"] = [asdict(tool) for tool in self.tools]
        return json.dumps(row, ensure_ascii=False, default=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """Rows that one checker scores, by its name in the registry of checkers.

    With a `judge`, that scores an answer to a row, and `checker` is only what it is called.
    """

    name: str
    rows: tuple[Row, ...]
    checker: str = "exact"
    judge: Callable[[Row, str], float] | None = field(default=None, compare=False)

    def judged(self) -> Callable[[Row, str], float]:
        """Raises SettingsError if there is no such checker."""
        if self.judge is not None:
            return self.judge
        check = find_checker(self.checker)
        return lambda row, answer: check(answer, row.expected)

    @classmethod
    def read(cls, path: Path | str, checker: str = "exact", *, name: str = "") -> Self:
        """Rows from JSONL in the shapes of training: `{"prompt", "answer"}` or `{"messages", "tools"}`, where the
        last message is the assistant's; of preferences, the chosen answer is expected.

        Raises:
            DataError: the file cannot be read, is empty, or has bad lines; all of them are named.
            SettingsError: there is no such checker.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(str(path), [(0, f"cannot be read: {error}")], hint="Nothing was scored.") from error
        return cls.parse(text, str(path), checker, name=name or path.stem)

    @classmethod
    def parse(cls, text: str, source: str, checker: str = "exact", *, name: str = "") -> Self:
        """The same from the text of such a file; `source` is what errors call it. Raises what `read` raises."""
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return cls(name or source, _rows(source, numbered, checker), checker)

    @classmethod
    def of(cls, name: str, rows: Iterable[Mapping[str, Any]], checker: str = "exact") -> Self:
        """The same from rows in memory. Raises what `read` raises."""
        return cls(name, _rows(name, list(enumerate(rows, start=1)), checker), checker)

    def with_examples(self, shown: Sequence[Row]) -> Self:
        """The same rows after a dialogue that shows how `shown` were answered: a few-shot prompt."""
        before = tuple(message for row in shown for message in row.answered())
        return replace(self, rows=tuple(replace(row, messages=before + row.messages) for row in self.rows))


def _rows(source: str, numbered: Sequence[tuple[int, str | Mapping[str, Any]]], checker: str) -> tuple[Row, ...]:
    check = find_checker(checker)
    found: list[Row] = []
    problems: list[tuple[int, str]] = []
    for number, given in numbered:
        try:
            row = _row(_mapping(given))
            check("", row.expected)
            found.append(replace(row, line=number))
        except (ValueError, TypeError, AttributeError) as error:
            problems.append((number, str(error)))
        except KeyError as error:
            problems.append((number, f"there is no field {error}"))
    if not found and not problems:
        problems.append((0, "there are no rows"))
    if problems:
        raise DataError(source, problems, hint="Nothing was scored.")
    return tuple(found)


def _mapping(given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    value = json.loads(given) if isinstance(given, str) else given
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not an object")
    return value


def _row(fields: Mapping[str, Any]) -> Row:
    if {"chosen", "rejected"} <= fields.keys():
        return _row(_chosen(fields))
    if "prompt" in fields:
        unknown = set(fields) - {"prompt", "answer"}
        _refuse(unknown)
        return Row((Message("user", _text(fields["prompt"], "prompt")),), _text(fields["answer"], "answer"))
    _refuse(set(fields) - {"messages", "tools"})
    messages = [_message(each, index) for index, each in enumerate(fields["messages"])]
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ValueError("messages must end with the assistant's, after at least one other")
    last = messages[-1]
    expected = _calls_as_json(last.tool_calls) if last.tool_calls else last.content
    if not expected.strip():
        raise ValueError("the assistant's message is empty")
    return Row(tuple(messages[:-1]), expected, tuple(map(_tool, fields.get("tools", ()))), bool(last.tool_calls))


def read_asked(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a row without an answer asks. Raises ValueError and the like for what is none."""
    if "prompt" in fields:
        return (Message("user", _text(fields["prompt"], "prompt")),)
    if "messages" not in fields:
        raise ValueError(f"there is neither prompt nor messages, only {', '.join(fields) or 'nothing'}")
    messages = tuple(_message(each, index) for index, each in enumerate(fields["messages"]))
    if not messages or messages[-1].role == "assistant":
        raise ValueError("messages must end before the assistant's answer")
    return messages


def _chosen(preference: Mapping[str, Any]) -> dict[str, Any]:
    """A preference as the row that its chosen answer makes."""
    rest = {key: value for key, value in preference.items() if key not in ("chosen", "rejected")}
    chosen = _text(preference["chosen"], "chosen")
    if "prompt" in rest:
        return {**rest, "answer": chosen}
    return {**rest, "messages": [*rest["messages"], {"role": "assistant", "content": chosen}]}


def _refuse(unknown: set[str]) -> None:
    if unknown:
        raise ValueError(
            f"unknown field {', '.join(sorted(unknown))}; a row has prompt and answer, or messages and tools"
        )


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} is {value!r}; it must be text")
    return value


def _as_dict(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def _message(fields: Mapping[str, Any], index: int) -> Message:
    role: Role = fields["role"]
    if role not in get_args(Role):
        raise ValueError(f"role is {role!r}; it must be one of {', '.join(get_args(Role))}")
    content = fields.get("content") or ""
    if not isinstance(content, str):
        raise ValueError(f"content is {content!r}; it must be text")
    calls = tuple(
        ToolCall(str(call.get("id", f"call_{index}_{number}")), _text(call["name"], "a call's name"), call["arguments"])
        for number, call in enumerate(fields.get("tool_calls") or ())
    )
    return Message(role, content, calls, fields.get("tool_call_id"))


def _tool(fields: Mapping[str, Any]) -> ToolSpec:
    inner = fields.get("function", fields)
    return ToolSpec(_text(inner["name"], "a tool's name"), inner.get("description", ""), inner["parameters"])


def _calls_as_json(calls: Sequence[ToolCall]) -> str:
    return json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])

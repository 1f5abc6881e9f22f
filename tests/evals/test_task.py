"""Rows from JSONL, and the bad ones by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plural.errors import DataError, SettingsError
from plural.evals import Row, Task
from plural.types import Message

ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_prompt_and_its_answer(tmp_path: Path) -> None:
    task = Task.read(written(tmp_path, '{"prompt": "2+2?", "answer": "4"}'))
    assert task == Task("rows", (Row((Message("user", "2+2?"),), "4"),), "exact")


def test_tool_calls_are_expected_as_json_and_the_row_keeps_its_tools() -> None:
    messages = [
        {"role": "user", "content": "add 1"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
    ]
    (row,) = Task.of("adding", [{"messages": messages, "tools": [ADD]}], "toolcall").rows
    assert row.messages == (Message("user", "add 1"),)
    assert json.loads(row.expected) == [{"name": "add", "arguments": {"a": 1}}]
    assert [tool.name for tool in row.tools] == ["add"]


def test_what_follows_a_tool_result_is_expected_after_the_whole_dialogue() -> None:
    messages = [
        {"role": "user", "content": "add 1"},
        {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    (row,) = Task.of("adding", [{"messages": messages, "tools": [ADD]}]).rows
    assert [message.role for message in row.messages] == ["user", "assistant", "tool"]
    assert row.messages[1].tool_calls[0].arguments == {"a": 1}
    assert row.expected == "It is 2."


def test_every_bad_line_is_named_and_empty_lines_are_counted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"prompt": "a", "answer": "1"}',
        "",
        "no json",
        '{"prompt": "a"}',
        '{"prompt": "a", "answer": " "}',
        '{"prompt": "a", "answer": "1", "score": 3}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "king", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        "[]",
    )
    with pytest.raises(DataError) as caught:
        Task.read(path)
    assert [number for number, _ in caught.value.problems] == [3, 4, 5, 6, 7, 8, 9]
    assert "king" in str(caught.value)


def test_an_expected_answer_that_its_checker_cannot_read_is_a_bad_line(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "daily", "answer": "0 0 * * *"}', '{"prompt": "daily", "answer": "daily"}')
    with pytest.raises(DataError, match="line 2: 'daily'"):
        Task.read(path, "cron")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "answer": "4\u2028"},
        {
            "messages": [
                {"role": "system", "content": "Add."},
                {"role": "user", "content": "add 1"},
                {"role": "assistant", "tool_calls": [{"id": "a", "name": "add", "arguments": {"a": 1}}]},
                {"role": "tool", "content": "2", "tool_call_id": "a"},
                {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 2}}]},
            ],
            "tools": [ADD],
        },
    ],
)
def test_a_row_is_read_again_from_what_it_writes(tmp_path: Path, row: dict[str, object]) -> None:
    read = Task.of("t", [row]).rows
    (again,) = Task.read(written(tmp_path, read[0].to_json())).rows
    assert again == read[0]
    assert again.line == 1


def test_no_file_no_rows_no_checker(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Task.read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="there are no rows"):
        Task.read(written(tmp_path, ""))
    with pytest.raises(SettingsError, match="'exactly'"):
        Task.read(written(tmp_path, '{"prompt": "a", "answer": "1"}'), "exactly")


def test_examples_are_shown_as_a_dialogue_before_each_row() -> None:
    task = Task.of("t", [{"prompt": f"p{number}", "answer": f"a{number}"} for number in range(3)])
    shown = Task("t", task.rows[1:]).with_examples(task.rows[:1])
    assert [message.content for message in shown.rows[0].messages] == ["p0", "a0", "p1"]
    assert shown.rows[0].expected == "a1"


def test_examples_of_calls_are_shown_as_calls() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "add 1"},
            {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
        ],
        "tools": [ADD],
    }
    shown = Task.of("t", [{**row, "messages": [{"role": "user", "content": "add 2"}, row["messages"][1]]}])
    (asked,) = shown.with_examples(Task.of("t", [row]).rows).rows
    assert [message.content for message in asked.messages] == ["add 1", "", "add 2"]
    assert [(call.name, call.arguments) for call in asked.messages[1].tool_calls] == [("add", {"a": 1})]
    assert asked.asked != shown.rows[0].asked

"""Rows in; every bad line named at once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import DataError, SettingsError
from plural.models.base import Base
from plural.train import Examples, PassSettings, TrainSettings, read_examples
from plural.train.rows import Row, batch, encode, split

GOOD = {"prompt": "a?", "answer": "b"}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path / "rows.jsonl"


def test_both_forms_are_read(tmp_path: Path) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    chat = {
        "messages": [{"role": "user", "content": "1+?"}, {"role": "assistant", "content": None, "tool_calls": [call]}],
        "tools": [{"name": "add", "description": "Adds.", "parameters": {"type": "object"}}],
    }
    path = write(tmp_path, GOOD, chat, GOOD, "")
    read = read_examples(path)
    assert [row.line for row in read.rows] == [1, 2, 3]
    assert read.duplicates == 1
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.rows[0].messages[1].content == "b"
    assert read.rows[1].messages[1].tool_calls[0].arguments == {"a": 1}
    assert read.rows[1].tools[0].name == "add"


BAD: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[]", "list, not an object"),
    ({}, "keys none"),
    ({"prompt": "a"}, "keys prompt"),
    ({**GOOD, "extra": 1}, "extra"),
    ({"prompt": "a", "answer": 3}, "answer is int"),
    ({"prompt": " ", "answer": "b"}, "prompt is empty"),
    ({"messages": "a"}, "messages is str"),
    ({"messages": [{"role": "user", "content": "a"}]}, "does not end with an assistant"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing before"),
    ({"messages": [{"role": "boss", "content": "a"}, {"role": "assistant", "content": "b"}]}, "'boss'"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "message 2 is empty"),
    ({"messages": [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]}, "name"),
]


def test_every_bad_line_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, *(row for row, _ in BAD), GOOD)
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert [number for number, _ in caught.value.problems] == list(range(2, 2 + len(BAD)))
    for (_, expected), (_, said) in zip(BAD, caught.value.problems, strict=True):
        assert expected in said
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("rows", [(), (GOOD,)])
def test_too_few_rows(tmp_path: Path, rows: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=f"{len(rows)} rows"):
        read_examples(write(tmp_path, *rows))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "nowhere.jsonl")


def test_rows_longer_than_the_context_are_named(tmp_path: Path, tiny: Base) -> None:
    long = {"prompt": "x" * 200, "answer": "b"}
    read = read_examples(write(tmp_path, GOOD, long, GOOD, long))
    with pytest.raises(DataError, match=r"line 2: has \d+ tokens; .* is 128; line 4"):
        encode(tiny, read, "")


def test_only_answers_are_learned(tiny: Base, examples: Examples) -> None:
    row = encode(tiny, examples, "Add.")[3]
    learned = [token for token, learn in zip(row.ids, row.learn, strict=True) if learn]
    assert tiny.tokenizer.decode(learned) == "sum 6."
    assert row.answer_tokens == len(learned)


def test_an_activated_adapter_learns_each_turn_from_a_row_of_its_own(tiny: Base, tmp_path: Path) -> None:
    """When it serves the second turn, the first is history, which the base reads."""
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "1"), ("assistant", "one"), ("user", "2"), ("assistant", "two"))
    ]
    read = read_examples(write(tmp_path, {"messages": turns}, GOOD))
    invocation = tiny.chat.invocation()
    rows = encode(tiny, read, "", invocation)[:2]
    said = [tiny.tokenizer.decode([i for i, learn in zip(row.ids, row.learn, strict=True) if learn]) for row in rows]
    assert said == ["one", "two"]
    for row in rows:
        assert row.ids[row.offset : row.offset + len(invocation)] == invocation
        assert row.learn.index(True) == row.offset + len(invocation)
        assert row.before + row.acting == row.ids[:-1]
    assert rows[1].ids[: len(rows[0].ids)] == rows[0].ids


@settings(max_examples=30, deadline=None)
@given(prompts=st.lists(st.integers(0, 6), min_size=4, max_size=40), share=st.floats(0.01, 0.5), seed=st.integers(0, 9))
def test_a_prompt_is_never_on_both_sides(prompts: list[int], share: float, seed: int) -> None:
    rows = [Row((p, i), (False, True), str(p)) for i, p in enumerate(prompts)]
    try:
        found = split(rows, TrainSettings(holdout=share, seed=seed))
    except SettingsError:
        assert len(set(prompts)) == 1
        return
    assert sorted(found.train + found.holdout, key=lambda row: row.ids[1]) == rows
    assert found.holdout
    assert not {row.ids[0] for row in found.train} & {row.ids[0] for row in found.holdout}


@given(count=st.integers(1, 30), rows_a_step=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_epoch_is_every_row_once(count: int, rows_a_step: int, seed: int) -> None:
    rows = [Row((i,), (True,)) for i in range(count)]
    chosen = TrainSettings(batch_rows=rows_a_step, seed=seed)
    stream = [row for step in range(2 * count // rows_a_step + 2) for row in batch(rows, step, chosen)]
    for epoch in range(2):
        assert {row.ids[0] for row in stream[epoch * count : (epoch + 1) * count]} == set(range(count))


def test_settings_are_strict() -> None:
    for given_, named in (
        ({"rank": 0}, "rank is 0"),
        ({"ranks": 4}, "no training setting 'ranks'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"targets": ("q_proj", "lm_head")}, "lm_head"),
    ):
        with pytest.raises(SettingsError, match=named):
            TrainSettings.of(**given_)
    with pytest.raises(SettingsError, match="compute is 'fp8'"):
        PassSettings.of(compute="fp8")
    assert TrainSettings.of(rank=None).rank == TrainSettings().rank


def test_the_rate_rises_and_falls() -> None:
    chosen = TrainSettings(learning_rate=1e-3, warmup=0.1)
    rates = [chosen.rate(step, 100) for step in range(100)]
    assert max(rates) == rates[10] == pytest.approx(1e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 2e-4
    assert rates[-1] < 1e-5

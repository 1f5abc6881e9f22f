"""A contract is settled before training: what is learned can be drawn, what is given is kept by every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import DataError, GrammarError
from plural.evals import Task, answers, broken
from plural.specialists import Contract
from plural.wiring.contracts import AUTO, NONE, check, settle
from tests.engine.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=12)  # a grammar draws no control characters
VALUES = st.fixed_dictionaries(
    {"task": TEXT, "count": st.integers(), "sure": st.booleans()},
    optional={"level": st.floats(allow_nan=False, allow_infinity=False), "steps": st.lists(TEXT)},
)


def rows(*texts: str) -> Any:
    return Task.of("rows", [{"prompt": f"row {line}", "answer": text} for line, text in enumerate(texts)]).rows


@settings(max_examples=40)
@given(values=st.lists(VALUES, min_size=20, max_size=40), compact=st.booleans())
def test_a_schema_that_is_learned_from_ordinary_json_can_be_drawn(values: list[dict[str, Any]], compact: bool) -> None:
    separators = (",", ":") if compact else None
    texts = [json.dumps(value, separators=separators, ensure_ascii=False) for value in values]
    learned = settle(AUTO, rows(*texts), rows(*texts), "rows", TOKENIZER)
    assert learned.contract is not None, learned.note
    assert broken(learned.contract, answers(rows(*texts))) == []
    check(learned.contract, rows(*texts), "rows", TOKENIZER)


@pytest.mark.parametrize("layout", [{"indent": 2}, {"ensure_ascii": True}])
def test_json_that_no_grammar_draws_as_it_is_written_is_trained_without_a_contract(layout: dict[str, Any]) -> None:
    texts = [json.dumps({"a": n, "b": "é"}, **{"ensure_ascii": False, **layout}) for n in range(40)]
    learned = settle(AUTO, rows(*texts), rows(*texts), "rows", TOKENIZER)
    assert learned.contract is None
    assert "line 1" in learned.note


def test_only_rows_that_are_trained_on_teach() -> None:
    every = rows(*["yes", "no"] * 30, "perhaps", "perhaps")
    assert settle(AUTO, every, every[:-2], "rows", TOKENIZER).contract == Contract(
        kind="choices", source='["no", "yes"]'
    )
    assert settle(NONE, every, every, "rows", TOKENIZER).contract is None


def test_rows_with_tools_are_held_to_their_tools() -> None:
    tool = {"name": "add", "description": "", "parameters": {"type": "object"}}
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}], "tools": [tool]}
    with_tools = Task.of("rows", [row] * 60).rows
    assert settle(AUTO, with_tools, with_tools, "rows", TOKENIZER).contract is None


def test_every_row_that_breaks_a_given_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text('["yes", "no"]')
    with pytest.raises(DataError) as caught:
        settle(str(tmp_path / "two.json"), rows("yes", "maybe", "no", "maybe"), (), "rows.jsonl", TOKENIZER)
    assert [line for line, _ in caught.value.problems] == [2, 4]
    assert "rows.jsonl" in str(caught.value)
    backwards = Contract(kind="json_schema", source='{"properties":{"a":{"type":"integer"},"b":{"type":"integer"}}}')
    texts = ['{"b":1,"a":2}', '{"a":2,"b":1}', '{"b":1,"a":2}', '{"a":"x"}']
    with pytest.raises(DataError) as caught:
        settle(backwards, rows(*texts), (), "rows.jsonl", TOKENIZER)
    assert [line for line, _ in caught.value.problems] == [1, 3, 4]
    assert "cannot be drawn" in caught.value.problems[0][1]


@pytest.mark.parametrize("source", ["(?=a)a", "(("])
def test_a_pattern_that_makes_no_grammar_is_refused(source: str) -> None:
    with pytest.raises(GrammarError):
        settle(Contract(kind="regex", source=source), rows("a"), (), "rows", TOKENIZER)

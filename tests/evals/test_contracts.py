"""Contracts that are learned from answers: they accept all of them, and are no narrower than the answers can show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.errors import GrammarError
from plural.evals import Answer, Task, answers, broken, learn, read_contract
from plural.specialists import Contract

from .test_checkers import ANY_JSON


def said(*texts: str, prompts: Sequence[str] = ()) -> list[Answer]:
    return [Answer(line, prompts[line - 1] if prompts else f"row {line}", text) for line, text in enumerate(texts, 1)]


def schema(values: Sequence[Any], prompts: Sequence[str] = ()) -> dict[str, Any]:
    found = learn(said(*map(json.dumps, values), prompts=prompts)).contract
    assert found is not None
    assert found.kind == "json_schema"
    return json.loads(found.source)  # type: ignore[no-any-return]


SHAPED = st.one_of(
    st.lists(st.sampled_from(["yes", "no", "maybe so"])),
    st.lists(st.integers().map(str)),
    st.lists(st.dates().map(str)),
    st.lists(st.dictionaries(st.sampled_from("abcd"), ANY_JSON, max_size=4).map(json.dumps)),
    st.lists(ANY_JSON.map(json.dumps)),
    st.lists(st.text(min_size=1)),
)


@given(texts=SHAPED, times=st.sampled_from([1, 7, 40]))
def test_what_is_learned_accepts_every_answer(texts: list[str], times: int) -> None:
    every = said(*texts * times)
    contract = learn(every).contract
    if contract is not None:
        assert broken(contract, every) == []


# ------------------------------------------------------------------------------------------------------------- choices
def test_few_answers_that_come_again_and_again_are_choices() -> None:
    found = learn(said(*["positive", "negative", "neutral"] * 20))
    assert found.contract == Contract(kind="choices", source='["negative", "neutral", "positive"]')
    assert "3" in found.why
    assert broken(found.contract, said("positive", "Positive")) == [
        (2, "The answer 'Positive' is none of negative, neutral, positive")
    ]


@pytest.mark.parametrize(
    ("texts", "prompts"),
    [
        (["yes", "no"] * 5, ()),  # too few rows
        ([f"colour {n}" for n in range(60)] * 20, ()),  # too many options
        (["yes", "no"] * 50 + ["maybe", "perhaps"], ()),  # some came only once: there will be others
        (["a text " * 20, "another text"] * 40, ()),  # too long to be an option
        (["Paris", "Rome"] * 40, ["I live in Paris", "I live in Rome"] * 40),  # taken from the prompt
    ],
)
def test_other_answers_stay_free(texts: list[str], prompts: Sequence[str]) -> None:
    assert learn(said(*texts, prompts=prompts)).contract is None


def test_options_that_every_prompt_lists_are_choices() -> None:
    prompts = [f"Is film {n} good or bad?" for n in range(60)]
    found = learn(said(*["good", "bad"] * 30, prompts=prompts)).contract
    assert found is not None
    assert json.loads(found.source) == ["bad", "good"]


# ---------------------------------------------------------------------------------------------------------- JSON Schema
def test_a_schema_has_types_required_keys_and_the_few_values_of_a_key() -> None:
    values = [
        {
            "intent": ["on", "off"][n % 2],
            "slots": {"area": f"room {n}", **({"level": n} if n % 3 else {})},
            "sure": n > 5,
        }
        for n in range(100)
    ]
    found = schema(values)
    assert found["required"] == ["intent", "slots", "sure"]
    assert found["additionalProperties"] is False
    below = found["properties"]
    assert below["intent"] == {"enum": ["off", "on"]}
    assert below["sure"] == {"type": "boolean"}
    assert below["slots"]["properties"] == {"area": {"type": "string"}, "level": {"type": "integer"}}
    assert below["slots"]["required"] == ["area"]
    contract = Contract(kind="json_schema", source=json.dumps(found))
    unseen = {"intent": "on", "slots": {"area": "a room that no row had", "level": 1000}, "sure": False}
    assert broken(contract, said(json.dumps(unseen))) == []
    wrong = [{**unseen, "intent": "dim"}, {**unseen, "more": 1}, {"intent": "on", "sure": True}]
    assert [line for line, _ in broken(contract, said(*map(json.dumps, wrong)))] == [1, 2, 3]


def test_values_that_the_prompt_names_stay_free() -> None:
    rooms = ["kitchen", "bedroom", "hall"]
    prompts = [f"Light on in the {rooms[n % 3]}, please, number {n}" for n in range(90)]
    found = schema([{"area": rooms[n % 3], "number": n} for n in range(90)], prompts)
    assert found["properties"]["area"] == {"type": "string"}


def test_keys_that_are_data_are_no_properties() -> None:
    found = schema([{f"ingredient {n}": n, f"spice {n}": 2 * n} for n in range(100)])
    assert found == {"type": "object", "additionalProperties": {"type": "integer"}}


def test_keys_in_no_common_order_are_not_put_into_one() -> None:
    values = [{"a": n, "b": n} if n % 2 else {"b": n, "a": n} for n in range(100)]
    assert "properties" not in schema(values)
    merged = schema([{"a": n, "c": n} if n % 2 else {"b": n, "c": n} for n in range(100)])
    assert list(merged["properties"])[-1] == "c"


def test_mixed_types_are_all_allowed() -> None:
    found = schema([{"level": [n, None, n / 2][n % 3], "steps": [{"task": f"t{n}"}] * (n % 4)} for n in range(100)])
    assert set(found["properties"]["level"]["type"]) == {"null", "number"}
    assert found["properties"]["steps"]["items"]["required"] == ["task"]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1', "[" * 5000])
def test_what_no_grammar_draws_makes_no_schema(text: str) -> None:
    assert learn(said(*[f'{{"a": {n}}}' for n in range(100)], text)).contract is None


# --------------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize(
    ("texts", "unseen", "wrong"),
    [
        ([str(n - 30) for n in range(100)], "123456", "1.5"),
        ([f"{n}.25" for n in range(100)], "7", "seven"),
        ([f"2026-0{1 + n % 9}-{10 + n % 19}" for n in range(100)], "1999-12-31", "2026-13-01"),
        ([f"{n % 24}:{n % 60:02}" for n in range(100)], "09:59", "24:00"),
        ([f"{n % 60} {n % 24} * * {n % 7}" for n in range(100)], "*/5 0 1,15 JAN MON-FRI", "0 0 * *"),
    ],
)
def test_common_shapes_are_patterns(texts: list[str], unseen: str, wrong: str) -> None:
    contract = learn(said(*texts)).contract
    assert contract is not None
    assert contract.kind == "regex"
    assert broken(contract, said(*texts, unseen)) == []
    assert len(broken(contract, said(wrong))) == 1


def test_a_shape_needs_many_answers_and_no_exception() -> None:
    assert learn(said(*map(str, range(40)))).contract is None
    assert learn(said(*map(str, range(100)), "many")).contract is None
    assert learn(said(*[f"{n} {n} {n} {n} {n}" for n in range(100)])).contract is None  # five numbers are no schedule


# ----------------------------------------------------------------------------------------------------- given, and rows
def test_every_turn_of_the_assistant_is_an_answer_but_a_tool_call_is_none() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "add"},
        call,
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "two"},
    ]
    rows = Task.of("t", [{"messages": messages}, {"messages": messages[:5]}, {"prompt": "p", "answer": "a"}]).rows
    assert answers(rows) == [
        Answer(1, "one", "1"),
        Answer(1, "2", "two"),
        Answer(2, "one", "1"),
        Answer(3, "p", "a"),
    ]


def test_a_contract_is_read_from_a_file(tmp_path: Path) -> None:
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    assert read_contract(written("c.json", '["a", "b"]')) == Contract(kind="choices", source='["a", "b"]')
    assert read_contract(written("s.json", '{"type": "object"}')).kind == "json_schema"
    assert read_contract(written("r.txt", "[0-9]+\n")) == Contract(kind="regex", source="[0-9]+")
    for name, text in (("x.json", "{"), ("y.json", "[1]"), ("z.txt", "(("), ("w.json", "3"), ("v.txt", "")):
        with pytest.raises(GrammarError):
            read_contract(written(name, text))
    with pytest.raises(GrammarError, match="cannot be read"):
        read_contract(tmp_path / "none.json")

"""Ten thousand decisions of a base that knows nothing: whatever the schema, the choice or the tool, none is malformed.

Its weights are random, so nothing but the grammar gives its answers their form.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from plural import sync
from plural.agents.schema import violations
from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.teams.planner import plan_schema
from plural.types import Grammar, Sampling

from .tiny import CONFIG, tiny_base

PLAN = plan_schema(letters=16)  # a base that knows nothing would write its tasks to their ends
# Of one example: so many forms, and so many answers in each. All of them are one batch of the engine.
FORMS, EACH = 6, 4
SEEDS = itertools.count()

PATTERNS = [r"^[a-f]{2,6}$", r"^\d{4}-\d{2}$", "^(on|off)$"]
names = st.text(st.characters(codec="ascii", categories=["L", "Nd"], include_characters="_-"), min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
scalars = st.none() | st.booleans() | st.integers(-999, 999) | texts


@st.composite
def integers(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(-(10**6), 10**6))
    return {"type": "integer", "minimum": least, "maximum": least + draw(st.integers(0, 10**4))}


@st.composite
def numbers(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(-1000, 1000))
    return {"type": "number", "minimum": least, "maximum": least + draw(st.integers(1, 100))}


@st.composite
def strings(draw: Any) -> dict[str, Any]:
    least = draw(st.integers(0, 4))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 8))}


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda values: {"enum": values}, st.lists(scalars, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, scalars),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
    integers(),
    numbers(),
    strings(),
)


@st.composite
def arrays(draw: Any, below: Any) -> dict[str, Any]:
    least = draw(st.integers(0, 2))
    return {"type": "array", "items": draw(below), "minItems": least, "maxItems": least + draw(st.integers(0, 2))}


@st.composite
def objects(draw: Any, below: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, below, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def alternatives(below: Any) -> Any:
    return st.builds(lambda forms: {"anyOf": forms}, st.lists(below, min_size=1, max_size=3))


schemas = st.recursive(
    leaves, lambda below: st.one_of(arrays(below), objects(below), alternatives(below)), max_leaves=6
)


@st.composite
def toolboxes(draw: Any) -> list[dict[str, Any]]:
    named = names.filter(lambda name: name not in ("auto", "any", "required", "none"))  # words of tool_choice
    called = draw(st.lists(named, min_size=1, max_size=3, unique=True))
    return [
        {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": draw(objects(leaves))}}
        for name in called
    ]


@pytest.fixture(scope="module")
def model() -> Iterator[ChatPlural]:
    small = tiny_base(replace(CONFIG, max_positions=4096))
    engine = Engine(small.decoder, small.tokenizer, {}.__getitem__, EngineSettings(max_running=FORMS * EACH))
    yield ChatPlural(engine=engine, base=small, model_name="tiny", sampling=Sampling(max_tokens=2048, temperature=1.0))
    engine.check()
    engine.close()


def answers(model: ChatPlural, asked: list[dict[str, Any]]) -> list[Any]:
    """One message for each way of asking, every one with a seed of its own."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(model.ainvoke("Decide.", seed=next(SEEDS), **how) for how in asked))

    return sync.run(all_at_once())


def whole(message: Any) -> bool:
    return bool(message.response_metadata["finish_reason"] != "length")


def read_value(model: ChatPlural, forms: list[dict[str, Any]]) -> int:
    asked = [form for form in forms for _ in range(EACH)]
    said = answers(model, [{"grammar": Grammar.json_schema(form)} for form in asked])
    for form, message in zip(asked, said, strict=True):
        assert whole(message)
        assert violations(json.loads(message.text), form) == []
    return len(said)


def read_choice(model: ChatPlural, lists: list[list[str]]) -> int:
    asked = [options for options in lists for _ in range(EACH)]
    said = answers(model, [{"grammar": Grammar.choices(options)} for options in asked])
    for options, message in zip(asked, said, strict=True):
        assert message.text in options
    for options in lists:
        decision = sync.run(model.achoose("Decide.", options))
        assert decision.value in options
        assert sum(option.probability for option in decision.options) == pytest.approx(1)
    return len(said) + len(lists)


def read_calls(model: ChatPlural, boxes: list[list[dict[str, Any]]]) -> int:
    ways = ["required", "auto", "one", "required"][:EACH]
    asked = [(box, how) for box in boxes for how in ways]
    options = [
        {
            "tools": box,
            "tool_choice": box[0]["function"]["name"] if how == "one" else how,
            "parallel_tool_calls": False,
            # Left to itself it would write text for ever.
            "max_tokens": 40 if how == "auto" else 2048,
        }
        for box, how in asked
    ]
    said = answers(model, options)
    for (box, how), message in zip(asked, said, strict=True):
        parameters = {each["function"]["name"]: each["function"]["parameters"] for each in box}
        assert not message.invalid_tool_calls
        if how == "auto" and not message.tool_calls:
            assert not whole(message) or "<tool_call>" not in message.text
            continue
        assert whole(message)
        (call,) = message.tool_calls
        assert message.text == ""
        assert how != "one" or call["name"] == box[0]["function"]["name"]
        assert violations(call["args"], parameters[call["name"]]) == []
    return len(said)


KINDS = {
    "values": (read_value, st.lists(schemas | st.just(PLAN), min_size=FORMS, max_size=FORMS)),
    "choices": (
        read_choice,
        st.lists(st.lists(texts, min_size=1, max_size=6, unique=True), min_size=FORMS, max_size=FORMS),
    ),
    "calls": (read_calls, st.lists(toolboxes(), min_size=FORMS, max_size=FORMS)),
}


def decide(model: ChatPlural, kind: str, examples: int) -> int:
    """How many decisions were made."""
    read, forms = KINDS[kind]
    made = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(drawn=forms)
    def any_of_them(drawn: Any) -> None:
        made.append(read(model, drawn))

    any_of_them()
    return sum(made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hundred(model: ChatPlural, kind: str) -> None:
    assert decide(model, kind, 5) >= 5 * FORMS * EACH


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand(model: ChatPlural, kind: str) -> None:
    assert decide(model, kind, 140) * len(KINDS) >= 10_000

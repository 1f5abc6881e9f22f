"""Decisions by every kind of model, made with scripted ones; the engine's own are in tests/engine/test_chat.py."""

from __future__ import annotations

import enum
import json
import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, ConfigDict

from plural.agents import adecide, decide
from plural.agents.decisions import tempered
from plural.agents.schema import finite_values
from plural.errors import ContractError, GrammarError, SettingsError
from plural.testing import ScriptedModel
from plural.types import Decision, Option

COLOURS = ["red", "green", "blue"]


class Chooser(ScriptedModel):
    """Says what it would choose how often."""

    shares: dict[str, float]

    async def achoose(self, messages: Any, options: Any) -> Decision[str]:
        ranked = sorted(options, key=lambda option: -self.shares[option])
        return Decision(ranked[0], self.shares[ranked[0]], tuple(Option(one, self.shares[one]) for one in ranked))


def choosing(**shares: float) -> Chooser:
    return Chooser([], shares=shares)


def with_logprobs(text: str, *tokens: dict[str, float]) -> AIMessage:
    """As providers write log-probabilities: of each token the likeliest."""
    content = [
        {
            "token": next(iter(token)),
            "logprob": math.log(next(iter(token.values()))),
            "top_logprobs": [{"token": name, "logprob": math.log(share)} for name, share in token.items()],
        }
        for token in tokens
    ]
    return AIMessage(text, response_metadata={"logprobs": {"content": content}})


class Provider(GenericFakeChatModel):
    """Another provider's chat model: it neither chooses nor takes grammars."""


def provider(*replies: str | AIMessage) -> Provider:
    return Provider(messages=iter([AIMessage(one) if isinstance(one, str) else one for one in replies]))


# --------------------------------------------------------------------------------------------- how it comes about
async def test_a_chooser_is_exact() -> None:
    decision = await adecide(choosing(red=0.2, green=0.5, blue=0.3), "Which?", COLOURS)
    assert (decision.value, decision.probability, decision.by) == ("green", 0.5, "logits")
    assert [option.value for option in decision.options] == ["green", "blue", "red"]


def test_the_blocking_form_reads_what_chains_read() -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "Which {what}?")]).invoke({"what": "colour"})
    model = ScriptedModel(["blue"] * 3)
    for asked in (prompt, [("human", "Which colour?")], "Which colour?"):
        assert decide(model, asked, COLOURS).value == "blue"
    assert {str(asked.messages) for asked in model.asked} == {str((HumanMessage("Which colour?"),))}


def test_letters_where_the_provider_gives_logprobs() -> None:
    model = provider(with_logprobs("B", {"B": 0.6, " A": 0.2, "A": 0.1, "Well": 0.05}))
    decision = decide(model, "Which?", COLOURS)
    assert decision.by == "logprobs"
    shares = {option.value: option.probability for option in decision.options}
    assert shares == pytest.approx({"green": 2 / 3, "red": 1 / 3, "blue": 0.0})


@pytest.mark.parametrize("first", [AIMessage("green"), with_logprobs("Well", {"Well": 0.9, "Oh": 0.1})])
def test_sampling_where_it_gives_none_that_help(first: AIMessage) -> None:
    decision = decide(provider(first, "green", "Red.", "green", "I cannot say"), "Which?", COLOURS, samples=4)
    assert decision.by == "samples"
    assert [(option.value, option.probability) for option in decision.options] == [
        ("green", pytest.approx(2 / 3)),
        ("red", pytest.approx(1 / 3)),
        ("blue", 0.0),
    ]


def test_a_provider_that_refuses_logprobs_is_sampled() -> None:
    class Strict(FakeListChatModel):
        def _call(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
            if kwargs:
                raise TypeError(f"unexpected keyword {kwargs}")
            return super()._call(messages, stop, run_manager)

    decision = decide(Strict(responses=["blue"]), "Which?", COLOURS, samples=3)
    assert (decision.value, decision.probability, decision.by) == ("blue", 1.0, "samples")


def test_what_was_bound_to_a_chooser_is_not_left_out() -> None:
    model = choosing(red=1.0, green=0.0, blue=0.0)
    assert decide(model.with_config(tags=["mine"]), "Which?", COLOURS).by == "logits"
    talking = ScriptedModel(["red", "red", "blue"])
    assert decide(talking.bind(temperature=1.0), "Which?", COLOURS, samples=2).by == "samples"
    assert talking.asked[1].options["temperature"] == 1.0


def test_structured_output_is_used_where_there_is_some() -> None:
    class Structured(Provider):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            assert schema["properties"]["value"]["enum"] == COLOURS
            return self | (lambda said: json.loads(said.content))

    model = Structured(messages=iter([AIMessage("?"), AIMessage('{"value": "red"}'), AIMessage('{"value": "mauve"}')]))
    decision = decide(model, "Which?", COLOURS, samples=2)
    assert (decision.value, decision.probability, decision.by) == ("red", 1.0, "samples")


def test_no_answer_that_can_be_used_is_an_error() -> None:
    with pytest.raises(ContractError, match=r"None of 2 answers can be used.*'mauve' is none of red, green, blue"):
        decide(provider("mauve", "mauve", "mauve"), "Which?", COLOURS, samples=2)


# ---------------------------------------------------------------------------------------------------------- schemas
class Light(enum.Enum):
    ON = "on"
    OFF = "off"


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    light: Light
    sure: bool


class Person(BaseModel):
    name: str
    age: int


@pytest.mark.parametrize(
    ("schema", "shares", "value"),
    [
        (Literal["red", "blue"], {"red": 0.1, "blue": 0.9}, "blue"),
        (Light, {"on": 0.7, "off": 0.3}, Light.ON),
        (bool, {"true": 0.4, "false": 0.6}, False),
        ({"enum": ["1", 1]}, {'"1"': 0.2, "1": 0.8}, 1),
        ({"type": "integer", "minimum": 2, "maximum": 3}, {"2": 0.9, "3": 0.1}, 2),
        ({"anyOf": [{"type": "null"}, {"const": [1]}]}, {"null": 0.3, "[1]": 0.7}, [1]),
    ],
)
def test_a_schema_with_few_values_is_a_choice(schema: Any, shares: dict[str, float], value: Any) -> None:
    decision = decide(choosing(**shares), "Which?", schema=schema)
    assert (decision.value, decision.by) == (value, "logits")
    assert decision.probability == max(shares.values())


def test_an_object_of_few_values_is_one_too() -> None:
    texts = [json.dumps({"light": light, "sure": sure}) for light in ("on", "off") for sure in (True, False)]
    decision = decide(choosing(**dict(zip(texts, [0.1, 0.2, 0.3, 0.4], strict=True))), "?", schema=Switch)
    assert decision.value == Switch(light=Light.OFF, sure=False)
    assert len(decision.options) == 4


def test_an_open_value_has_the_probability_of_its_text() -> None:
    model = ScriptedModel([with_logprobs('{"name": "Ann", "age": 3}', {"x": 0.5}, {"y": 0.5})])
    decision = decide(model, "Who?", schema=Person)
    assert (decision.value, decision.by) == (Person(name="Ann", age=3), "logprobs")
    assert decision.probability == pytest.approx(0.25)
    assert model.asked[0].grammar is not None


def test_an_open_value_of_any_model_is_sampled() -> None:
    ann, bob = '{"name": "Ann", "age": 3}', '{"age": 4, "name": "Bob"}'
    decision = decide(provider(ann, bob, ann, "{}"), "Who?", schema=Person, samples=4)
    assert (decision.value, decision.by) == (Person(name="Ann", age=3), "samples")
    assert [option.probability for option in decision.options] == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "integer", "minimum": 0, "maximum": 1000},
        {"type": "object", "properties": {"a": {"type": "boolean"}}},
        {"type": "object", "properties": {f"p{n}": {"type": "boolean"} for n in range(9)},
         "required": [f"p{n}" for n in range(9)]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}},
    ],
)  # fmt: skip
def test_many_values_are_not_listed(schema: dict[str, Any]) -> None:
    assert finite_values(schema) is None


# ------------------------------------------------------------------------------------- thresholds and temperatures
def test_too_unsure_is_not_taken() -> None:
    decision = decide(choosing(red=0.4, green=0.35, blue=0.25), "Which?", COLOURS, threshold=0.5)
    assert decision.abstained
    assert decision.value is None
    assert decision.options[0] == Option("red", 0.4)
    assert not decide(choosing(red=0.5, green=0.3, blue=0.2), "Which?", COLOURS, threshold=0.5).abstained


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=6), st.floats(0.1, 10))
def test_a_temperature_keeps_order_and_sum(weights: list[float], temperature: float) -> None:
    ranked = sorted((weight / sum(weights) for weight in weights), reverse=True)
    decision = Decision(0, ranked[0], tuple(Option(at, share) for at, share in enumerate(ranked)))
    cooled = [option.probability for option in tempered(decision, temperature).options]
    assert sum(cooled) == pytest.approx(1)
    assert cooled == sorted(cooled, reverse=True)
    assert cooled[0] <= ranked[0] + 1e-9 if temperature >= 1 else cooled[0] >= ranked[0] - 1e-9


def test_a_temperature_is_applied_before_the_threshold() -> None:
    model = choosing(red=0.9, green=0.1, blue=0.0)
    decision = decide(model, "Which?", COLOURS, temperature=2.0, threshold=0.8)
    assert decision.abstained
    assert [option.probability for option in decision.options] == pytest.approx([0.75, 0.25, 0.0])


@pytest.mark.parametrize(
    ("options", "more", "error"),
    [
        (None, {}, SettingsError),
        (["a"], {"schema": bool}, SettingsError),
        (["a", "a"], {}, GrammarError),
        ([], {}, GrammarError),
        (["a", "b"], {"threshold": 2}, SettingsError),
        (["a", "b"], {"temperature": 0}, SettingsError),
        (["a", "b"], {"samples": 0}, SettingsError),
        (["a", "b"], {"alternatives": -1}, SettingsError),
        (None, {"schema": {"type": "tuple"}}, GrammarError),
        (None, {"schema": object()}, GrammarError),
    ],
)
def test_what_cannot_be_decided_is_refused(options: Any, more: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        decide(ScriptedModel([]), "Which?", options, **more)


def test_half_a_pair_of_surrogates_is_no_letter() -> None:
    said = r'{"text": "a\ud800b \ud83d\ude00"}'
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    decision = decide(ScriptedModel([said]), "?", schema=schema, samples=1)
    assert decision.value == {"text": "a\ufffdb \U0001f600"}

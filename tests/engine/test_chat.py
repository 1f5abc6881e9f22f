"""The engine as a LangChain chat model, on the real base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.engine.messages import to_messages
from plural.errors import ContractError, PromptError, SettingsError
from plural.types import AdapterRef, Grammar, Message, Sampling

from .tiny import tiny_adapter


@pytest.fixture(scope="module")
def model(base: Any) -> Iterator[ChatPlural]:
    engine = Engine(base.decoder, base.tokenizer, {"random": tiny_adapter(1, 4, config=base.config)}.__getitem__)
    yield ChatPlural(engine=engine, base=base, model_name="base", sampling=Sampling(max_tokens=12))
    engine.check()
    engine.close()


def weather(city: str, days: int = 1) -> str:
    """The weather of a city.

    Args:
        city: Its name.
        days: How many days ahead.
    """
    return f"{city}: sunny for {days}"


def test_invoke_counts_its_tokens(model: ChatPlural) -> None:
    answer = model.invoke("What is the capital of France?")
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.usage_metadata is not None
    assert 0 < answer.usage_metadata["output_tokens"] <= 12
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


async def test_streamed_chunks_make_the_same_message(model: ChatPlural) -> None:
    whole = await model.ainvoke("Name three fruits.")
    chunks = [chunk async for chunk in model.astream("Name three fruits.")]
    assert len(chunks) > 3
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    counted = sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks)
    assert counted == whole.usage_metadata["output_tokens"]


def test_sync_stream_equals_invoke(model: ChatPlural) -> None:
    assert "".join(str(chunk.content) for chunk in model.stream("Say hi.")) == model.invoke("Say hi.").content


def test_pipes_with_prompts_and_parsers(model: ChatPlural) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
    chain = prompt | model | StrOutputParser()
    first, second = chain.batch([{"question": "What is 1+1?"}, {"question": "What colour is the sky?"}])
    assert first == chain.invoke({"question": "What is 1+1?"})
    assert isinstance(second, str)


def test_a_required_call_is_valid_by_construction(model: ChatPlural) -> None:
    answer = model.bind_tools([weather], tool_choice="any", max_tokens=64).invoke("Weather in Paris?")
    assert answer.content == ""
    assert answer.tool_calls
    assert {call["name"] for call in answer.tool_calls} == {"weather"}
    assert all(isinstance(call["args"]["city"], str) for call in answer.tool_calls)
    assert answer.response_metadata["finish_reason"] == "tool_calls"


async def test_a_streamed_call_never_leaks_as_text(model: ChatPlural) -> None:
    bound = model.bind_tools([weather], tool_choice="weather", max_tokens=64)
    chunks = [chunk async for chunk in bound.astream("Weather in Rome?")]
    assert "".join(str(chunk.content) for chunk in chunks) == ""
    assert [call["name"] for chunk in chunks for call in chunk.tool_calls]


def test_tool_choice_none_answers_in_text(model: ChatPlural) -> None:
    answer = model.bind_tools([weather], tool_choice="none").invoke("Hello!")
    assert answer.content
    assert not answer.tool_calls


def test_structured_output_is_what_the_schema_says(model: ChatPlural) -> None:
    class Person(BaseModel):
        name: str
        age: int

    roomy = model.model_copy(update={"sampling": Sampling(max_tokens=64)})
    assert isinstance(roomy.with_structured_output(Person).invoke("Ann is 33 years old."), Person)


def test_structured_output_that_does_not_fit_says_so(model: ChatPlural) -> None:
    text = {"type": "string", "minLength": 400}
    schema = {"title": "essay", "type": "object", "properties": {"text": text}, "required": ["text"]}
    with pytest.raises(ContractError, match="max_tokens"):
        model.with_structured_output(schema).invoke("Write.")


def test_grammar_binds_like_any_option(model: ChatPlural) -> None:
    answer = model.bind(grammar=Grammar.choices(["yes", "no"])).invoke("Is fire hot?")
    assert answer.content in ("yes", "no")


async def test_choose_gives_every_option_its_probability(model: ChatPlural) -> None:
    decision = await model.achoose("Is Paris in France?", ["Yes.", "No.", "Banana"])
    assert {option.value for option in decision.options} == {"Yes.", "No.", "Banana"}
    assert sum(option.probability for option in decision.options) == pytest.approx(1)
    assert decision.value != "Banana"
    assert decision.probability == max(option.probability for option in decision.options)


async def test_vectors_are_of_unit_length_and_tell_texts_apart(model: ChatPlural) -> None:
    lamp, light, tax = await model.aembed(["turn on the lamp", "switch on the light", "income tax law of 1986"])
    assert sum(value * value for value in lamp) == pytest.approx(1, abs=1e-4)

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(lamp, light) > dot(lamp, tax)


def test_an_activated_specialist_reads_what_the_base_has_read(model: ChatPlural) -> None:
    invocation = model.base.chat.invocation()
    assert model.base.chat.text([Message("user", "?")]).endswith(model.base.tokenizer.decode(invocation))
    acting = model.model_copy(update={"adapter": AdapterRef("random"), "invocations": {"random": invocation}})
    question = "Which of these is a bird: a stone, a robin, a boat, a cloud? Say why, and say it in few words."
    base, said = model.invoke(question), acting.invoke(question)
    assert said.content != base.content
    asked = said.usage_metadata["input_tokens"]
    assert said.usage_metadata["input_token_details"]["cache_read"] == (asked - len(invocation)) // 16 * 16 >= 32
    with pytest.raises(PromptError, match="is invoked by"):
        acting.model_copy(update={"invocations": {"random": (5, 5, 5)}}).invoke(question)


def test_a_call_may_say_how_urgent_it_is(model: ChatPlural) -> None:
    assert model.bind(priority=3, deadline=600.0).invoke("Hi").content == model.invoke("Hi").content


@pytest.mark.parametrize(
    "options", [{"temprature": 0.1}, {"deadline": -1.0}, {"tool_choice": "other", "tools": [{"name": "f"}]}]
)
def test_an_unknown_option_is_an_error(model: ChatPlural, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        model.bind(**options).invoke("Hi")


def test_messages_are_read_or_refused() -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "1"}
    said = [SystemMessage("s"), HumanMessage([{"type": "text", "text": "u"}]), AIMessage("", tool_calls=[call])]
    read = to_messages([*said, ToolMessage("r", tool_call_id="1")])
    assert [message.role for message in read] == ["system", "user", "assistant", "tool"]
    assert read[1].content == "u"
    assert read[2].tool_calls[0].arguments == {"a": 1}
    with pytest.raises(PromptError, match="image_url"):
        to_messages([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])

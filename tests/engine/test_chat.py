"""The engine as a LangChain chat model, on the real base."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from plural.agents import Agent, adecide, decide
from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.engine.messages import known_choice, to_messages
from plural.errors import ContractError, DeadlineError, PromptError, SettingsError
from plural.types import AdapterRef, Grammar, Message, Sampling, ToolReturned, ToolSpec

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


ESSAY = {
    "name": "essay",
    "description": "Keeps an essay.",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 400}},
        "required": ["text"],
    },
}


@pytest.mark.parametrize("tokens", [1, 6, 40])
async def test_a_call_that_is_cut_off_is_an_invalid_call_and_no_text(model: ChatPlural, tokens: int) -> None:
    bound = model.bind_tools([ESSAY], tool_choice="any", max_tokens=tokens)
    said = bound.invoke("Write about the sea.")
    chunks = [chunk async for chunk in bound.astream("Write about the sea.")]
    streamed = chunks[0] + chunks[1:]
    for message in (said, streamed):
        assert message.content == ""
        assert message.tool_calls == []
        assert message.response_metadata["finish_reason"] == "length"
        (broken,) = message.invalid_tool_calls
        assert broken["name"] == ("essay" if tokens == 40 else "")
        assert str(broken["args"]).startswith("<tool_call>"[:tokens])
    assert f"was cut off after {tokens} tokens: raise max_tokens" in str(said.invalid_tool_calls[0]["error"])


def test_a_structured_call_that_is_cut_off_says_so(model: ChatPlural) -> None:
    wanted = model.with_structured_output(ESSAY, method="function_calling", max_tokens=40)
    with pytest.raises(ContractError, match=r"ended before it was whole: '<tool_call>.*essay.*Raise max_tokens"):
        wanted.invoke("Write about the sea.")


async def test_an_agents_call_that_is_cut_off_never_becomes_its_answer(model: ChatPlural) -> None:
    """The base calls when it must: here it may not do anything else, until it has to answer."""

    class Calls(ChatPlural):
        def bind_tools(self, tools: Any, *, tool_choice: Any = None, **options: Any) -> Any:
            return super().bind_tools(tools, tool_choice=tool_choice or "any", **options)

    always = Calls(engine=model.engine, base=model.base, model_name="base", max_tokens=40)
    events = [event async for event in Agent("writer", always, tools=[essay]).events("Write about the sea.")]
    returned = [event for event in events if isinstance(event, ToolReturned)]
    assert [event.failed for event in returned] == [True, True]
    assert "The call of essay was cut off after 40 tokens" in returned[0].result
    assert "<tool_call>" not in events[-1].answer  # type: ignore[union-attr]


def essay(text: Annotated[str, Field(min_length=400)]) -> str:
    """Keeps an essay.

    Args:
        text: The essay.
    """
    return text


QUESTIONS = [f"What is {n} plus {n}? Say it in words." for n in range(12)]


def steps_of(model: ChatPlural, work: Callable[[], Any]) -> int:
    """How many steps the engine takes for it."""
    before = model.engine.stats().steps
    work()
    return model.engine.stats().steps - before


@pytest.mark.parametrize("how", ["batch", "abatch"])
def test_a_batch_is_one_batch_of_the_engine(model: ChatPlural, how: str) -> None:
    """Twelve answers of twelve tokens take the steps of one, and a few until the last has come in."""
    before = model.engine.stats().submitted
    run = {"batch": lambda: model.batch(QUESTIONS), "abatch": lambda: asyncio.run(model.abatch(QUESTIONS))}[how]
    assert steps_of(model, run) <= 12 + len(QUESTIONS)
    assert model.engine.stats().submitted - before == len(QUESTIONS)


def test_a_batch_of_a_chain_is_one_batch_of_the_engine(model: ChatPlural) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    asked = [{"question": question} for question in QUESTIONS]
    alone = [model.invoke(question).content for question in QUESTIONS]
    answers: list[Any] = []
    for specialist in (model, Agent("clerk", model)):
        chain = prompt | specialist | StrOutputParser()
        assert steps_of(model, lambda chain=chain: answers.append(chain.batch(asked))) <= 12 + len(asked)
    assert answers == [alone, alone]


async def test_leaving_a_stream_frees_its_pages(model: ChatPlural) -> None:
    long = model.bind(max_tokens=400, ignore_eos=True)
    stream = long.astream("Tell me a long story.")
    await anext(stream)
    assert model.engine.stats().pages_used
    await stream.aclose()
    task = asyncio.create_task(long.ainvoke("Tell me a longer story."))
    while not model.engine.stats().running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in long.stream("Tell me the longest story."):
        break
    for _ in range(100):  # the stream's end reaches the engine through two event loops
        await asyncio.sleep(0.01)
        model.engine.check()
        if not model.engine.stats().running:
            break
    assert model.engine.stats().pages_used == 0


def test_an_answer_that_takes_too_long_is_an_error(model: ChatPlural) -> None:
    slow = model.bind(max_tokens=400, ignore_eos=True, timeout=0.02)
    with pytest.raises(DeadlineError, match=r"not whole after 0.02 seconds"):
        slow.invoke("Tell me a story.")
    assert model.bind(timeout=600.0).invoke("Hi").content == model.invoke("Hi").content


def test_options_can_be_given_when_it_is_made(model: ChatPlural) -> None:
    made = ChatPlural(engine=model.engine, base=model.base, model_name="base", max_tokens=3, stop="you", temperature=0)
    assert made.sampling == Sampling(max_tokens=3, stop=("you",))
    assert made.invoke("Hi").usage_metadata["output_tokens"] <= 3
    with pytest.raises(ValueError, match="temprature"):
        ChatPlural(engine=model.engine, base=model.base, model_name="base", temprature=1)


def test_a_seed_makes_sampling_repeatable(model: ChatPlural) -> None:
    warm = model.bind(temperature=1.5, seed=7)
    first, again = warm.batch(["Tell me a story."] * 2)
    assert first.content == again.content
    assert model.bind(temperature=1.5, seed=8).invoke("Tell me a story.").content != first.content


def test_stop_strings_end_an_answer_and_are_not_shown(model: ChatPlural) -> None:
    whole = str(model.invoke("What is the capital of France?").content)
    assert "France" in whole
    cut = model.invoke("What is the capital of France?", stop=["France"])
    assert cut.content == whole[: whole.index("France")]
    assert cut.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("options", [{"logprobs": 3}, {"logprobs": True, "top_logprobs": 3}])
def test_logprobs_are_as_openai_writes_them(model: ChatPlural, options: dict[str, Any]) -> None:
    said = model.bind(max_tokens=4, **options).invoke("What is the capital of France?")
    tokens = said.response_metadata["logprobs"]["content"]
    assert len(tokens) == said.usage_metadata["output_tokens"] == 4
    assert "".join(token["token"] for token in tokens) == said.content
    assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
    for token in tokens:
        best = token["top_logprobs"]
        assert len(best) == 3
        assert {key: token[key] for key in ("token", "bytes", "logprob")} == best[0]  # greedy
        assert best[0]["logprob"] >= best[1]["logprob"] >= best[2]["logprob"]


async def test_a_streamed_answer_counts_its_tokens(model: ChatPlural) -> None:
    chunks = [chunk async for chunk in model.astream("Name three fruits.")]
    (counted,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    whole = (await model.ainvoke("Name three fruits.")).usage_metadata
    assert whole is not None
    for kind in ("input_tokens", "output_tokens", "total_tokens"):
        assert counted[kind] == whole[kind] > 0
    assert counted["total_tokens"] == counted["input_tokens"] + counted["output_tokens"]


def test_two_specialists_do_not_share_an_answer_in_langchains_cache(model: ChatPlural) -> None:
    cached = model.model_copy(update={"cache": InMemoryCache()})
    brief = cached.model_copy(update={"instructions": "Answer in French."})
    first = cached.invoke("Hello, who are you?")
    assert brief.invoke("Hello, who are you?").content != first.content
    submitted = model.engine.stats().submitted
    assert cached.invoke("Hello, who are you?").content == first.content
    assert model.engine.stats().submitted == submitted


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "weather", {"type": "function", "function": {"name": "weather"}}]
)
def test_every_way_to_ask_for_a_call(model: ChatPlural, choice: Any) -> None:
    bound = model.bind_tools([weather], tool_choice=choice, parallel_tool_calls=False, max_tokens=64)
    assert [call["name"] for call in bound.invoke("Weather in Paris?").tool_calls] == ["weather"]


@pytest.mark.parametrize("word", ["auto", "any", "required", "none"])
def test_a_tool_cannot_be_chosen_by_a_word_that_means_something_else(word: str) -> None:
    """Found by hypothesis: choosing the tool "none" forbade every call, choosing "auto" left it open."""
    with pytest.raises(SettingsError, match=f"names the tool '{word}'"):
        known_choice({"type": "function", "function": {"name": word}}, [ToolSpec(word, "", {})])
    assert known_choice(word, [ToolSpec(word, "", {})]) == ("required" if word == "any" else word)


class City(TypedDict):
    """A city."""

    name: str
    large: bool


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output_by_every_method(model: ChatPlural, method: Any) -> None:
    found = model.with_structured_output(City, method=method, include_raw=True, max_tokens=64).invoke("Paris is large.")
    assert found["parsing_error"] is None
    assert found["parsed"].keys() == {"name", "large"}
    assert isinstance(found["parsed"]["large"], bool)
    assert bool(found["raw"].tool_calls) == (method == "function_calling")


def test_raw_structured_output_keeps_what_was_said(model: ChatPlural) -> None:
    found = model.with_structured_output(City, include_raw=True, max_tokens=3).invoke("Paris is large.")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], ContractError)
    assert found["raw"].usage_metadata["output_tokens"] == 3


@pytest.mark.parametrize("options", [{"method": "magic"}, {"temprature": 1}])
def test_structured_output_knows_its_options(model: ChatPlural, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        model.with_structured_output(City, **options)


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


async def test_a_decision_is_exact_and_may_abstain(model: ChatPlural) -> None:
    asked, options = "Is Paris in France?", ["Yes.", "No.", "Banana"]
    made = await adecide(model, asked, options)
    assert made == await model.achoose(asked, options)
    assert made.by == "logits"
    unsure = await adecide(model, asked, options, threshold=1.0)
    assert unsure.abstained
    assert unsure.options == made.options


def test_a_decision_that_a_schema_leaves_open(model: ChatPlural) -> None:
    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=150)

    made = decide(model.bind(max_tokens=64), "Ann is 33 years old.", schema=Person)
    assert isinstance(made.value, Person)
    assert made.by == "logprobs"
    assert 0 < made.probability < 1


def test_what_else_a_schema_would_have_left_open(model: ChatPlural) -> None:
    """Alternatives are in the engine's batch with the answer; each has the probability of its own text."""
    schema = {"type": "string", "maxLength": 3}
    asked, least = "Say one short word.", 1e-9
    before = model.engine.stats()
    made = decide(model, asked, schema=schema, alternatives=12)
    after = model.engine.stats()
    assert after.submitted - before.submitted == 13
    assert after.steps - before.steps <= 12 + 13
    assert made.by == "logprobs"
    assert len(made.options) > 2
    assert len({option.value for option in made.options}) == len(made.options)
    shares = [option.probability for option in made.options]
    assert shares == sorted(shares, reverse=True)
    assert least < sum(shares) <= 1
    alone = decide(model, asked, schema=schema)
    assert {option.value: option.probability for option in made.options}[alone.value] == pytest.approx(
        alone.probability, rel=1e-3
    )
    assert made == decide(model, asked, schema=schema, alternatives=12)


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

"""Chat completions, asked by OpenAI's own client over a socket."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import Field

from plural.agents import Agent, Budget, tool
from plural.types import LimitReached, ToolReturned, event_to_json
from tests.serve.tiny import Running

ASKED: list[Any] = [{"role": "user", "content": "Where is the form?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}

CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
NEEDED = {"weather": {"city", "days"}, "clock": set()}


def complete(client: Any, model: str = "base", **options: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": ASKED} | options)


def refused(client: Any, kind: type[Exception] = openai.BadRequestError, **options: Any) -> Any:
    with pytest.raises(kind) as caught:
        complete(client, **options)
    return caught.value


def test_an_answer_has_openais_shape_and_counts_its_tokens(client: Any, running: Running) -> None:
    answer = complete(client, max_tokens=5)
    assert answer.object == "chat.completion"
    assert answer.model == "base"
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    asked = running.network.base_model.chat.encode([_message("user", "Where is the form?")])
    assert answer.usage.prompt_tokens == len(asked)
    assert answer.usage.total_tokens == len(asked) + 5


def _message(role: Any, content: str) -> Any:
    from plural.types import Message

    return Message(role, content)


def test_the_answer_is_what_the_engine_says_in_process(client: Any, running: Running) -> None:
    for model in ("base", "clerk", "judge", "clerk:0.5+judge:0.5"):
        agent = running.network.agent(model)
        assert complete(client, model).choices[0].message.content == agent.invoke("Where is the form?")


@pytest.mark.parametrize(
    "options", [{}, {"n": 3, "temperature": 1.5, "seed": 7}, {"logprobs": True, "top_logprobs": 2}]
)
def test_a_streamed_answer_is_the_same_answer(client: Any, options: dict[str, Any]) -> None:
    whole = complete(client, **options)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}, **options))
    *chunks, last = chunks
    assert not last.choices
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {last.id}
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(one.delta.content or "" for one in mine) == choice.message.content
        assert mine[0].delta.role == "assistant"
        assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
        if options.get("logprobs"):
            streamed = [token for one in mine if one.logprobs for token in one.logprobs.content]
            assert streamed == choice.logprobs.content


def test_tokens_come_one_by_one(client: Any) -> None:
    chunks = [chunk for chunk in complete(client, stream=True, max_tokens=12) if chunk.choices[0].delta.content]
    assert len(chunks) > 4


def test_several_answers_have_seeds_of_their_own_and_a_seed_repeats_them(client: Any) -> None:
    options = {"n": 3, "temperature": 1.5, "seed": 3}
    first, again = (complete(client, **options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    assert first.usage.completion_tokens == 48
    assert first.usage.prompt_tokens == complete(client).usage.prompt_tokens


def test_a_specialist_answers_under_its_contract(client: Any) -> None:
    answer = complete(client, "judge").choices[0]
    assert answer.message.content in ("yes", "no")
    assert answer.finish_reason == "stop"


def test_tools_are_called(client: Any) -> None:
    choice = complete(client, tools=[WEATHER], tool_choice="required", max_tokens=400).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    for call in choice.message.tool_calls:
        assert call.function.name == "weather"
        assert set(json.loads(call.function.arguments)) == {"city", "days"}


def test_a_streamed_call_is_a_call_and_no_text(client: Any) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    options = {"tools": [WEATHER], "tool_choice": named, "parallel_tool_calls": False, "max_tokens": 400}
    chunks = list(complete(client, stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert call.index == 0
    assert call.function.name == "weather"
    assert call.function.arguments == complete(client, **options).choices[0].message.tool_calls[0].function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


ESSAY: Any = {
    "type": "function",
    "function": {
        "name": "essay",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 400}},
            "required": ["text"],
        },
    },
}


def test_a_call_that_is_cut_off_is_shown_as_far_as_it_came(client: Any) -> None:
    """As OpenAI does; it can be sent back, and its result with it."""
    options = {"tools": [ESSAY], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 70}
    choice = complete(client, **options).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("length", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "essay"
    assert re.fullmatch(r'\{"text": ".+', call.function.arguments, re.DOTALL)
    chunks = list(complete(client, stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    (streamed,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function == streamed.function.model_copy(update=call.function.model_dump())
    assert chunks[-1].choices[0].finish_reason == "length"
    said = choice.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": call.id, "content": "It was cut off."}
    again = complete(client, messages=[*ASKED, said, result], tools=[ESSAY], tool_choice="none", max_tokens=3)
    assert again.usage.completion_tokens == 3


def test_nothing_is_shown_of_a_call_without_a_name(client: Any) -> None:
    choice = complete(client, tools=[ESSAY], tool_choice="required", max_tokens=2).choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("length", "", None)


def test_an_agent_elsewhere_is_told_that_its_call_was_cut_off(running: Running) -> None:
    """LangChain mends the arguments that it is shown, and would make the call."""

    class Calls(ChatOpenAI):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return super().bind_tools(tools, **options | {"tool_choice": "any"})

    @tool
    def essay(text: Annotated[str, Field(min_length=400)]) -> str:
        """Keep an essay.

        Args:
            text: The essay.
        """
        raise AssertionError(text)

    url = f"{running.url}/v1"
    model = Calls(model="base", base_url=url, api_key="none", max_tokens=70, max_retries=0, stream_usage=True)
    events = list(Agent("writer", model, tools=[essay], budget=Budget(steps=4)).events("Write."))
    told = [event.result for event in events if isinstance(event, ToolReturned)]
    assert len(told) == 2
    assert all(each.startswith("The call of essay was cut off after 70 tokens") for each in told)
    assert isinstance(events[-3], LimitReached)
    assert "<tool_call>" not in events[-1].answer


def test_several_calls_come_back_at_once_streamed_or_not(client: Any) -> None:
    options = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 400, "temperature": 1.0, "seed": 1}
    choices = complete(client, "clerk", n=6, **options).choices
    assert max(len(choice.message.tool_calls) for choice in choices) > 1
    chunks = list(complete(client, "clerk", n=6, stream=True, **options))
    for choice in choices:
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert len({call.id for call in calls}) == len(calls)
        for call in calls:
            assert set(json.loads(call.function.arguments)) == NEEDED[call.function.name]
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        streamed = [call for one in mine for call in one.delta.tool_calls or ()]
        assert [call.index for call in streamed] == list(range(len(calls)))
        assert len({call.id for call in streamed}) == len(calls)
        assert [call.function.model_dump() for call in streamed] == [call.function.model_dump() for call in calls]
        assert "".join(one.delta.content or "" for one in mine) == ""
        assert mine[-1].finish_reason == "tool_calls"
    alone = complete(client, "clerk", n=6, parallel_tool_calls=False, **options).choices
    assert [len(choice.message.tool_calls) for choice in alone] == [1] * 6


def test_a_call_and_its_result_are_read(client: Any, running: Running) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [called], "refusal": None}
    messages = [*ASKED, said, {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]
    answer = complete(client, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=3)
    from plural.models.tools import describe
    from plural.types import Message, ToolCall, ToolSpec

    function = WEATHER["function"]
    tool = ToolSpec(function["name"], function["description"], function["parameters"])
    assert describe([tool])
    read = [
        Message("user", "Where is the form?"),
        Message("assistant", "", (ToolCall("c1", "weather", {"city": "Rome"}),)),
        Message("tool", "sunny", tool_call_id="c1"),
    ]
    assert answer.usage.prompt_tokens == len(running.network.base_model.chat.encode(read, [tool]))


@pytest.mark.parametrize("arguments", ["sunny", '{"city" Rome', "[1", '"Rome"', '{"city": }'])
def test_arguments_that_are_not_even_begun_json_are_named(client: Any, arguments: str) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ]
    with pytest.raises(openai.BadRequestError, match="the arguments of weather are no JSON object") as caught:
        complete(client, messages=messages, tools=[WEATHER], max_tokens=3)
    assert caught.value.param == "messages.1.tool_calls"


def test_who_of_several_said_something_stands_before_it(client: Any, running: Running) -> None:
    messages = [
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}
    ]
    asked = running.network.base_model.chat.encode([_message("user", "Ann: Hi!")])
    assert complete(client, messages=messages, max_tokens=1).usage.prompt_tokens == len(asked)


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {
            "type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"],
            "additionalProperties": False}}}, {"n"}),
        ({"type": "text"}, None),
    ],
)  # fmt: skip
def test_answers_have_the_form_that_is_asked(client: Any, form: Any, keys: set[str] | None) -> None:
    text = complete(client, response_format=form, max_tokens=64).choices[0].message.content
    if keys is not None:
        assert set(json.loads(text)) == keys


def test_a_json_object_begins_as_one(client: Any) -> None:
    text = complete(client, response_format={"type": "json_object"}, max_tokens=3).choices[0].message.content
    assert text.startswith("{")


def test_vllms_structured_outputs(client: Any) -> None:
    text = complete(client, extra_body={"structured_outputs": {"choice": ["red", "green"]}}).choices[0].message.content
    assert text in ("red", "green")
    text = complete(client, extra_body={"structured_outputs": {"regex": "[0-9]{3}"}}).choices[0].message.content
    assert len(text) == 3
    assert text.isdecimal()


def test_logprobs_are_those_of_the_tokens(client: Any) -> None:
    choice = complete(client, logprobs=True, top_logprobs=2, max_tokens=4).choices[0]
    assert len(choice.logprobs.content) == 4
    for token in choice.logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob  # greedy
    bare = complete(client, logprobs=True, max_tokens=1).choices[0].logprobs.content[0]
    assert bare.top_logprobs == []
    assert bare.logprob == choice.logprobs.content[0].logprob


def test_stop_strings_end_an_answer(client: Any) -> None:
    whole = complete(client, max_tokens=16).choices[0].message.content
    cut = complete(client, max_tokens=16, stop=[whole[4]]).choices[0]
    assert cut.message.content == whole[: whole.index(whole[4])]
    assert cut.finish_reason == "stop"


def test_penalties_change_what_is_drawn(client: Any) -> None:
    plain = complete(client, max_tokens=40).choices[0].message.content
    varied = complete(client, max_tokens=40, presence_penalty=2.0, frequency_penalty=2.0).choices[0].message.content
    assert varied != plain


def test_a_known_prefix_is_found(client: Any) -> None:
    messages = [{"role": "user", "content": "a long preface " * 8}]
    complete(client, messages=messages, max_tokens=1)
    usage = complete(client, messages=messages, max_tokens=1).usage
    assert usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens // 16 * 16 - 16


def test_the_network_itself_is_a_model(client: Any, running: Running) -> None:
    whole = complete(client, "network", messages=[{"role": "user", "content": "who is right"}])
    assert whole.choices[0].message.content == running.network.ask("who is right")
    assert whole.usage.completion_tokens > 0
    chunks = list(complete(client, "network", messages=[{"role": "user", "content": "who is right"}], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    error = refused(client, model="network", temperature=1.0, n=2)
    assert "n" in error.message
    assert "temperature" in error.message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"extra_body": {"reasoning_effort": "low"}}, "reasoning_effort"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
        ({"extra_body": {"deadline": -1}}, "deadline"),
        ({"extra_body": {"structured_outputs": {"json": {}, "regex": "a"}}}, "structured_outputs"),
    ],
)
def test_a_field_that_is_not_honoured_is_named(client: Any, options: dict[str, Any], named: str) -> None:
    error = refused(client, **options)
    assert error.type == "invalid_request_error"
    assert named in error.message
    assert named in str(error.param)


def test_a_model_that_is_not_there(client: Any) -> None:
    error = refused(client, openai.NotFoundError, model="clerc")
    assert error.code == "model_not_found"
    assert "clerk" in error.message


def test_what_cannot_run_is_said_before_a_stream_begins(client: Any) -> None:
    error = refused(client, messages=[{"role": "user", "content": "x" * 5000}], stream=True)
    assert "context" in error.message
    error = refused(client, extra_body={"structured_outputs": {"regex": "("}}, stream=True)
    assert "regex" in error.message


def test_the_network_tells_what_happens_when_it_is_asked_to(client: Any, running: Running) -> None:
    asked = {"model": "network", "messages": [{"role": "user", "content": "who is right"}], "stream": True}
    chunks = list(complete(client, **asked, extra_body={"events": True}))
    told = [chunk.plural for chunk in chunks if getattr(chunk, "plural", None)]
    events = [event_to_json(event) for event in running.network.stream("who is right")]
    assert [event["event"] for event in told] == [event["event"] for event in events]
    assert told[0]["decision"] == json.loads(json.dumps(events[0]["decision"]))
    assert all(not chunk.choices for chunk in chunks if getattr(chunk, "plural", None))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == told[-1]["answer"] == running.network.ask("who is right")
    assert not any(getattr(chunk, "plural", None) for chunk in complete(client, **asked))
    assert not any(
        getattr(chunk, "plural", None) for chunk in complete(client, "judge", stream=True, extra_body={"events": True})
    )
    assert refused(client, extra_body={"events": True}).param == "events"
    steps = re.findall(r'plural_steps_total\{agent="(\w+)"\} (\S+)', httpx.get(f"{running.url}/metrics").text)
    assert sum(float(times) for _, times in steps) >= 2

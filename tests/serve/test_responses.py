"""The Responses API and stored answers, by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from plural.serve.keys import make_key, write_keys
from plural.types import Message
from tests.serve.tiny import Running, served, tiny_network

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"days": {"type": "integer", "maximum": 9}}, "required": ["days"]},
    "strict": True,
}


def test_a_response_has_its_text_and_counts(client: Any, running: Running) -> None:
    chat = client.chat.completions.create(model="clerk", messages=[{"role": "user", "content": "Where?"}])
    answer = client.responses.create(model="clerk", input="Where?")
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    judged = client.responses.create(model="judge", input="Fair?")
    assert judged.status == "completed"
    assert judged.output_text in ("yes", "no")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"include": ["reasoning.encrypted_content"]},
        {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 300},
    ],
)
def test_its_events_tell_the_same_response(client: Any, options: dict[str, Any]) -> None:
    whole = client.responses.create(model="base", input="Where?", **options)
    with client.responses.stream(model="base", input="Where?", **options) as stream:
        events = list(stream)
        last = stream.get_final_response() if whole.status == "completed" else events[-1].response
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == f"response.{whole.status}"
    assert last.output_text == whole.output_text
    assert last.usage.input_tokens == whole.usage.input_tokens
    assert last.usage.output_tokens == whole.usage.output_tokens
    for kind in ("response.output_item.added", "response.output_item.done"):
        assert kinds.count(kind) == len(whole.output)
    if whole.output_text:
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
        )
        assert whole.output[0].content[0].logprobs == last.output[0].content[0].logprobs
    calls = [item for item in whole.output if item.type == "function_call"]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [call.arguments for call in calls]
    assert bool(calls) == ("tools" in options)
    assert all(set(json.loads(call.arguments)) == {"days"} for call in calls)


@pytest.mark.parametrize("options", [{}, {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 300}])
def test_a_stored_response_is_told_again_as_events(client: Any, options: dict[str, Any]) -> None:
    stored = client.responses.create(model="base", input="Where?", **options)
    events = list(client.responses.retrieve(stored.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.output == []
    assert events[0].response.status == "in_progress"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == stored.output_text
    assert events[-1].type == f"response.{stored.status}"
    assert events[-1].response == client.responses.retrieve(stored.id)
    with pytest.raises(openai.BadRequestError, match="starting_after"):
        client.responses.retrieve(stored.id, stream=True, starting_after=1)


def test_a_response_goes_on_from_one_before(client: Any, running: Running) -> None:
    first = client.responses.create(model="base", input="One", instructions="Be brief.")
    second = client.responses.create(model="base", input="Two", previous_response_id=first.id)
    third = client.responses.create(model="base", input="Three", previous_response_id=second.id)
    chat = running.network.base_model.chat
    read = [Message("user", "One"), Message("assistant", first.output_text), Message("user", "Two"),
            Message("assistant", second.output_text), Message("user", "Three")]  # fmt: skip
    assert third.usage.input_tokens == len(chat.encode(read))
    as_items = [{"role": "user", "content": "One"}, *(item.model_dump() for item in first.output),
                {"role": "user", "content": "Two"}]  # fmt: skip
    again = client.responses.create(model="base", input=as_items)
    assert again.output_text == second.output_text
    assert client.responses.retrieve(second.id) == second
    items = list(client.responses.input_items.list(third.id))
    assert [item.content[0].text for item in items] == ["Three"]
    client.responses.delete(first.id)
    for gone in (first.id, "resp_none"):
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="base", input="x", previous_response_id=gone)
    unkept = client.responses.create(model="base", input="One", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_call_and_its_result_are_items(client: Any, running: Running) -> None:
    first = client.responses.create(
        model="base", input="Weather?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False, max_output_tokens=300,
    )  # fmt: skip
    (call,) = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    answer = client.responses.create(
        model="base", input=[result], previous_response_id=first.id, tools=[WEATHER], tool_choice="none"
    )
    assert answer.output_text
    assert answer.usage.input_tokens > first.usage.input_tokens


def test_a_call_that_is_cut_off_is_incomplete_and_can_be_gone_on_from(client: Any) -> None:
    parameters = {"type": "object", "properties": {"text": {"type": "string", "minLength": 400}}, "required": ["text"]}
    essay = {"type": "function", "name": "essay", "parameters": parameters, "strict": False}
    choice = {"type": "function", "name": "essay"}
    first = client.responses.create(
        model="base", input="Write.", tools=[essay], tool_choice=choice, max_output_tokens=70
    )
    assert (first.status, first.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (call,) = first.output
    assert (call.name, call.status) == ("essay", "incomplete")
    assert call.arguments.startswith('{"text": "')
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It was cut off."}
    answer = client.responses.create(
        model="base", input=[result], previous_response_id=first.id, tools=[essay], tool_choice="none"
    )
    assert answer.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_several_calls_are_several_items(client: Any) -> None:
    options: Any = {"model": "clerk", "input": "Where?", "tools": [WEATHER], "tool_choice": "required"}
    options |= {"max_output_tokens": 400, "temperature": 1.0, "extra_body": {"seed": 1}}
    calls = client.responses.create(**options).output
    assert len(calls) > 1
    assert {call.type for call in calls} == {"function_call"}
    assert len({call.call_id for call in calls}) == len(calls)
    events = list(client.responses.create(**options, stream=True))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.output_index for event in done] == list(range(len(calls)))
    assert [event.arguments for event in done] == [call.arguments for call in calls]
    (alone,) = client.responses.create(**options, parallel_tool_calls=False).output
    assert alone.name == "weather"


def test_the_tokens_of_an_input_are_counted_and_nothing_is_drawn(client: Any, running: Running) -> None:
    first = client.responses.create(model="clerk", input="One")
    asked = {"model": "clerk", "input": "Two", "instructions": "Be brief.", "previous_response_id": first.id,
             "tools": [WEATHER], "tool_choice": "required"}  # fmt: skip
    before = running.network.engine.stats().submitted
    counted = client.responses.input_tokens.count(**asked)
    assert counted.object == "response.input_tokens"
    assert running.network.engine.stats().submitted == before
    assert client.responses.create(**asked, max_output_tokens=300).usage.input_tokens == counted.input_tokens
    for wrong, named in (({"personality": "friendly"}, "personality"), ({"model": "network"}, "network")):
        with pytest.raises(openai.BadRequestError, match=named):
            client.responses.input_tokens.count(**{"model": "clerk", "input": "Two"} | wrong)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_tokens.count(model="clerc", input="Two")


def test_an_include_that_says_nothing_is_refused(client: Any) -> None:
    stored = client.responses.create(model="base", input="Where?", max_output_tokens=1)
    for attempt in (client.responses.retrieve, client.responses.input_items.list):
        with pytest.raises(openai.BadRequestError) as caught:
            list(attempt(stored.id, include=["message.output_text.logprobs"]))
        assert caught.value.param == "include[]"
    with pytest.raises(openai.NotFoundError, match="no item 'none'"):
        list(client.responses.input_items.list(stored.id, after="none"))


def test_text_has_the_form_that_is_asked(client: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    answer = client.responses.create(model="base", input="n?", text=form, max_output_tokens=60)
    assert set(json.loads(answer.output_text)) == {"n"}


@pytest.mark.parametrize(
    ("options", "named"),
    [({"background": True}, "background"), ({"reasoning": {"effort": "low"}}, "reasoning"),
     ({"truncation": "auto"}, "truncation"),
     ({"tools": [{"type": "web_search"}]}, "tools"), ({"conversation": "c"}, "conversation"), ({"input": []}, "input"),
     ({"tool_choice": "required"}, "tool_choice"), ({"max_tool_calls": 1}, "max_tool_calls")],
)  # fmt: skip
def test_a_field_that_is_not_honoured_is_named(client: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "base", "input": "x"} | options)
    assert named in caught.value.message
    assert named in str(caught.value.param)


# ------------------------------------------------------------------------------------------------------ stored answers
def test_a_stored_answer_is_found_listed_changed_and_deleted(client: Any) -> None:
    stored = client.chat.completions
    made = [
        stored.create(
            model=model,
            messages=[{"role": "user", "content": f"number {number}"}],
            max_tokens=2,
            store=True,
            metadata={"odd": str(number % 2)},
        )
        for number, model in enumerate(["base", "clerk", "base", "base"])
    ]
    streamed = stored.create(
        model="base", messages=[{"role": "user", "content": "number 0"}], max_tokens=2, store=True, stream=True
    )
    texts = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    found = stored.retrieve(made[1].id)
    assert found.choices == made[1].choices
    assert [message.content for message in stored.messages.list(made[1].id)] == ["number 1"]
    every = list(stored.list(limit=2))  # three pages
    assert [one.id for one in every[:4]] == [one.id for one in made]
    assert every[4].choices[0].message.content == texts
    assert [one.id for one in stored.list(order="desc")] == [one.id for one in reversed(every)]
    assert [one.id for one in stored.list(metadata={"odd": "1"})] == [made[1].id, made[3].id]
    assert [one.id for one in stored.list(model="clerk")] == [made[1].id]
    assert stored.update(made[1].id, metadata={"odd": "0"}).metadata == {"odd": "0"}
    assert [one.id for one in stored.list(metadata={"odd": "1"})] == [made[3].id]
    for one in every:
        assert stored.delete(one.id).deleted
    assert list(stored.list()) == []
    with pytest.raises(openai.NotFoundError):
        stored.retrieve(made[0].id)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two clients, each with a key of its own."""
    made = [make_key(["use"]) for _ in range(2)]
    write_keys(tmp_path / "keys.json", [key for _, key in made])
    network = tiny_network(tmp_path / "home")
    with served(network, keys=tmp_path / "keys.json") as running:
        one, other = (openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) for key, _ in made)
        with one, other:
            yield one, other
    network.close()


def test_nobody_sees_what_anothers_key_has_stored(two: tuple[Any, Any]) -> None:
    one, other = two
    answer = one.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "secret"}], max_tokens=1, store=True
    )
    response = one.responses.create(model="base", input="secret", max_output_tokens=1)
    assert one.chat.completions.retrieve(answer.id).id == answer.id
    assert list(other.chat.completions.list()) == []
    tries = [
        lambda: other.chat.completions.retrieve(answer.id),
        lambda: other.chat.completions.delete(answer.id),
        lambda: other.chat.completions.update(answer.id, metadata={}),
        lambda: list(other.chat.completions.messages.list(answer.id)),
        lambda: list(other.chat.completions.list(after=answer.id)),
        lambda: other.responses.retrieve(response.id),
        lambda: other.responses.delete(response.id),
        lambda: other.responses.create(model="base", input="x", previous_response_id=response.id),
        lambda: list(other.responses.input_items.list(response.id)),
    ]
    for attempt in tries:
        with pytest.raises(openai.NotFoundError):
            attempt()

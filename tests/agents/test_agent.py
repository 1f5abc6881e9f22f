"""One agent, through its public doors: events, tools at once, limits, contracts."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from plural.agents import Agent, Budget, Contract, Middleware, Turn, tool, toolbox
from plural.errors import ContractError, GrammarError, LimitError, PromptError, SettingsError
from plural.testing import ScriptedModel, calling
from plural.types import (
    Event,
    Grammar,
    LimitReached,
    RunFinished,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCalled,
    ToolReturned,
)


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def events_of(agent: Agent, request: Any = "Go.") -> list[Event]:
    return [event async for event in agent.events(request)]


async def test_the_events_of_a_run_in_order() -> None:
    model = ScriptedModel([calling(("double", {"number": 4})), "It is 8."])
    events = await events_of(Agent("clerk", model, tools=[double]), "Twice four?")
    kinds = [type(event) for event in events]
    assert kinds == [StepStarted, ToolCalled, ToolReturned, TextDelta, TextDelta, TextDelta, StepFinished, RunFinished]
    assert events[0] == StepStarted(0, "clerk", "Twice four?")
    assert events[2].result == "8"  # type: ignore[union-attr]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is 8."
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert finished.answer == "It is 8."
    # Two calls are paid for: 2 words in and 1 call out, then the same 2 and the result in, 3 words out.
    assert (finished.usage.prompt, finished.usage.completion) == (5, 4)


async def test_an_answer_is_as_probable_as_its_model_tells() -> None:
    def told(**metadata: Any) -> AIMessage:
        return AIMessage("8", response_metadata=metadata)

    first = calling(("double", {"number": 4}))
    for said, probability in ((told(logprob=math.log(0.25)), pytest.approx(0.25)), (told(), None)):
        *_, finished, _ = await events_of(Agent("clerk", ScriptedModel([first, said]), tools=[double]))
        assert isinstance(finished, StepFinished)
        assert finished.probability == probability

    class Shouts(Middleware):
        async def after_model(self, turn: Turn, said: AIMessage) -> AIMessage:
            return said.model_copy(update={"content": f"{said.text}!"})

    shouting = Agent("clerk", ScriptedModel([told(logprob=-1.0)]), middleware=[Shouts()])
    *_, finished, _ = await events_of(shouting)
    assert isinstance(finished, StepFinished)
    assert (finished.answer, finished.probability) == ("8!", None)  # which the model did not say


def test_the_same_events_from_a_blocking_loop() -> None:
    def agent() -> Agent:
        return Agent("clerk", ScriptedModel([calling(("double", {"number": 4})), "It is 8."]), tools=[double])

    blocking = [type(event) for event in agent().events("Twice four?")]
    assert blocking == [type(event) for event in asyncio.run(events_of(agent(), "Twice four?"))]
    for event in agent().events("Twice four?"):
        assert isinstance(event, StepStarted)
        break


async def test_the_calls_of_one_turn_run_at_once() -> None:
    meeting = asyncio.Barrier(3)

    @tool
    async def meet(who: str) -> str:
        """Wait for the others."""
        await asyncio.wait_for(meeting.wait(), 20)
        return f"{who} was there"

    model = ScriptedModel([calling(*(("meet", {"who": who}) for who in "abc")), "All met."])
    events = await events_of(Agent("host", model, tools=[meet]))
    called = [event.call.arguments["who"] for event in events if isinstance(event, ToolCalled)]
    assert called == ["a", "b", "c"]
    told = [message.content for message in model.asked[1].messages[-3:]]
    assert told == ["a was there", "b was there", "c was there"]


async def test_results_come_as_they_arrive_and_are_told_in_the_order_of_the_calls() -> None:
    first_may_end = asyncio.Event()

    @tool
    async def slow() -> str:
        """Be slow."""
        await asyncio.wait_for(first_may_end.wait(), 20)
        return "slow"

    @tool
    async def quick() -> str:
        """Be quick."""
        return "quick"

    model = ScriptedModel([calling(("slow", {}), ("quick", {})), "Done."])
    arrived = []
    async for event in Agent("host", model, tools=[slow, quick]).events("Go."):
        if isinstance(event, ToolReturned):
            arrived.append(event.result)
            first_may_end.set()
    assert arrived == ["quick", "slow"]
    assert [message.content for message in model.asked[1].messages[-2:]] == ["slow", "quick"]


async def test_leaving_early_stops_the_tools() -> None:
    stopped, started = asyncio.Event(), asyncio.Event()

    @tool
    async def forever() -> str:
        """Never end."""
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()
        return ""

    agent = Agent("host", ScriptedModel([calling(("forever", {}))]), tools=[forever])
    run = asyncio.create_task(agent.ainvoke("Go."))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert stopped.is_set()


def test_the_step_limit_says_what_to_raise() -> None:
    model = ScriptedModel([calling(("double", {"number": n})) for n in range(3)])
    with pytest.raises(LimitError, match=r"clerk has used up its steps: 3 of 3. Give it a larger Budget\(steps="):
        Agent("clerk", model, tools=[double], budget=Budget(steps=3)).invoke("Go.")


def test_after_a_call_that_brings_nothing_new_no_call_may_be_made() -> None:
    """A model that was merely not offered tools again went on to write `<tool_call>`, and that became the answer."""
    same = calling(("double", {"number": 4}))
    model = ScriptedModel([same, same, "Eight."])
    assert Agent("clerk", model, tools=[double]).invoke("Go.") == "Eight."
    assert [asked.tools for asked in model.asked] == [("double",)] * 3
    assert [asked.options["tool_choice"] for asked in model.asked] == ["auto", "auto", "none"]
    assert [message.content for message in model.asked[2].messages if message.type == "tool"] == ["8", "8"]


def test_a_model_that_cannot_be_kept_from_calling_is_told_after_the_result() -> None:
    """What a small model copies of it begins with the result."""

    class Provider(BaseChatModel):
        scripted: ScriptedModel

        @property
        def _llm_type(self) -> str:
            return "provider"

        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> Any:
            return self.scripted._generate(messages, stop)

        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> Any:
            yield from self.scripted._stream(messages, stop)

    same = calling(("double", {"number": 4}))
    scripted = ScriptedModel([same, same, "Eight."])
    assert Agent("clerk", Provider(scripted=scripted), tools=[double]).invoke("Go.") == "Eight."
    told = [str(message.content) for message in scripted.asked[2].messages if message.type == "tool"]
    assert told == ["8", "8\nThis call was made before and gave the same result. Answer now, without calling a tool."]


def test_a_model_that_goes_in_a_circle_is_stopped() -> None:
    model = ScriptedModel([calling(("double", {"number": 4}))] * 5)
    with pytest.raises(LimitError, match=r'keeps calling tools.*double\({"number": 4}\)'):
        Agent("clerk", model, tools=[double]).invoke("Go.")
    assert model.left == 2


def test_the_same_call_with_another_result_goes_on() -> None:
    counter = iter(range(10))

    @tool
    def count() -> int:
        """Count."""
        return next(counter)

    again = calling(("count", {}))
    model = ScriptedModel([again, again, again, "Two."])
    assert Agent("clerk", model, tools=[count]).invoke("Go.") == "Two."


def test_a_direct_tool_gives_the_answer() -> None:
    @tool(return_direct=True)
    def when(cron: str) -> str:
        """Say when."""
        return "Monday"

    model = ScriptedModel([calling(("when", {"cron": "x"}))])
    agent = Agent("clerk", model, tools=[when])
    assert agent.invoke("When?") == "Monday"
    model = ScriptedModel([calling(("when", {"cron": "x"}))])
    assert list(Agent("clerk", model, tools=[when]).stream("When?")) == ["Monday"]


def test_arguments_that_are_not_json_are_an_observation() -> None:
    broken = AIMessage(
        "", invalid_tool_calls=[{"type": "invalid_tool_call", "id": "x", "name": "double", "args": "]n", "error": ""}]
    )
    model = ScriptedModel([broken, "Sorry."])
    assert Agent("clerk", model, tools=[double]).invoke("Go.") == "Sorry."
    assert "arguments of double are not JSON: ']n'" in str(model.asked[1].messages[-1].content)


# ------------------------------------------------------------------------------------------- what was cut off
def cut_off(text: str = "", arguments: str = "", **said: Any) -> AIMessage:
    """What a model says until its length ends it, in a call of `double` if there are arguments."""
    broken = {"type": "invalid_tool_call", "id": "x", "name": "double", "args": arguments, "error": None}
    counted = {"input_tokens": 5, "output_tokens": 64, "total_tokens": 69}
    return AIMessage(
        text,
        invalid_tool_calls=[broken] if arguments else [],
        usage_metadata=counted,
        response_metadata={"finish_reason": "length"} | said,
    )


TOLD = "The call of double was cut off after 64 tokens, before its arguments were whole, and was not made."


@pytest.mark.parametrize("arguments", ['<tool_call>[{"name": "double"', '{"number": 12', '{"number": 1, "note": "a'])
async def test_a_call_that_is_cut_off_is_an_observation(arguments: str) -> None:
    """LangChain closes the brackets of such arguments: `{"number": 12` would be called with 12 instead of 1200."""
    model = ScriptedModel([cut_off(arguments=arguments), calling(("double", {"number": 1200})), "2400."])
    events = await events_of(Agent("clerk", model, tools=[double]))
    returned = [event for event in events if isinstance(event, ToolReturned)]
    assert [(event.result.startswith(TOLD), event.failed) for event in returned] == [(True, True), (False, False)]
    assert returned[1].result == "2400"
    assert str(model.asked[1].messages[-1].content).startswith(TOLD)
    assert events[-1].answer == "2400."  # type: ignore[union-attr]


def test_calls_that_are_cut_off_again_and_again_come_to_an_end() -> None:
    model = ScriptedModel([cut_off(arguments=f"<tool_call>{n}") for n in range(9)])
    with pytest.raises(LimitError, match="keeps calling tools where it has to answer"):
        Agent("clerk", model, tools=[double]).invoke("Go.")
    assert [asked.options["tool_choice"] for asked in model.asked] == ["auto", "auto", "none"]


@pytest.mark.parametrize(
    "said", [{}, {"finish_reason": None, "stop_reason": "max_tokens"}, {"finish_reason": "MAX_TOKENS"}]
)
async def test_an_answer_that_is_cut_off_is_told(said: dict[str, Any]) -> None:
    events = await events_of(Agent("clerk", ScriptedModel([cut_off("It was the", **said)])))
    told, finished, last = events[-3:]
    assert told == LimitReached(0, "clerk", "max_tokens", 64)
    assert isinstance(finished, StepFinished)
    assert last.answer == "It was the"  # type: ignore[union-attr]


def test_an_answer_that_is_cut_off_before_it_says_anything_is_an_error() -> None:
    with pytest.raises(LimitError, match=r"answer of clerk was cut off after 64 tokens and says nothing. Raise max_"):
        Agent("clerk", ScriptedModel([cut_off(" ")])).invoke("Go.")


def test_an_answer_that_is_cut_off_breaks_its_contract() -> None:
    model = ScriptedModel([cut_off('{"room": "ha'), cut_off('{"room": "ha')])
    with pytest.raises(ContractError, match=r"cut off after 64 tokens. The answer is not .*Raise max_tokens"):
        Agent("clerk", model, output=SCHEMA).invoke("Go.")
    assert "was cut off after 64 tokens" in str(model.asked[1].messages[-1].content)


# ------------------------------------------------------------------------------------------------- what goes in
@pytest.mark.parametrize(
    "given_",
    [
        "Hello",
        HumanMessage("Hello"),
        [HumanMessage("Hello")],
        [("user", "Hello")],
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"input": "Hello"},
    ],
)
def test_every_form_of_input(given_: Any) -> None:
    model = ScriptedModel(["Hi"])
    assert Agent("clerk", model, instructions="Be kind.").invoke(given_) == "Hi"
    assert [(message.type, message.content) for message in model.asked[0].messages] == [
        ("system", "Be kind."),
        ("human", "Hello"),
    ]


def test_instructions_come_before_other_instructions() -> None:
    model = ScriptedModel(["Hi"])
    Agent("clerk", model, instructions="Be kind.").invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert [message.content for message in model.asked[0].messages] == ["Be kind.\n\nBe brief.", "Hello"]


@pytest.mark.parametrize("tools", [[], [double]])
def test_what_is_shared_may_come_first(tools: list[Any]) -> None:
    model = ScriptedModel([calling(("double", {"number": 2})), "Hi"] if tools else ["Hi"])
    agent = Agent("clerk", model, instructions="Be kind.", tools=tools, shared_first=True)
    assert agent.invoke([SystemMessage("Be brief."), HumanMessage("Hello")]) == "Hi"
    for asked in model.asked:
        assert asked.messages[0].text == "Be brief."
        assert asked.messages[-1] == SystemMessage("Be kind.")
        assert asked.options["own_last"] is True
    assert [message.type for message in model.asked[-1].messages][2:-1] == (["ai", "tool"] if tools else [])


@pytest.mark.parametrize("output", [None, ["Hi"]])
def test_what_is_bound_to_the_model_stays_bound_beside_tools(output: Any) -> None:
    """A binding's own bind_tools forgets what else was bound: max_tokens was lost in silence."""
    model = ScriptedModel([calling(("double", {"number": 2}))] * 2 + ["Hi"])
    bound = model.bind(max_tokens=7).with_config(tags=["mine"])
    agent = Agent("clerk", bound, tools=[double], output=output)
    assert agent.invoke("Go.") == "Hi"
    assert [asked.options["max_tokens"] for asked in model.asked] == [7, 7, 7]
    assert [asked.tools for asked in model.asked[:2]] == [("double",)] * 2


@pytest.mark.parametrize("given_", ["", "  ", [], {"question": "Hello"}, 7])
def test_input_that_cannot_be_read(given_: Any) -> None:
    with pytest.raises(PromptError):
        Agent("clerk", ScriptedModel(["Hi"])).invoke(given_)


def test_parts_that_cannot_work_are_refused() -> None:
    model = ScriptedModel([])
    with pytest.raises(SettingsError, match="steps of a budget is 0"):
        Agent("clerk", model, budget=Budget(steps=0))
    with pytest.raises(SettingsError, match="needs a name"):
        Agent(" ", model)
    with pytest.raises(SettingsError, match="model of agent 'clerk' is 'gpt'"):
        Agent("clerk", "gpt")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="cannot call tools"):
        Agent("clerk", FakeListChatModel(responses=["Hi"]), tools=[double])
    with pytest.raises(SettingsError, match="does not know temperature"):
        Agent("clerk", model).invoke("Hello", temperature=1)
    with pytest.raises(GrammarError, match="3 is no output contract"):
        Agent("clerk", model, output=3)  # type: ignore[arg-type]


def test_another_chat_model_can_be_the_model() -> None:
    model = FakeListChatModel(responses=["Hi there"])
    assert Agent("clerk", model, output=["Hi there"]).invoke("Hello") == "Hi there"


# ------------------------------------------------------------------------------------------------- what comes out
class Light(BaseModel):
    room: str
    level: int


SCHEMA = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "hall"]}, "level": {"type": "integer", "maximum": 100}},
    "required": ["room"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("output", "kind", "text", "value"),
    [
        (Light, "json_schema", '{"room": "hall", "level": 3}', Light(room="hall", level=3)),
        (SCHEMA, "json_schema", '{"room": "hall", "level": 3}', {"room": "hall", "level": 3}),
        (r"\d+ (am|pm)", "regex", "7 am", "7 am"),
        (re.compile("[a-c]+"), "regex", "abc", "abc"),
        (["on", "off"], "choices", "off", "off"),
        (Contract("choices", '["on","off"]'), "choices", "on", "on"),
    ],
)
def test_contracts_bind_the_model_and_parse(output: Any, kind: str, text: str, value: Any) -> None:
    model = ScriptedModel([text, text])
    agent = Agent("clerk", model, output=output)
    assert agent.invoke("Go.") == value
    assert model.asked[0].grammar is not None
    assert model.asked[0].grammar.kind == kind
    assert list(agent.stream("Go.")) == [value]


@pytest.mark.parametrize(
    ("output", "text", "says"),
    [
        (Light, '{"room": "hall"}', "level: Field required"),
        (SCHEMA, '{"room": "attic"}', r'the answer.room = "attic" is none of \["kitchen", "hall"\]'),
        (SCHEMA, '{"room": "hall", "level": 200}', "level = 200 is more than 100"),
        (SCHEMA, '{"room": "hall", "x": 1}', "'x', which it may not have"),
        (SCHEMA, "{}", "has no 'room'"),
        (SCHEMA, "[", "not JSON"),
        (r"\d+", "7 am", "'7 am' does not match"),
        (["on", "off"], "maybe", "'maybe' is none of on, off"),
    ],
)
def test_a_broken_contract_is_asked_for_once_more(output: Any, text: str, says: str) -> None:
    model = ScriptedModel([text, text])
    with pytest.raises(ContractError, match=says):
        Agent("clerk", model, output=output).invoke("Go.")
    assert re.search(says, str(model.asked[1].messages[-1].content))
    assert model.left == 0


def test_the_second_attempt_counts_and_has_no_tools() -> None:
    model = ScriptedModel([calling(("double", {"number": 1})), "perhaps", "on"])
    agent = Agent("clerk", model, tools=[double], output=["on", "off"])
    assert agent.invoke("Go.") == "on"
    assert [asked.tools for asked in model.asked] == [("double",), ("double",), ()]
    assert model.asked[2].grammar == Grammar.choices(["on", "off"])


@pytest.mark.parametrize(
    "schema",
    [{"type": "tuple"}, {"$ref": "#/$defs/nothing"}, {"properties": {"a": {"uniqueItems": True}}}, {"items": 3}],
)
def test_a_schema_that_could_not_be_checked_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError):
        Agent("clerk", ScriptedModel([]), output=schema)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=8,
)


def schema_of(value: Any) -> dict[str, Any]:
    """The tightest schema for exactly this value's form."""
    if isinstance(value, dict):
        below = {name: schema_of(item) for name, item in value.items()}
        return {"type": "object", "properties": below, "required": list(below), "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "items": {"anyOf": [schema_of(item) for item in value] or [{}]},
                "minItems": len(value), "maxItems": len(value)}  # fmt: skip
    return {"const": value}


@settings(deadline=None)
@given(value=_JSON, other=_JSON)
def test_any_value_fits_its_own_schema_and_no_others(value: Any, other: Any) -> None:
    contract = Contract("json_schema", json.dumps(schema_of(value)))
    assert contract.parse(json.dumps(value)) == value
    if json.dumps(value, sort_keys=True) != json.dumps(other, sort_keys=True) and "[" not in json.dumps(value):
        with pytest.raises(ContractError):
            contract.parse(json.dumps(other))


def test_an_agent_is_another_agents_tool() -> None:
    sums = Agent("sums", ScriptedModel([calling(("calculate", {"expression": "6*7"})), "42"]),
                 tools=[toolbox.calculate], description="Works out numbers.")  # fmt: skip
    model = ScriptedModel([calling(("sums", {"input": "six times seven"})), "It is 42."])
    assert Agent("boss", model, tools=[sums]).invoke("6 * 7?") == "It is 42."
    assert model.asked[1].messages[-1].content == "42"
    made = sums.as_tool(name="ask_sums")
    assert isinstance(made, BaseTool)
    assert (made.name, made.description, list(made.args)) == ("ask_sums", "Works out numbers.", ["input"])


def test_replies_may_look_at_the_question() -> None:
    def echo(messages: Any) -> str:
        last: BaseMessage = messages[-1]
        return str(last.content).upper()

    assert Agent("clerk", ScriptedModel([echo])).invoke("hello") == "HELLO"

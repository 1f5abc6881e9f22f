"""An agent is a LangChain Runnable: pipes, batches, streams, retries, fallbacks, traces, and the sync door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnableParallel, RunnablePassthrough

from plural.agents import Agent, tool
from plural.errors import LimitError, ModelError
from plural.testing import ScriptedModel, calling

PROMPT = ChatPromptTemplate.from_messages([("human", "Say {what}")])


def echo(messages: Any) -> str:
    return str(messages[-1].content).removeprefix("Say ")


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def test_a_pipe() -> None:
    chain = PROMPT | Agent("clerk", ScriptedModel([echo] * 2)) | StrOutputParser() | str.upper
    assert chain.invoke({"what": "good day"}) == "GOOD DAY"


async def test_a_pipe_streams_word_by_word() -> None:
    chain = PROMPT | Agent("clerk", ScriptedModel([echo] * 2)) | StrOutputParser()
    assert [part async for part in chain.astream({"what": "a b c"})] == ["a ", "b ", "c"]
    assert list(chain.stream({"what": "d e"})) == ["d ", "e"]


async def test_batches_and_parallel_branches() -> None:
    agent = Agent("clerk", ScriptedModel([echo] * 8))
    assert sorted(agent.batch(["a", "b", "c"])) == ["a", "b", "c"]
    assert await agent.abatch(["d", "e"]) == ["d", "e"]
    both = RunnableParallel(left=agent, right=PROMPT | agent)
    assert await both.ainvoke({"input": "x", "what": "y"}) == {"left": "x", "right": "y"}


def test_retry_and_fallbacks() -> None:
    shaky = Agent("shaky", ScriptedModel([LimitError("too long"), "fine"]))
    retrying = shaky.with_retry(retry_if_exception_type=(ModelError,), wait_exponential_jitter=False)
    assert retrying.invoke("Go.") == "fine"
    broken = Agent("broken", ScriptedModel([LimitError("too long")]))
    assert broken.with_fallbacks([Agent("spare", ScriptedModel(["spare"]))]).invoke("Go.") == "spare"


async def test_tags_reach_the_model_and_the_tools() -> None:
    model = ScriptedModel([calling(("double", {"number": 2})), "four"])
    chain = PROMPT | Agent("clerk", model, tools=[double])
    seen = {}
    async for event in chain.astream_events({"what": "x"}, config={"tags": ["mine"]}, version="v2"):
        seen.setdefault(event["event"], event)
    for kind, name in [
        ("on_chat_model_start", "ScriptedModel"),
        ("on_chat_model_stream", "ScriptedModel"),
        ("on_tool_start", "double"),
        ("on_tool_end", "double"),
    ]:
        assert seen[kind]["name"] == name
        assert "mine" in seen[kind]["tags"]


def test_a_branch_picks_the_agent() -> None:
    clerk, poet = Agent("clerk", ScriptedModel(["12"])), Agent("poet", ScriptedModel(["A rose."] * 2))
    chain = PROMPT | RunnableBranch((lambda prompt: "sum" in prompt.to_string(), clerk), poet)
    assert chain.batch([{"what": "the sum"}, {"what": "a poem"}]) == ["12", "A rose."]
    assert "".join(chain.stream({"what": "a poem"})) == "A rose."


def test_a_batch_is_not_limited_by_threads() -> None:
    """All of them wait for each other, more than any thread pool has room for."""
    meeting = asyncio.Barrier(80)

    @tool
    async def meet() -> str:
        """Wait for the others."""
        await asyncio.wait_for(meeting.wait(), 60)
        return "met"

    def reply(messages: Any) -> Any:
        return "Done." if messages[-1].type == "tool" else calling(("meet", {}))

    chain = PROMPT | Agent("host", ScriptedModel([reply] * 160), tools=[meet]) | StrOutputParser()
    assert chain.batch([{"what": str(number)} for number in range(80)]) == ["Done."] * 80


async def test_a_batch_may_be_limited_and_may_fail_in_part() -> None:
    agent = Agent("clerk", ScriptedModel(["a", LimitError("too long"), "c"]))
    first, second, third = agent.batch(["x"] * 3, {"max_concurrency": 1}, return_exceptions=True)
    assert (first, third) == ("a", "c")
    assert isinstance(second, LimitError)


async def test_events_of_a_whole_chain() -> None:
    chain = PROMPT | Agent("clerk", ScriptedModel(["one two"])) | StrOutputParser()
    events = [event async for event in chain.astream_events({"what": "x"}, version="v2")]
    of_clerk = [event for event in events if event["name"] == "clerk"]
    assert [event["event"] for event in of_clerk] == [
        "on_chain_start", "on_chain_stream", "on_chain_stream", "on_chain_end",
    ]  # fmt: skip
    assert of_clerk[-1]["data"]["output"] == "one two"
    assert [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"][:2] == ["one ", "two"]


def test_the_graph_shows_the_loop() -> None:
    @tool(return_direct=True)
    def when() -> str:
        """Say when."""
        return "now"

    chain = PROMPT | Agent("clerk", ScriptedModel([]), tools=[double, when]) | StrOutputParser()
    drawn = {line.strip(" \t;") for line in chain.get_graph().draw_mermaid().splitlines()}
    assert {
        "ChatPromptTemplate --> clerk_input",
        "clerk_input --> clerk",
        "clerk -.-> double",
        "double --> clerk",
        "clerk -.-> when",
        "when -.-> clerk_output",
        "when -.-> clerk",
        "clerk -.-> clerk_output",
        "clerk_output --> StrOutputParser",
    } <= drawn
    assert "double" not in Agent("poet", ScriptedModel([])).get_graph().draw_mermaid()


async def test_config_reaches_the_callbacks_of_model_and_tool() -> None:
    model = ScriptedModel([calling(("double", {"number": 2})), "four"])
    chain = PROMPT | Agent("clerk", model, tools=[double]).with_config(tags=["inner"], metadata={"team": "a"})
    config: Any = {"tags": ["outer"], "metadata": {"user": "ann"}, "run_name": "whole"}
    seen = {event["name"]: event async for event in chain.astream_events({"what": "x"}, config, version="v2")}
    assert seen["whole"]["metadata"]["user"] == "ann"
    for name in ("clerk", "ScriptedModel", "double"):
        assert {"inner", "outer"} <= set(seen[name]["tags"])
        assert {"team": "a", "user": "ann"}.items() <= seen[name]["metadata"].items()
    assert "inner" not in seen["whole"]["tags"]


async def test_passing_the_input_along() -> None:
    agent = Agent("clerk", ScriptedModel([echo] * 2))
    chain = RunnablePassthrough.assign(said=PROMPT | agent) | RunnableLambda(lambda both: both["what"] + both["said"])
    assert await chain.abatch([{"what": "a"}, {"what": "b"}]) == ["aa", "bb"]


class Names(BaseCallbackHandler):
    """Who started under whom."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.parents: dict[str, str | None] = {}

    def _note(self, name: str, run: Any, parent: Any) -> None:
        self.names[run] = name
        self.parents[name] = self.names.get(parent)

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **kw: Any
    ) -> None:
        self._note(kw.get("name") or serialized["name"], run_id, parent_run_id)

    def on_tool_start(self, serialized: Any, text: Any, *, run_id: Any, parent_run_id: Any = None, **kw: Any) -> None:
        self._note(serialized["name"], run_id, parent_run_id)

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, parent_run_id: Any = None, **kw: Any) -> None:  # fmt: skip # noqa: E501
        self._note(kw.get("name") or serialized["name"], run_id, parent_run_id)


@pytest.mark.parametrize("how", ["invoke", "stream", "events"])
async def test_model_and_tools_run_under_the_agent(how: str) -> None:
    names = Names()
    agent = Agent("clerk", ScriptedModel([calling(("double", {"number": 2})), "four"]), tools=[double])
    config: Any = {"callbacks": [names]}
    if how == "invoke":
        await asyncio.to_thread(agent.invoke, "x", config)
    elif how == "stream":
        assert "".join(await asyncio.to_thread(lambda: list(agent.stream("x", config)))) == "four"
    else:
        assert [event async for event in agent.events("x", config)]
    assert names.parents == {"clerk": None, "ScriptedModel": "clerk", "double": "clerk"}


async def test_blocking_calls_work_inside_a_running_loop() -> None:
    agent = Agent("clerk", ScriptedModel(["one", "two words", "three"]))
    assert agent.invoke("x") == "one"
    assert list(agent.stream("x")) == ["two ", "words"]
    assert agent.batch(["x"]) == ["three"]


def test_an_error_crosses_the_sync_door_as_it_is() -> None:
    agent = Agent("clerk", ScriptedModel([LimitError("too long"), LimitError("too long")]))
    with pytest.raises(LimitError, match="too long"):
        agent.invoke("x")
    with pytest.raises(LimitError, match="too long"):
        list(agent.stream("x"))

"""What is marked on a tool: its time, its tries, its price. What the tool did is always an observation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plural.agents import Agent, mark, tool
from plural.agents.marks import Marks, marks_of, send_long_tools
from plural.agents.tools import call_tool
from plural.errors import ToolError
from plural.testing import ScriptedModel, calling
from plural.types import ToolCall


class Shaky:
    """Fails the first `failures` times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.called = failures, error, 0

    def tool(self) -> Any:
        @tool
        async def fetch(page: str) -> str:
            """Fetch a page.

            Args:
                page: Its name.
            """
            self.called += 1
            if self.called <= self.failures:
                raise self.error
            return f"{page} is empty"

        return fetch


def told(made: Any) -> str:
    """What the model reads of the result of one call."""
    model = ScriptedModel([calling((made.name, {"page": "home"})), "Done."])
    assert Agent("clerk", model, tools=[made]).invoke("Go.") == "Done."
    return str(model.asked[1].messages[-1].content)


def test_an_idempotent_tool_is_tried_again_after_a_passing_fault() -> None:
    shaky = Shaky(2, ConnectionError("refused"))
    assert told(mark(shaky.tool(), idempotent=True, backoff=0)) == "home is empty"
    assert shaky.called == 3


def test_the_last_fault_is_told_with_the_number_of_tries() -> None:
    shaky = Shaky(9, ConnectionError("refused"))
    said = told(mark(shaky.tool(), idempotent=True, backoff=0))
    assert said == "fetch(page='home') failed: ConnectionError: refused; tried 3 times"


@pytest.mark.parametrize(
    ("marks", "error", "calls"),
    [
        ({}, ConnectionError(), 1),  # nobody said that it may run twice
        ({"retries": 1}, ConnectionError(), 2),
        ({"idempotent": True, "retries": 0}, ConnectionError(), 1),
        ({"idempotent": True}, ValueError("no such page"), 1),  # the same again would fail again
        ({"idempotent": True, "retry_on": (ValueError,)}, ValueError("busy"), 3),
    ],
)
def test_what_may_be_tried_again(marks: Any, error: Exception, calls: int) -> None:
    shaky = Shaky(9, error)
    assert "failed" in told(mark(shaky.tool(), backoff=0, **marks))
    assert shaky.called == calls


def test_wrong_arguments_are_never_tried_again() -> None:
    shaky = Shaky(0, ValueError())
    made = mark(shaky.tool(), idempotent=True)
    model = ScriptedModel([calling(("fetch", {})), "Done."])
    assert Agent("clerk", model, tools=[made]).invoke("Go.") == "Done."
    assert "argument 'page' is missing" in str(model.asked[1].messages[-1].content)
    assert shaky.called == 0


def test_a_tool_that_takes_too_long_is_stopped_and_told() -> None:
    stopped = asyncio.Event()

    @mark(timeout=0.01)
    @tool
    async def wait() -> str:
        """Wait."""
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()
        return ""

    model = ScriptedModel([calling(("wait", {})), "Done."])
    assert Agent("clerk", model, tools=[wait]).invoke("Go.") == "Done."
    assert model.asked[1].messages[-1].content == "wait() failed: TimeoutError: no result within 0.01 s"
    assert stopped.is_set()


async def test_the_waits_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, *more: Any) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("plural.agents.marks.asyncio.sleep", note)
    made = mark(Shaky(9, TimeoutError()).tool(), retries=3, backoff=0.25)
    model = ScriptedModel([calling(("fetch", {"page": "home"})), "Done."])
    assert await Agent("clerk", model, tools=[made]).ainvoke("Go.") == "Done."
    assert [wait for wait in waits if wait] == [0.25, 0.5, 1.0]


def test_a_mark_is_on_the_copy_only() -> None:
    @tool
    def delete(path: str) -> str:
        """Delete a file."""
        return path

    marked = mark(delete, approval=True)
    assert marks_of(marked) == Marks(approval=True)
    assert marks_of(delete) == Marks()
    assert marked.invoke({"path": "a"}) == "a"


@pytest.mark.parametrize("marks", [{"timeout": 0}, {"retries": -1}, {"backoff": -1}, {"cost": -0.1}])
def test_a_mark_that_cannot_be(marks: Any) -> None:
    with pytest.raises(ToolError, match="of a tool is"):
        mark(Shaky(0, ValueError()).tool(), **marks)
    with pytest.raises(ToolError, match="is no tool that can be marked"):
        mark(lambda: None)  # type: ignore[call-overload]


async def test_long_tools_run_elsewhere_where_there_is_an_elsewhere() -> None:
    @tool
    def where() -> str:
        """Says where it runs."""
        return "here"

    sent: list[str] = []

    async def away(chosen: Any, request: Any) -> str:
        sent.append(chosen.name)
        if len(sent) == 1:
            raise ConnectionError("the process was lost")
        return "there"

    long = mark(where, long=True, idempotent=True, backoff=0.0)
    call = ToolCall("1", "where", {})
    assert await call_tool({"where": long}, call) == ("here", False)
    send_long_tools(away)
    try:
        assert await call_tool({"where": long}, call) == ("there", False)
        assert await call_tool({"where": where}, call) == ("here", False)
    finally:
        send_long_tools(None)
    assert sent == ["where", "where"], "a process that was lost is a failure that an idempotent tool bears"
    assert await call_tool({"where": long}, call) == ("here", False)

"""Spans of a run: what is under what, what they say, and that no text is in them."""

from __future__ import annotations

from typing import Any

import pytest

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `traces` is not installed")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from plural.agents import Agent, Traces, tool  # noqa: E402
from plural.errors import LimitError  # noqa: E402
from plural.teams import Team  # noqa: E402
from plural.teams.patterns import round_robin  # noqa: E402
from plural.testing import ScriptedModel, calling  # noqa: E402
from plural.types import RunFinished, Usage  # noqa: E402


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class Collected:
    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = trace.TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    @property
    def spans(self) -> tuple[Any, ...]:
        return self._kept.get_finished_spans()

    def tree(self) -> list[tuple[str, str | None]]:
        names = {span.context.span_id: span.name for span in self.spans}
        by_start = sorted(self.spans, key=lambda span: span.start_time)
        return [(span.name, names[span.parent.span_id] if span.parent else None) for span in by_start]


def clerk() -> Agent:
    return Agent("clerk", ScriptedModel([calling(("add", {"a": 1, "b": 2})), "secret 3"]), tools=[add])


def test_a_team_its_agents_their_models_and_tools() -> None:
    seen = Collected()
    team = Team("desk", [clerk()], round_robin(["clerk"], rounds=1))
    assert team.invoke("secret sum", {"callbacks": [Traces(seen.provider)]}) == "secret 3"
    assert seen.tree() == [
        ("invoke_workflow desk", None),
        ("step 1", "invoke_workflow desk"),
        ("invoke_agent clerk", "step 1"),
        ("chat scriptedmodel", "invoke_agent clerk"),
        ("execute_tool add", "invoke_agent clerk"),
        ("chat scriptedmodel", "invoke_agent clerk"),
    ]
    said = {span.name: dict(span.attributes) for span in seen.spans}
    assert said["invoke_agent clerk"] == {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "clerk", "plural.step": 1,
    }  # fmt: skip
    assert said["execute_tool add"]["gen_ai.tool.call.id"] == "call_0"
    assert said["chat scriptedmodel"]["gen_ai.usage.output_tokens"] == 2
    assert "secret" not in str([(span.name, dict(span.attributes), span.events) for span in seen.spans])


async def test_a_run_is_above_all_that_happens_in_it() -> None:
    seen = Collected()

    async def work(config: Any) -> Any:
        async for event in clerk().events("Add.", config):
            yield event

    events = [event async for event in Traces(seen.provider).run("network", work)]
    assert isinstance(events[-1], RunFinished)
    assert seen.tree()[:2] == [("invoke_workflow network", None), ("invoke_agent clerk", "invoke_workflow network")]
    run = next(span for span in seen.spans if span.name == "invoke_workflow network")
    usage = events[-1].usage
    assert usage != Usage()
    assert run.attributes["gen_ai.usage.input_tokens"] == usage.prompt


async def test_what_fails_says_so() -> None:
    seen = Collected()
    mute = Agent("mute", ScriptedModel([]))
    with pytest.raises(LimitError):
        await mute.ainvoke("Hello?", {"callbacks": [Traces(seen.provider)]})
    assert {span.name for span in seen.spans} == {"invoke_agent mute", "chat scriptedmodel"}
    assert all(span.attributes["error.type"] == "LimitError" for span in seen.spans)
    assert all(not span.status.is_ok for span in seen.spans)

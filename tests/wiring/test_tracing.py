"""Traces as they leave the process: a team's run, sent over OTLP/HTTP to a collector that reads its protobuf."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `traces` is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from plural import sync
from plural.agents import Agent, tool
from plural.teams import Team
from plural.teams.patterns import selector
from plural.testing import ScriptedModel, calling
from plural.types import Event, RunFinished
from plural.wiring import tracing
from plural.wiring.settings import read_settings


class Collector:
    """Takes what is posted to /v1/traces, as an OpenTelemetry collector's OTLP receiver does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        kept = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
                    self.send_error(415)
                    return
                asked = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in asked.resource_spans:
                    kept.services |= {
                        a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                    }
                    kept.spans += [span for scope in resource.scope_spans for span in scope.spans]
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """A test's server is quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def tree(self) -> list[tuple[str, str | None]]:
        """Every span and what it is under, in the order in which they began."""
        names = {span.span_id: span.name for span in self.spans}
        by_start = sorted(self.spans, key=lambda span: span.start_time_unix_nano)
        return [(span.name, names.get(span.parent_span_id)) for span in by_start]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "desk")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tracing._provider.cache_clear()
    yield made
    tracing._provider.cache_clear()
    made.close()


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def desk() -> Team:
    clerk = Agent("clerk", ScriptedModel([calling(("add", {"a": 1, "b": 2})), "secret 3"]), tools=[add])
    critic = Agent("critic", ScriptedModel(["Good."]))
    return Team(
        "desk", [clerk, critic], selector(["clerk", "critic"]), model=ScriptedModel(["clerk", "critic"]), max_turns=2
    )


def run(traces: bool) -> list[Event]:
    settings = read_settings(traces=traces)
    team = desk()

    async def all_of() -> list[Event]:
        told = tracing.traced(settings, "network", lambda config: team.events("secret sum", config))
        return [event async for event in told]

    return sync.run(all_of())


def test_a_collector_gets_the_tree_of_a_teams_run(collector: Collector) -> None:
    events = run(traces=True)
    assert tracing._provider().force_flush()
    assert collector.tree() == [
        ("invoke_workflow network", None),
        ("invoke_workflow desk", "invoke_workflow network"),
        ("chat scriptedmodel", "invoke_workflow desk"),  # the choice of who speaks
        ("step 1", "invoke_workflow desk"),
        ("invoke_agent clerk", "step 1"),
        ("chat scriptedmodel", "invoke_agent clerk"),
        ("execute_tool add", "invoke_agent clerk"),
        ("chat scriptedmodel", "invoke_agent clerk"),
        ("step 2", "invoke_workflow desk"),  # of whom only one was left to choose
        ("invoke_agent critic", "step 2"),
        ("chat scriptedmodel", "invoke_agent critic"),
    ]
    assert len({span.trace_id for span in collector.spans}) == 1
    assert collector.services == {"desk"}
    assert isinstance(events[-1], RunFinished)
    top = next(span for span in collector.spans if span.name == "invoke_workflow network")
    said = {each.key: each.value.int_value for each in top.attributes if each.key.startswith("gen_ai.usage")}
    assert said["gen_ai.usage.input_tokens"] == events[-1].usage.prompt
    assert b"secret" not in b"".join(span.SerializeToString() for span in collector.spans)


def test_nothing_is_sent_unless_it_is_asked_for(collector: Collector) -> None:
    assert isinstance(run(traces=False)[-1], RunFinished)
    assert collector.spans == []

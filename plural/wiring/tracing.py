"""Where traces go: nowhere, unless the settings say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from plural.agents import Traces
from plural.errors import SettingsError
from plural.types import Event
from plural.wiring.settings import Settings

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


def traced(
    settings: Settings,
    name: str,
    work: Callable[[RunnableConfig | None], AsyncIterator[Event]],
    config: RunnableConfig | None = None,
) -> AsyncIterator[Event]:
    """The events of a run; with traces, all that happens in it is under a span of its own.

    Raises:
        SettingsError: traces are wanted, and OpenTelemetry is not installed.
    """
    return Traces(_provider()).run(name, work, config) if settings.traces else work(config)


@cache
def _provider() -> Any:
    """The process's own provider if it has one (a server that is instrumented); else one that sends spans by OTLP."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError("There is no OpenTelemetry.", hint="pip install 'plural[traces]'") from error
    known = trace.get_tracer_provider()
    if isinstance(known, TracerProvider):
        return known
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SettingsError("There is nothing to send traces with.", hint="pip install 'plural[traces]'") from error
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider

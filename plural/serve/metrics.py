"""What Prometheus is told. The engine's own counts are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plural.serve.admission import Gate
from plural.serve.visit import Visit
from plural.types import Event, StepFinished, Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Of EngineStats: what only grows, and what comes and goes.
_COUNTED = {
    "steps": "Steps of the engine.",
    "computed": "Tokens computed, of prompts and answers.",
    "cached": "Prompt tokens found in the prefix cache.",
    "preempted": "Requests that gave their pages away and began anew.",
    "loaded": "Adapters brought into pages.",
}
_MEASURED = {
    "running": "Requests that have pages.",
    "waiting": "Requests that wait for their turn.",
    "pages": "Pages of the pool.",
    "pages_used": "Pages of requests under way and their adapters.",
    "pages_cached": "Pages of keys and values that are kept for the next request.",
    "adapters": "Adapters that have pages.",
}


class Metrics:
    """`model` is always an id that exists, so there are as many series as specialists; all mixtures are one."""

    def __init__(self, stats: Callable[[], Mapping[str, float]], gate: Gate) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(stats))
        registry = self._registry
        self._requests = Counter(
            "plural_http_requests", "Requests by route and status.", ("method", "route", "status"), registry=registry
        )
        self._whole = Histogram(
            "plural_request_seconds",
            "From a request to its last byte.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "plural_first_token_seconds",
            "From a request to its first token.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._gaps = Histogram(
            "plural_token_gap_seconds",
            "Mean time between two tokens of one answer.",
            ("model",),
            buckets=_GAPS,
            registry=registry,
        )
        self._tokens = Counter(
            "plural_tokens", "Tokens by kind: prompt, cached, completion.", ("model", "kind"), registry=registry
        )
        self._steps = Counter(
            "plural_steps", "Steps of the network's runs, by who did them.", ("agent",), registry=registry
        )
        self._gone = Counter("plural_disconnects", "Clients that did not wait for their answer.", registry=registry)
        inside = Gauge("plural_answers_inside", "Answers that are worked on or waited for.", registry=registry)
        inside.set_function(lambda: gate.inside)
        refused = Gauge("plural_answers_refused", "Answers refused with 429 since the start.", registry=registry)
        refused.set_function(lambda: gate.refused)

    def answered(self, visit: Visit, route: str) -> None:
        """A request is over, whichever way."""
        self._requests.labels(visit.method if route else "", route, str(visit.status)).inc()
        if visit.gone:
            self._gone.inc()
        if visit.model:
            model = series(visit.model)
            self._whole.labels(model).observe(visit.seconds)
            if visit.first is not None:
                self._first.labels(model).observe(visit.first)
                if visit.usage.completion > 1:
                    self._gaps.labels(model).observe((visit.seconds - visit.first) / (visit.usage.completion - 1))

    def spent(self, model: str, usage: Usage) -> None:
        counted = {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion}
        for kind, tokens in counted.items():
            self._tokens.labels(series(model), kind).inc(tokens)

    def told(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            self._steps.labels(series(event.agent)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


def series(model: str) -> str:
    """The label of a model id: of a version its specialist's."""
    return "mixture" if "+" in model or ":" in model else model.partition("@")[0]


class _Engine(Collector):
    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, what in _COUNTED.items():
            yield CounterMetricFamily(f"plural_engine_{name}", what, stats[name])
        for name, what in _MEASURED.items():
            yield GaugeMetricFamily(f"plural_engine_{name}", what, stats[name])

"""What is counted, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from differnet_ray import metric_names as names
from differnet_ray.queries import ModelsState

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one web process."""

    def __init__(self) -> None:
        self._registry = to = CollectorRegistry()
        self._requests = Counter(*_declared(names.SERVE_REQUESTS), registry=to)
        self._seconds = Histogram(*_declared(names.SERVE_SECONDS), buckets=SECONDS, registry=to)
        self._stages = Histogram(*_declared(names.SERVE_STAGE_SECONDS), buckets=SECONDS, registry=to)
        self._images = Counter(*_declared(names.SERVE_IMAGES), registry=to)
        self._loads = Gauge(*_declared(names.SERVE_MODEL_LOADS), registry=to)
        self._bytes = Gauge(*_declared(names.SERVE_MODEL_BYTES), registry=to)
        self._broken = Gauge(*_declared(names.SERVE_BROKEN), registry=to)
        self.in_flight = Gauge(*_declared(names.SERVE_IN_FLIGHT), registry=to)
        self.held_bytes = Gauge(*_declared(names.SERVE_HELD_BYTES), registry=to)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, category: str, status: str, milliseconds: Mapping[str, float]) -> None:
        """An image has its row."""
        self._images.labels(category, status).inc()
        for stage, time in milliseconds.items():
            self._stages.labels(stage).observe(time / 1000)

    def models(self, state: ModelsState) -> None:
        """A scorer said what it knows of the models."""
        self._loads.labels(state.replica).set(state.n_loads)
        self._bytes.labels(state.replica).set(state.n_bytes)
        self._broken.set(len(state.broken))

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)


def _declared(metric: names.Metric) -> tuple[str, str, tuple[str, ...]]:
    """Name, help and labels, as prometheus_client takes them."""
    return metric.stem, metric.help, metric.labels

"""What is counted, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from differnet_ray.queries import ModelsState

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one web process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        to, prefix = self._registry, "differnet_serve_"
        self._requests = Counter(prefix + "requests", "requests by route and status", ["route", "status"], registry=to)
        self._seconds = Histogram(prefix + "request_seconds", "time of requests", ["route"], buckets=SECONDS, registry=to)
        self._stages = Histogram(prefix + "stage_seconds", "time of an image by stage", ["stage"], buckets=SECONDS, registry=to)
        self._images = Counter(prefix + "images", "images by category and status", ["category", "status"], registry=to)
        self._loads = Gauge(prefix + "model_loads", "models loaded since a scorer started", ["replica"], registry=to)
        self._bytes = Gauge(prefix + "model_bytes", "memory of the models of a scorer", ["replica"], registry=to)
        self._broken = Gauge(prefix + "models_broken", "versions that should be in use and cannot be", registry=to)
        self.in_flight = Gauge(prefix + "in_flight", "images that are scored or wait for it", registry=to)
        self.held_bytes = Gauge(prefix + "held_bytes", "bodies of requests in memory", registry=to)

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

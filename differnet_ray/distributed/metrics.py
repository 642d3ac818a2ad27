"""What jobs count for Ray's Prometheus port, by the names that `metric_names` declares.

Actors and tasks tell the ledger of their job, and the driver tells Ray: it is the one process that is there from the first
image to the last, so that a run of seconds is seen as well. Where nobody asks for them, they stay in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge

from differnet_ray import metric_names as names
from differnet_ray.metric_names import Metric

METRICS = {metric.name: metric for metric in names.JOBS}
_known: dict[str, Any] = {}  # of this process


def add(metric: Metric, value: float = 1, **labels: str) -> None:
    """Adds to a counter."""
    _of_ray(metric, Counter).inc(value, labels)


def put(metric: Metric, value: float, **labels: str) -> None:
    """Sets a gauge."""
    _of_ray(metric, Gauge).set(value, labels)


def _of_ray(metric: Metric, kind: type) -> Any:
    if metric.name not in _known:
        _known[metric.name] = kind(metric.stem, metric.help, tag_keys=metric.labels)
    return _known[metric.name]


@contextmanager
def timed(ledger: Any, stage: str) -> Iterator[None]:
    """Tells the ledger how long the block took."""
    began = time.perf_counter()
    yield
    tell(ledger, names.STAGE_SECONDS, time.perf_counter() - began, stage=stage)


def tell(ledger: Any, metric: Metric, value: float, **labels: str) -> None:
    """Tells the ledger what an actor or a task counted."""
    ledger.count.remote(metric.name, tuple(labels.items()), value)


class ScoreMetrics:
    """Tells Ray what is new since the last look at a scoring run.

    Args:
        n_images: of the run.
        finished: category to status to rows that a killed run of the same finished: they are counted already.
    """

    def __init__(self, n_images: int, finished: Mapping[str, Mapping[str, int]]) -> None:
        self._n_images = n_images
        self._seen: dict[Any, float] = dict(_rows(finished))

    def look(self, rows: Mapping[str, Mapping[str, int]], counted: Mapping[tuple[str, Any], float]) -> None:
        """Takes what the ledger knows.

        Args:
            rows: category to status to rows done.
            counted: name of a metric and its labels to what actors counted.
        """
        for key, value in {**dict(_rows(rows)), **counted}.items():
            if value > self._seen.get(key, 0):
                add(METRICS[key[0]], value - self._seen.get(key, 0), **dict(key[1]))
                self._seen[key] = value
        put(names.IMAGES_PLANNED, self._n_images)
        put(names.IMAGES_LEFT, self._n_images - sum(sum(by_status.values()) for by_status in rows.values()))


def _rows(rows: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[tuple[str, Any], float]]:
    for category, by_status in rows.items():
        for status, n in by_status.items():
            yield (names.IMAGES.name, (("category", category), ("status", status))), n


def audit_finished(record: Mapping[str, Any]) -> None:
    """Tells Ray of an audit.

    Args:
        record: of the audit.
    """
    alarms = record.get("alarms", ())
    put(names.AUDIT_FINISHED, time.time())
    put(names.AUDIT_ALARMS, len(alarms))
    alarmed = {alarm["category"] for alarm in alarms}
    for category in alarmed | set(record.get("category_counts", ())):
        put(names.AUDIT_ALARM, float(category in alarmed), category=category)


def loads_to(ledger: Any) -> Callable[[str], None]:
    """What a `ModelCache` calls for each model that it loads."""
    return lambda category: tell(ledger, names.MODEL_LOADS, 1, category=category)

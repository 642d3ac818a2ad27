"""What is counted, for Prometheus: every metric of this package under one name. Standard library only.

The code that counts takes names, labels and help from here; dashboards and alert rules (cluster/monitoring/) may name nothing
else of ours, and a test holds both. Metrics of jobs go through Ray, which puts `ray_` before the name and adds labels of its
own (`SessionName`, `WorkerId`, ...); those of the endpoint are at its own `/metrics`.

Counters end in `_total` here as Prometheus shows them; both Ray and prometheus_client take the name without it (`Metric.stem`).
A process that starts anew starts its counters at 0, so that they are for looking at and alarms, not for accounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
TOTAL, RAY = "_total", "ray_"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus shows it, without Ray's prefix.
        kind: of the metric.
        labels: its own.
        help: what it counts, in one line.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def stem(self) -> str:
        """The name for constructors of metrics.

        >>> IMAGES.stem
        'differnet_images'
        """
        return self.name.removesuffix(TOTAL)


IMAGES = Metric("differnet_images_total", "counter", ("category", "status"), "images with a row, by category and status")
RETRIES = Metric("differnet_retries_total", "counter", ("category",), "reads of images that were tried again")
BYTES_READ = Metric("differnet_bytes_read_total", "counter", (), "bytes of image files that were read")
MODEL_LOADS = Metric("differnet_model_loads_total", "counter", ("category",), "models loaded by scoring actors")
STAGE_SECONDS = Metric("differnet_stage_seconds_total", "counter", ("stage",), "seconds spent in a stage, over all processes")
IMAGES_PLANNED = Metric("differnet_images_planned", "gauge", (), "images of the run in work")
IMAGES_LEFT = Metric("differnet_images_left", "gauge", (), "images of the run in work without a row")
AUDIT_FINISHED = Metric(
    "differnet_audit_finished_timestamp_seconds", "gauge", (), "when the last audit finished, in seconds since 1970"
)
AUDIT_ALARMS = Metric("differnet_audit_alarms", "gauge", (), "alarms of the last audit")
AUDIT_ALARM = Metric("differnet_audit_alarm", "gauge", ("category",), "1 where the last audit raised an alarm for the category")
FIT_EPOCH = Metric("differnet_fit_epoch", "gauge", ("category",), "epochs done, over all fits of the category")
FIT_LOSS = Metric("differnet_fit_loss", "gauge", ("category",), "loss of the last epoch")
FIT_CATEGORIES = Metric("differnet_fit_categories_total", "counter", ("status",), "categories done, by status")

SERVE_REQUESTS = Metric("differnet_serve_requests_total", "counter", ("route", "status"), "requests by route and status")
SERVE_SECONDS = Metric("differnet_serve_request_seconds", "histogram", ("route",), "time of requests")
SERVE_STAGE_SECONDS = Metric("differnet_serve_stage_seconds", "histogram", ("stage",), "time of an image by stage")
SERVE_IMAGES = Metric("differnet_serve_images_total", "counter", ("category", "status"), "images by category and status")
SERVE_MODEL_LOADS = Metric("differnet_serve_model_loads", "gauge", ("replica",), "models loaded since a scorer started")
SERVE_MODEL_BYTES = Metric("differnet_serve_model_bytes", "gauge", ("replica",), "memory of the models of a scorer")
SERVE_BROKEN = Metric("differnet_serve_models_broken", "gauge", (), "versions that should be in use and cannot be")
SERVE_IN_FLIGHT = Metric("differnet_serve_in_flight", "gauge", (), "images that are scored or wait for it")
SERVE_HELD_BYTES = Metric("differnet_serve_held_bytes", "gauge", (), "bodies of requests in memory")

JOBS = (
    IMAGES,
    RETRIES,
    BYTES_READ,
    MODEL_LOADS,
    STAGE_SECONDS,
    IMAGES_PLANNED,
    IMAGES_LEFT,
    AUDIT_FINISHED,
    AUDIT_ALARMS,
    AUDIT_ALARM,
    FIT_EPOCH,
    FIT_LOSS,
    FIT_CATEGORIES,
)
SERVE = (
    SERVE_REQUESTS,
    SERVE_SECONDS,
    SERVE_STAGE_SECONDS,
    SERVE_IMAGES,
    SERVE_MODEL_LOADS,
    SERVE_MODEL_BYTES,
    SERVE_BROKEN,
    SERVE_IN_FLIGHT,
    SERVE_HELD_BYTES,
)


def exposed() -> dict[str, tuple[str, ...]]:
    """The names at the Prometheus ports, each with its own labels.

    >>> exposed()["ray_differnet_images_total"]
    ('category', 'status')
    >>> exposed()["differnet_serve_request_seconds_bucket"]
    ('route', 'le')
    """
    names = {RAY + metric.name: metric.labels for metric in JOBS}
    for metric in SERVE:
        if metric.kind == "histogram":
            names |= {f"{metric.name}_{part}": metric.labels for part in ("count", "sum")}
            names[f"{metric.name}_bucket"] = (*metric.labels, "le")
        else:
            names[metric.name] = metric.labels
    return names

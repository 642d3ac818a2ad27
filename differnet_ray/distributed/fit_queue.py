"""The actor behind a fitting run. A module of its own, without torch, so that it starts in a second."""

from __future__ import annotations

from typing import Any

from differnet_ray import metric_names as names
from differnet_ray.distributed.metrics import add, put
from differnet_ray.pipeline.fit_state import DONE, CategoryQueue


class FitQueue(CategoryQueue):
    """The queue as an actor, which also tells Ray's Prometheus port what goes on."""

    def report(self, category: str, **changes: Any) -> None:
        """As `CategoryQueue.report`."""
        super().report(category, **changes)
        progress = changes.get("progress")
        if progress is not None and progress.loss is not None:
            put(names.FIT_EPOCH, progress.done, category=category)
            put(names.FIT_LOSS, progress.loss, category=category)
        if changes.get("status") in DONE:
            add(names.FIT_CATEGORIES, status=changes["status"])

"""The actor behind a fitting run. A module of its own, without torch, so that it starts in a second."""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge

from differnet_ray.pipeline.fit_state import DONE, CategoryQueue


class FitQueue(CategoryQueue):
    """The queue as an actor, which also tells Ray's Prometheus port what goes on."""

    def __init__(self, categories: list[str]) -> None:
        super().__init__(categories)
        tags = ("category",)
        self._epoch = Gauge("differnet_fit_epoch", "Epochs done, over all fits of the category.", tag_keys=tags)
        self._loss = Gauge("differnet_fit_loss", "Loss of the last epoch.", tag_keys=tags)
        self._categories = Counter("differnet_fit_categories", "Categories done, by status.", tag_keys=("status",))

    def report(self, category: str, **changes: Any) -> None:
        """As `CategoryQueue.report`."""
        super().report(category, **changes)
        progress = changes.get("progress")
        if progress is not None and progress.loss is not None:
            self._epoch.set(progress.done, {"category": category})
            self._loss.set(progress.loss, {"category": category})
        if changes.get("status") in DONE:
            self._categories.inc(1, {"status": changes["status"]})

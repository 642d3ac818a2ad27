"""Where the categories of a fitting run are. Standard library only: the actor that holds this starts at once.

`distributed/fit.py` makes an actor of `CategoryQueue`; this file knows no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_DEATHS = 3
WAITING, RUNNING, FITTED, UNCHANGED, FAILED = "waiting", "running", "fitted", "unchanged", "failed"
DONE = (FITTED, UNCHANGED, FAILED)


@dataclass(frozen=True)
class FitProgress:
    """How far the fit of a category is: `done` of `total` in a phase (`read`, `pose`, `compared`, `features`, ...)."""

    phase: str
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class FittedCategory:
    """What a fit brought about.

    Attributes:
        version: in the model store.
        n_fitted: good images that the flow was fitted on.
        n_calibrated, method: good images that the threshold was found on, `held out` or `cross-fitted`.
        skipped: images that could not be used: name to reason.
        epochs, resumed: epochs of the flow in use, and epochs after which an interrupted fit went on.
        loss: of the last epoch.
        threshold: a score at or over it is anomalous.
        target_fpr: false-alarm rate asked for.
        achieved_fpr: the rate that so many images can guarantee.
        extrapolated: whether the threshold is that of a fitted tail, for a rate below the achieved one.
        statement: what the threshold rests on, for people.
        auroc: on the labelled test set; None where there is none.
        notes: what people should know.
        peak_memory: largest resident memory of the process, in bytes.
        pose: what decided the pose, for people; empty where it was given.
    """

    version: str
    n_fitted: int
    n_calibrated: int
    method: str
    skipped: dict[str, str]
    epochs: int
    resumed: tuple[int, ...]
    loss: float
    threshold: float
    target_fpr: float
    achieved_fpr: float
    extrapolated: bool
    statement: str
    auroc: float | None
    notes: tuple[str, ...]
    seconds: float
    peak_memory: int
    pose: str = ""

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> FittedCategory:
        """What the `model.json` of a version says."""
        decision, lineage = record["decision"], record["lineage"]
        return FittedCategory(
            version=record["version"],
            n_fitted=lineage["n_fitted"],
            n_calibrated=decision["n_images"],
            method=decision["method"],
            skipped=lineage["skipped"],
            epochs=len(lineage["losses"]),
            resumed=tuple(lineage["resumed"]),
            loss=lineage["losses"][-1],
            threshold=decision["threshold"],
            target_fpr=decision["target_fpr"],
            achieved_fpr=decision["achieved_fpr"],
            extrapolated=decision["extrapolated"],
            statement=decision["statement"],
            auroc=lineage["test"] and lineage["test"]["auroc"],
            notes=tuple(lineage["notes"]),
            seconds=lineage["seconds"],
            peak_memory=lineage["peak_memory"],
            pose=lineage["pose"],
        )


@dataclass(frozen=True)
class CategoryState:
    """Where a category of a run is: `waiting`, `running`, `fitted`, `unchanged` (fitted by an earlier run) or `failed`.

    Attributes:
        deaths: groups of workers that died while it was running, since its last checkpoint.
        worker: host and process that runs it.
    """

    status: str = WAITING
    deaths: int = 0
    worker: str = ""
    progress: FitProgress | None = None
    result: FittedCategory | None = None
    error: str | None = None


class CategoryQueue:
    """Who fits what, and how far it is.

    When a worker dies, all of its group do, and which category killed it cannot be seen. So a category is given up when
    three groups died with it without a checkpoint in between, and has its last try alone: others cannot be to blame, nor
    be blamed.

    Args:
        categories: to be fitted, in this order.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._states = {category: CategoryState() for category in categories}
        self._group = ""

    def lease(self, group: str, worker: str = "") -> tuple[str | None, bool]:
        """The next category for a worker of a group.

        The first call of a new group voids the leases of the group before: its processes are dead.

        Returns:
            A category, or None; and whether to ask again, because some may yet become free.
        """
        if group != self._group:
            self._group = group
            self._void_leases()
        running = [state for state in self._states.values() if state.status == RUNNING]
        alone = any(state.deaths == MAX_DEATHS - 1 for state in running)
        waiting = [category for category, state in self._states.items() if state.status == WAITING]
        trusted = [category for category in waiting if self._states[category].deaths < MAX_DEATHS - 1]
        if waiting and not alone and (trusted or not running):
            category = (trusted or waiting)[0]
            self._states[category] = replace(self._states[category], status=RUNNING, worker=worker)
            return category, True
        return None, bool(waiting)

    def _void_leases(self) -> None:
        for category, state in self._states.items():
            if state.status == RUNNING:
                deaths = state.deaths + 1
                if deaths < MAX_DEATHS:
                    self._states[category] = replace(state, status=WAITING, deaths=deaths)
                else:
                    error = f"its process died {deaths} times; out of memory, or an image that crashes the decoder?"
                    self._states[category] = replace(state, status=FAILED, deaths=deaths, error=error)

    def report(self, category: str, **changes: Any) -> None:
        """Notes progress, a result or an error of a category."""
        self._states[category] = replace(self._states[category], **changes)

    def states(self) -> dict[str, CategoryState]:
        """The state of every category."""
        return self._states

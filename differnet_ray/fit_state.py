"""Where the categories of a fitting run are. Standard library only: the actor that holds this starts at once.

`distributed/fit.py` makes an actor of `CategoryQueue`; this file knows no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_TRIES = 3


@dataclass(frozen=True)
class FitProgress:
    """How far the fit of a category is: `done` of `total` in a phase (`read`, `features`, `epochs` or `calibrate`)."""

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
        skipped: images that could not be used: URI to reason.
        loss: of the last epoch.
        threshold: a score at or over it is anomalous.
        target_fpr: false-alarm rate asked for.
        achieved_fpr: the rate that so many images can guarantee.
        extrapolated: whether the threshold is that of a fitted tail, for a rate below the achieved one.
        statement: what the threshold rests on, for people.
    """

    version: str
    n_fitted: int
    n_calibrated: int
    method: str
    skipped: dict[str, str]
    epochs: int
    loss: float
    threshold: float
    target_fpr: float
    achieved_fpr: float
    extrapolated: bool
    statement: str
    seconds: float


@dataclass(frozen=True)
class CategoryState:
    """Where a category of a run is: `waiting`, `running`, `fitted` or `failed`."""

    status: str = "waiting"
    tries: int = 0
    progress: FitProgress | None = None
    result: FittedCategory | None = None
    error: str | None = None


class CategoryQueue:
    """Who fits what, and how far it is."""

    def __init__(self, categories: Sequence[str]) -> None:
        self._states = {category: CategoryState() for category in categories}
        self._group = ""

    def lease(self, group: str) -> str | None:
        """The next category for a worker of a group, None when nothing waits.

        The first call of a new group voids the leases of the group before: its processes are dead.
        """
        if group != self._group:
            self._group = group
            for category, state in self._states.items():
                if state.status == "running":
                    gone = state.tries >= MAX_TRIES
                    error = f"its process died {state.tries} times; out of memory, or an image that crashes the decoder?"
                    self._states[category] = (
                        replace(state, status="failed", error=error) if gone else replace(state, status="waiting")
                    )
        for category, state in self._states.items():
            if state.status == "waiting":
                self._states[category] = replace(state, status="running", tries=state.tries + 1)
                return category
        return None

    def report(self, category: str, **changes: Any) -> None:
        """Notes progress, a result or an error of a category."""
        self._states[category] = replace(self._states[category], **changes)

    def states(self) -> dict[str, CategoryState]:
        """The state of every category."""
        return self._states

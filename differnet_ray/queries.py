"""What is asked of the online endpoint, and what a scorer answers, as values. Standard library only.

The web side (`online/`) and the scoring side (`pipeline/score_query.py`) know each other by these alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

MapForm = Literal["none", "png", "array"]
MAP_FORMS: tuple[MapForm, ...] = ("none", "png", "array")


@dataclass(frozen=True)
class Query:
    """One image to score.

    Attributes:
        image: the content of its file.
        category: the model that scores it.
        map: the form in which its map is wanted.
        n_transforms: score with the first so many transforms; all if None.
        attributes: become those of the row.
    """

    image: bytes = field(repr=False)
    category: str
    map: MapForm = "none"
    n_transforms: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the nightly job would say of an image.

    Attributes:
        row: of `tables.SCORES`, also where the image has no score: then with a status and a reason.
        map: of `tables.MAPS` its columns `map_height`, `map_width`, `map_kind` and, as was asked, `overlay_png` or
            `gradient_map`; None where none was asked for, or the image has no score.
        milliseconds: stage to time, in order: wait (for a thread), load (of the model), decode, score, map.
    """

    row: Mapping[str, Any]
    map: Mapping[str, Any] | None
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class ModelsState:
    """What a scorer knows of the models, at a moment.

    Attributes:
        replica: names the scorer.
        backbone: whether a backbone is loaded.
        store: whether the model store answered when it was last looked at.
        in_use: category to the version that scores.
        all_loaded: whether all models in use are in memory.
        broken: category to a version that should be in use and cannot be.
        n_loads: models loaded so far.
        n_bytes: of the models that are loaded.
    """

    replica: str
    backbone: bool
    store: bool
    in_use: Mapping[str, str]
    all_loaded: bool
    broken: Mapping[str, str]
    n_loads: int
    n_bytes: int


class Problem(Exception):
    """Why there is no answer: an HTTP status, and one sentence for people that says nothing of our insides.

    Args:
        status: of HTTP.
        detail: what is wrong, and what to do.
        retry_after: seconds after which another try may go better.
        image_status: the `status` of the image's row, where the image is what is wrong.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None, image_status: str | None = None) -> None:
        super().__init__(status, detail, retry_after, image_status)
        self.status, self.detail, self.retry_after, self.image_status = status, detail, retry_after, image_status


class Scorer(Protocol):
    """What the web side needs."""

    async def score(self, query: Query) -> Answer:
        """The answer to a query.

        Raises:
            Problem: there is none.
        """

    async def state(self) -> ModelsState:
        """What it knows of the models.

        Raises:
            Problem: it does not answer.
        """

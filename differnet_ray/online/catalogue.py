"""What the web side knows of the models: which are in use, from the scorers, and what they are, from the model store.

It asks in the background, so that questions about models are answered at once, however much there is to score.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from differnet_ray.errors import DifferNetError
from differnet_ray.online.answers import CategoryAnswer, CategoryDetails, Histogram, category_of
from differnet_ray.queries import ModelsState, Problem, Scorer
from differnet_ray.store.card import card
from differnet_ray.store.model_store import ModelStore

SECONDS_BETWEEN_QUESTIONS, SECONDS_TO_ANSWER = 1.0, 10.0
FRESH = 30.0  # seconds that what a scorer said last holds
MOST_BINS = 60
RETRY_AFTER = 5
logger = logging.getLogger(__name__)


class Catalogue:
    """The models in use.

    Args:
        models: canonical URI of the model store.
        scorer: that knows which.
        heard: called with each state.

    Attributes:
        state: what a scorer said last; None before that.
    """

    def __init__(self, models: str, scorer: Scorer, heard: Callable[[ModelsState], None]) -> None:
        self._store, self._scorer, self._heard = ModelStore(models), scorer, heard
        self.state: ModelsState | None = None
        self._heard_at = -FRESH
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    async def follow(self) -> None:
        """Asks the scorers again and again, until it is cancelled."""
        told = False
        while True:
            try:
                await self.ask()
                told = False
            except (Problem, TimeoutError) as error:
                if not told:
                    logger.warning("no scorer says which models are in use: %r", error)
                told = True
            await asyncio.sleep(SECONDS_BETWEEN_QUESTIONS)

    async def ask(self) -> None:
        """Asks once.

        Raises:
            Problem: no scorer answers.
            TimeoutError: nor in time.
        """
        async with asyncio.timeout(SECONDS_TO_ANSWER):
            self.state = await self._scorer.state()
        self.alive()
        self._heard(self.state)
        await asyncio.to_thread(self._read, self.state)

    def alive(self) -> None:
        """A scorer has answered: what was last said of the models still holds."""
        self._heard_at = time.monotonic()

    def in_use(self, category: str) -> str:
        """The version that scores a category.

        Raises:
            Problem: there is none.
        """
        version = self._known().in_use.get(category)
        if version is None:
            raise Problem(404, f"there is no category {category[:100]!r}; GET /v1/categories lists them")
        return version

    def all(self) -> list[CategoryAnswer]:
        """The models in use, by category, as far as their records could be read."""
        in_use = sorted(self._known().in_use.items())
        return [category_of(self._records[key]) for key in in_use if key in self._records]

    async def details(self, category: str) -> CategoryDetails:
        """All of a model that people ask for.

        Raises:
            Problem: there is none, or it cannot be read.
        """
        key = category, self.in_use(category)
        try:
            record, histogram = await asyncio.to_thread(lambda: (self._record(key), self._histogram(key)))
        except (DifferNetError, OSError) as error:
            logger.error("%s %s: %s", *key, error)
            raise Problem(503, "the model store does not answer, or the model is damaged", RETRY_AFTER) from error
        return CategoryDetails(**category_of(record).model_dump(), card=card(record), histogram=histogram)

    def unready(self) -> str | None:
        """Why the endpoint cannot score, or not as it should; None where all is well."""
        if self.state is None or time.monotonic() - self._heard_at > FRESH:
            return "no scorer answers"
        if not self.state.store:
            return "the model store does not answer; models that are loaded go on"
        return None if self.state.backbone else "no model is loaded yet"

    def _known(self) -> ModelsState:
        if self.state is None:
            raise Problem(503, "no scorer has started yet", RETRY_AFTER)
        return self.state

    def _read(self, state: ModelsState) -> None:
        """Reads the records of models that are new, and forgets those that are not in use any more."""
        for key in state.in_use.items():
            try:
                self._record(key)
            except (DifferNetError, OSError) as error:
                logger.warning("%s %s: %s", *key, error)
        for known in (self._records, self._histograms):
            for key in known.keys() - set(state.in_use.items()):
                del known[key]

    def _record(self, key: tuple[str, str]) -> dict[str, Any]:
        if key not in self._records:
            self._records[key] = self._store.record(*key)
        return self._records[key]

    def _histogram(self, key: tuple[str, str]) -> Histogram:
        if key not in self._histograms:
            scores = self._store.calibration(*key)["anomaly_score"].to_numpy()
            bins = min(MOST_BINS, len(np.histogram_bin_edges(scores, "fd")) - 1) if len(scores) > 1 else 1
            counts, edges = np.histogram(scores, bins=max(1, bins))
            self._histograms[key] = Histogram(edges=edges.tolist(), counts=counts.tolist())
        return self._histograms[key]

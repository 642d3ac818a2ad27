"""BRIDGE: the models in use by a process that stays, which follow `latest.json` while they score.

A new version is loaded beside the old one, and then takes over; one that cannot be loaded is reported, and the old one goes on.
What is loaded goes on without the store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from differnet_ray.errors import ConfigError, DifferNetError, ModelStoreError, StorageError
from differnet_ray.pipeline.loaded_models import LoadedModel, ModelCache
from differnet_ray.queries import ModelsState
from differnet_ray.threads import map_ahead

LOOKS_AT_ONCE = 8  # `latest.json` of so many categories
UNREADABLE = "latest.json"  # instead of a version, where that file is damaged
logger = logging.getLogger(__name__)


class ServedModels:
    """The models of a cache that are in use.

    Args:
        cache: what they are loaded into.
        pinned: category to version, where it is not the latest.
        seconds: between looks at the store.
        replica: names this process among others.
    """

    def __init__(self, cache: ModelCache, pinned: Mapping[str, str], seconds: float, replica: str = "") -> None:
        self.cache, self._pinned, self._seconds, self._replica = cache, dict(pinned), seconds, replica
        self._in_use: dict[str, str] = dict(pinned)
        self._broken: dict[str, str] = {}
        self._store = False
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="models", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ends looking at the store."""
        self._stop.set()

    def get(self, category: str) -> LoadedModel:
        """The model in use, loaded where it is not there.

        Raises:
            KeyError: the category has no model.
            ModelStoreError: it is damaged.
            StorageError: it is not loaded, and the store does not answer.
        """
        version = self._in_use[category]
        try:
            model = self.cache.get(category, version)
        except ModelStoreError:
            self._broken[category] = version
            raise
        if self._broken.get(category) == version:  # it has been mended
            self._broken.pop(category, None)
        return model

    def state(self) -> ModelsState:
        """What is known of the models now."""
        in_use = dict(self._in_use)
        return ModelsState(
            replica=self._replica,
            backbone=self.cache.n_loads > 0,
            store=self._store,
            in_use=in_use,
            all_loaded=in_use.items() <= set(self.cache.loaded()),
            broken=dict(self._broken),
            n_loads=self.cache.n_loads,
            n_bytes=self.cache.n_bytes(),
        )

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            if self._store and not self._stop.is_set():
                self._load_what_fits()
            self._stop.wait(self._seconds)

    def look(self) -> None:
        """Looks at the store once: whether it answers, and which versions are the latest."""
        try:
            categories = [name for name in self.cache.store.categories() if name not in self._pinned]
            latest = dict(zip(categories, map_ahead(self._latest, categories, LOOKS_AT_ONCE), strict=True))
            if not categories and self._in_use.keys() - self._pinned.keys():
                raise StorageError(f"{self.cache.store.uri} has no models any more")  # a folder that is gone is an empty one
        except (DifferNetError, OSError) as error:
            if self._store:
                logger.warning("the model store does not answer, what is loaded goes on: %s", error)
            self._store = False
            return
        if not self._store:
            logger.info("the model store answers")
        self._store = True
        for category, version in latest.items():
            if version == self._in_use.get(category):
                if self._broken.get(category) != version:  # the one that is broken is not the latest any more
                    self._broken.pop(category, None)
            elif version != self._broken.get(category):
                self._take_over(category, version)

    def _latest(self, category: str) -> str:
        try:
            return self.cache.store.latest(category)
        except (ModelStoreError, ConfigError) as error:
            if self._broken.get(category) != UNREADABLE:
                logger.error("%s", error)
            return UNREADABLE

    def _take_over(self, category: str, version: str) -> None:
        """Loads a version and puts it in use; of a category that is not loaded its files are checked only."""
        old = self._in_use.get(category)
        try:
            if version == UNREADABLE:
                self._broken[category] = version
                return
            if old is None:
                self.cache.store.record(category, version)
            elif (category, old) in self.cache.loaded():
                self.cache.get(category, version)
            else:
                self.cache.store.load(category, version)
        except ModelStoreError as error:
            self._broken[category] = version
            logger.error("%s %s cannot be used, %s goes on: %s", category, version, old or "none", error)
            return
        except (DifferNetError, OSError) as error:
            logger.warning("%s %s could not be read, the next look tries again: %s", category, version, error)
            return
        self._in_use[category] = version
        self._broken.pop(category, None)
        logger.info("%s: %s is in use; before: %s", category, version, old or "none")

    def _load_what_fits(self) -> None:
        """Loads models in use until the memory for them is nearly full, so that the first requests need not wait."""
        loaded = {category for category, _ in self.cache.loaded()}
        for category in sorted(set(self._in_use) - loaded - set(self._broken)):
            n = len(loaded)
            if self._stop.is_set() or (n and self.cache.n_bytes() * (n + 1) / n > self.cache.memory):
                return
            try:
                self.get(category)
                loaded.add(category)
            except (DifferNetError, OSError) as error:
                logger.error("%s cannot be loaded: %s", category, error)

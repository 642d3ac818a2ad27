"""BRIDGE from the model store to networks: the models of a process, loaded when first needed, as many as fit in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from differnet_ray.errors import ModelStoreError, WeightsError
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.flow import Flow
from differnet_ray.model.transforms import TransformSet
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Arrays, StoredModel

MEMORY = 3 * 2**30  # bytes of models: four flows of the paper's size


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, with its record; the arrays of its flow and backbone are in the network alone."""

    net: DifferNet
    stored: StoredModel

    @cached_property
    def n_bytes(self) -> int:
        """What it takes beside the backbone, which models share."""
        of_backbone = {tensor.data_ptr() for tensor in self.net.extractor.state_dict().values()}
        tensors = [*self.net.parameters(), *self.net.buffers()]
        return sum(tensor.nbytes for tensor in tensors if tensor.data_ptr() not in of_backbone)


class ModelCache:
    """Models by category and version, the least recently used put away, backbones shared.

    Threads may ask at the same time: each model is loaded once, and none waits for the loading of another one.

    Args:
        models: canonical URI of the model store.
        device: such as `cpu` or `cuda`.
        memory: bytes of the models that are kept; the last one asked for is kept, however large.
        on_load: called with the category of each model that was loaded.
    """

    def __init__(self, models: str, device: str, memory: int = MEMORY, on_load: Callable[[str], None] | None = None) -> None:
        self.store, self.device, self.memory = ModelStore(models), device, memory
        self.n_loads, self._on_load = 0, on_load
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, str], Future[LoadedModel]] = OrderedDict()
        self._extractors: dict[tuple[Any, ...], Extractor] = {}

    def get(self, category: str, version: str) -> LoadedModel:
        """A model, loaded where it is not there.

        Raises:
            ModelStoreError: it is missing, damaged or no network of its recipe; the next call tries again.
            StorageError: the store could not be read; as above.
        """
        key = category, version
        with self._lock:
            found = self._models.get(key)
            if found is None:
                mine = self._models[key] = Future()
            else:
                self._models.move_to_end(key)
        if found is not None:
            return found.result()
        try:
            model = self._load(category, version)
        except BaseException as error:
            with self._lock:
                del self._models[key]
            mine.set_exception(error)
            raise
        mine.set_result(model)
        with self._lock:
            self.n_loads += 1
            self._put_away()
        if self._on_load is not None:
            self._on_load(category)
        return model

    def loaded(self) -> list[tuple[str, str]]:
        """Category and version of the models that are there, the least recently used first."""
        with self._lock:
            return [key for key, model in self._models.items() if model.done()]

    def n_bytes(self) -> int:
        """What they take, beside backbones."""
        with self._lock:
            return sum(self._sizes().values())

    def _sizes(self) -> dict[tuple[str, str], int]:
        return {key: model.result().n_bytes for key, model in self._models.items() if model.done()}

    def _put_away(self) -> None:
        sizes = self._sizes()
        total, last = sum(sizes.values()), next(reversed(self._models))
        for key, size in sizes.items():
            if total <= self.memory:
                return
            if key != last:
                del self._models[key]
                total -= size

    def _load(self, category: str, version: str) -> LoadedModel:
        stored = self.store.load(category, version)
        config = stored.recipe.extractor
        key = (stored.backbone.digest, config)
        try:
            if key not in self._extractors:
                self._extractors.setdefault(key, Extractor(config, as_tensors(stored.weights)).to(self.device))
            flow = Flow(config.n_features, stored.recipe.flow, seed=None)
            flow.load_state_dict(as_tensors(stored.flow), assign=True)
            transforms, pooled = TransformSet(**stored.transforms), stored.recipe.transforms.pooled
        except (WeightsError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())  # torch writes an indented list
            raise ModelStoreError(
                f"{category} {stored.version} in {self.store.uri} is whole, but no network of its recipe: {why}; fit again"
            ) from error
        net = DifferNet(self._extractors[key], flow, transforms, pooled=pooled)
        return LoadedModel(net.requires_grad_(False).eval().to(self.device), replace(stored, flow={}, weights={}))


class LoadedModels:
    """The models of a cache that some versions name, by category."""

    def __init__(self, cache: ModelCache, versions: Mapping[str, str]) -> None:
        self._cache, self._versions = cache, versions

    def __getitem__(self, category: str) -> LoadedModel:
        return self._cache.get(category, self._versions[category])


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Arrays of the model store as tensors that own their memory."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

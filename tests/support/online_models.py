"""Fitted models without Ray, the rows of a plain loop over the stages, and a scorer in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from differnet_ray.archives.decoders import Decoders
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import list_images, select
from differnet_ray.config import Recipe
from differnet_ray.model.extractor import load_backbone_weights, weights_digest
from differnet_ray.online.options import Limits
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.pipeline.score_query import ScoreQuery
from differnet_ray.pipeline.served_models import ServedModels
from differnet_ray.pipeline.stages import MapGradients, ScoreImages
from differnet_ray.queries import Answer, ModelsState, Query
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone

KINDS = {"plate": "activation", "lid": "gradient"}


def fit_models(factory: Path, recipe: Recipe, models: Path) -> str:
    """Fits both categories of the small factory, one with maps of each kind; returns the canonical URI of the store."""
    torch.set_num_threads(1)
    weights = load_backbone_weights("random")[0]
    images = list_images([str(factory)])
    for category, kind in KINDS.items():
        job = FitJob(
            listing=select(images, split="train", defect="good"),
            test=select(images, split="test"),
            data=(str(factory),),
            models=canonical(str(models)),
            recipe=recipe.override(map_kind=kind),
            backbone=Backbone("random", weights_digest(weights), pretrained=False),
            weights={key: value.numpy() for key, value in weights.items()},
            scratch=str(models) + "-scratch",
            bank_memory=0,
            checkpoint_seconds=1000,
            began="9999",
        )
        fit_category(job, category, "cpu", Effort())
    return canonical(str(models))


def publish_another(models: str) -> None:
    """Puts a second version of each model in use: the same flow, higher thresholds."""
    store = ModelStore(models)
    for category in store.categories():
        model = store.load(category)
        decision = replace(model.decision, threshold=2 * model.decision.threshold)
        store.publish(replace(model, decision=decision, version="", digest=""))


def staged_rows(images: Path, models: str) -> dict[str, dict[str, Any]]:
    """Rows of all images below a folder by path, as the stages of the scoring job give them in one batch, with maps."""
    torch.set_num_threads(1)
    rows = list_images([str(images)]).table
    store = ModelStore(models)
    versions = {category: store.latest(category) for category in store.categories()}
    forms = {c: Recipe.from_dict(store.record(c, version)["recipe"]).image_form for c, version in versions.items()}
    where: dict[str, Any] = {"models": models, "versions": versions, "device": "cpu", "overlays": True}
    score = ScoreImages(n_transforms=None, maps="all", dt=date(2026, 1, 31), run_id="loop", **where)
    staged = MapGradients(**where)(score(FetchImages(forms)(rows)))
    return {row["uri"].removeprefix("file://"): row for row in staged.to_pylist()}


class LocalScorer:
    """The scorer of this process, with so many threads."""

    def __init__(self, models: ServedModels, limits: Limits, threads: int) -> None:
        self.models = models
        decoders = Decoders(threads, max_bytes=limits.image_bytes, max_pixels=limits.pixels, seconds=limits.decode_seconds)
        self._answer, self._pool = ScoreQuery(models, decoders), ThreadPoolExecutor(threads)

    async def score(self, query: Query) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, query, time.perf_counter())

    async def state(self) -> ModelsState:
        return self.models.state()


@contextmanager
def local_scorer(
    models: str,
    limits: Limits | None = None,
    *,
    threads: int = 2,
    pinned: Mapping[str, str] | None = None,
    seconds: float = 0.2,
) -> Iterator[LocalScorer]:
    """A scorer that looks at the store every so many seconds."""
    torch.set_num_threads(1)
    served = ServedModels(ModelCache(models, "cpu"), pinned or {}, seconds, "here")
    try:
        yield LocalScorer(served, limits or Limits(), threads)
    finally:
        served.close()

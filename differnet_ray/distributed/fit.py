"""Fitting many categories at once: one Ray Train run whose workers lease categories from a queue actor.

A category that cannot be fitted is reported with its reason and does not stop the others. When a worker dies, Ray Train
starts the whole group again; the leases of the dead group are void, and a category that was in flight in three dead
groups is given up.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from differnet_ray.config import Recipe
from differnet_ray.data.manifest import Listing, select
from differnet_ray.data.model_store import Arrays, Backbone
from differnet_ray.data.storage import arrow_filesystem, delete, join
from differnet_ray.distributed.resources import plan_fit, watched
from differnet_ray.errors import ConfigError, FitError
from differnet_ray.fit_category import fit_category, usable_images
from differnet_ray.fit_state import MAX_TRIES, CategoryQueue, CategoryState, FitProgress
from differnet_ray.stages import best_device


@dataclass(frozen=True)
class FitJob:
    """A fitting run, as values.

    Attributes:
        listing: manifest rows of the good images of all categories.
        data: locations of the images, for the record.
        models: canonical URI of the model store.
    """

    listing: Listing = field(repr=False)
    data: tuple[str, ...]
    models: str
    recipe: Recipe
    backbone: Backbone
    weights: Arrays = field(repr=False)
    max_parallel: int | None = None
    gpus_per_fit: float | None = None


def check_usable(listing: Listing, recipe: Recipe) -> None:
    """Refuses categories that cannot be fitted, before any work.

    Raises:
        ConfigError: a category has fewer than 2 usable good images.
    """
    for category in listing.categories:
        rows = select(listing, categories=[category]).table
        reasons: list[str] = []
        usable = 0
        for uri, image in usable_images(rows, recipe.extractor.image_size):
            if isinstance(image, str):
                reasons.append(f"{uri} ({image})")
            else:
                usable += 1
            if usable == 2:
                break
        else:
            why = f"; not usable: {', '.join(reasons[:3])}" if reasons else ""
            raise ConfigError(f"category {category!r} has {usable} usable good images, expected at least 2{why}")


def fit_categories(job: FitJob, on_progress: Callable[[Mapping[str, CategoryState]], None]) -> dict[str, CategoryState]:
    """Fits and publishes every category of the job.

    Args:
        job: what to fit.
        on_progress: shown the state of all categories about twice a second.

    Returns:
        The final state of every category, `fitted` or `failed`.
    """
    categories = job.listing.categories
    plan = plan_fit(len(categories), max_parallel=job.max_parallel, gpus_per_fit=job.gpus_per_fit)
    queue: Any = ray.remote(num_cpus=0)(CategoryQueue).remote(categories)
    scratch = join(job.models, "_fit", uuid.uuid4().hex)
    filesystem, path = arrow_filesystem(scratch)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"queue": queue, "job": ray.put(job), "threads": plan.cpus},
        torch_config=TorchConfig(backend="gloo"),  # NCCL refuses several workers on one GPU
        scaling_config=ScalingConfig(
            num_workers=plan.n_workers,
            use_gpu=plan.gpus > 0,
            resources_per_worker={"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {}),
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_TRIES * len(categories)),
        ),
    )
    try:
        with watched(lambda: ray.get(queue.states.remote()), on_progress):
            trainer.fit()
        states: dict[str, CategoryState] = ray.get(queue.states.remote())
    finally:
        delete(scratch)
        ray.kill(queue)
    unfinished = [category for category, state in states.items() if state.status not in ("fitted", "failed")]
    if unfinished:
        raise FitError(f"the run ended without a result for {', '.join(unfinished)}: run the same command again")
    return states


def _worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    queue, job = config["queue"], ray.get(config["job"])
    group = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(group, src=0)
    while (category := ray.get(queue.lease.remote(group[0]))) is not None:

        def on_progress(progress: FitProgress, category: str = category) -> None:
            queue.report.remote(category, progress=progress)

        try:
            result = fit_category(
                category=category,
                listing=select(job.listing, categories=[category]),
                models=job.models,
                recipe=job.recipe,
                backbone=job.backbone,
                weights={name: np.array(array) for name, array in job.weights.items()},
                data=job.data,
                device=best_device(),
                on_progress=on_progress,
            )
        except Exception as error:  # whatever it is, it must not stop the other categories
            ray.get(queue.report.remote(category, status="failed", error=f"{type(error).__name__}: {error}"))
        else:
            ray.get(queue.report.remote(category, status="fitted", result=result))

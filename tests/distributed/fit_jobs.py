"""Fitting jobs that last long enough to be killed, and what is to be found after them."""

from __future__ import annotations

from pathlib import Path

import torch

from differnet_ray.archives.manifest import list_images, select
from differnet_ray.config import Recipe
from differnet_ray.model.extractor import load_backbone_weights, weights_digest
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import CategoryState
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone

EPOCHS_BEFORE_A_KILL = 10


def job_of(data: str, folder: str, recipe: Recipe) -> FitJob:
    """All categories of some data, into a folder, with a checkpoint after each epoch."""
    weights, name = load_backbone_weights("random")
    images = list_images([data])
    return FitJob(
        listing=select(images, split="train", defect="good"),
        test=select(images, split="test"),
        data=(data,),
        models=canonical(f"{folder}/models"),
        recipe=recipe,
        backbone=Backbone(name, weights_digest(weights), pretrained=False),
        weights={key: value.numpy() for key, value in weights.items()},
        scratch=f"{folder}/scratch",
        bank_memory=2**20,
        checkpoint_seconds=0,
    )


def undisturbed(job: FitJob) -> dict[str, tuple[str, float]]:
    """What the models are when they are fitted one by one, without Ray and without checkpoints."""
    torch.set_num_threads(1)  # as workers do
    effort = Effort(checkpoint_seconds=1e9)
    for category in job.listing.categories:
        fit_category(job, category, "cpu", effort)
    return fitted(job.models)


def fitted(models: str) -> dict[str, tuple[str, float]]:
    """Digest of the flow and threshold of the models in use, each whole and the only version of its category."""
    store = ModelStore(models)
    found = {category: store.versions(category) for category in store.categories()}
    assert all(len(versions) == 1 and store.load(category) for category, versions in found.items()), found
    records = {category: store.record(category) for category in found}
    return {name: (record["files"]["flow.safetensors"], record["decision"]["threshold"]) for name, record in records.items()}


def nothing_is_left(folder: Path) -> bool:
    """Whether all work in progress has been removed."""
    work = [path for path in (folder / "models" / "_fit").rglob("*") if path.is_file()]
    return not work and not list((folder / "scratch").iterdir())


def in_epochs(state: CategoryState) -> bool:
    """Whether a category is in the middle of its epochs, and not so near to their end that a kill would come too late."""
    progress = state.progress
    if state.status != "running" or progress is None or progress.phase != "epochs":
        return False
    return EPOCHS_BEFORE_A_KILL <= progress.done <= progress.total // 2

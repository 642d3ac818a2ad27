"""Fits of a category of twelve good images, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from fits import FOLDS, Run

from differnet_ray.archives.manifest import list_images, select
from differnet_ray.config import Recipe
from differnet_ray.model.extractor import load_backbone_weights, weights_digest
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import FitProgress, FittedCategory
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone, StoredModel


@pytest.fixture(scope="module")
def weights() -> Mapping[str, torch.Tensor]:
    return load_backbone_weights("random")[0]


@pytest.fixture
def cross_fitting(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.override(folds=FOLDS)


@pytest.fixture
def good(factory: Path, tmp_path: Path) -> Path:
    """Folder of twelve good images that a test may change."""
    shutil.copytree(factory / "lid" / "train" / "good", tmp_path / "data" / "lid" / "train" / "good")
    return tmp_path / "data" / "lid" / "train" / "good"


@pytest.fixture
def job(good: Path, tmp_path: Path, weights: Mapping[str, torch.Tensor]) -> Callable[[Recipe], FitJob]:
    """What to do with the images as they are now, by a recipe."""

    def job(recipe: Recipe) -> FitJob:
        images = list_images([str(good.parents[2])])
        return FitJob(
            listing=select(images, split="train", defect="good"),
            test=select(images, split="test"),
            data=("here",),
            models=canonical(str(tmp_path / "models")),
            recipe=recipe,
            backbone=Backbone("random", weights_digest(weights), pretrained=False),
            weights={key: value.numpy() for key, value in weights.items()},
            scratch=str(tmp_path / "scratch"),
            bank_memory=0,
            checkpoint_seconds=0,
            began="9999",  # what these tests published in the same second is not of this run
        )

    return job


@pytest.fixture
def run(job: Callable[[Recipe], FitJob]) -> Run:
    """Fits the images as they are now, by a recipe."""

    def run(recipe: Recipe, on_progress: Callable[[FitProgress], None] = lambda p: None) -> tuple[FittedCategory, StoredModel]:
        now = job(recipe)
        result = fit_category(now, "lid", "cpu", Effort(checkpoint_seconds=0, on_progress=on_progress))
        return result, ModelStore(now.models).load("lid", result.version)

    return run

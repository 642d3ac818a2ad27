"""Fits of a category of twelve good images, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from fits import FOLDS, Run, fit_job

from differnet_ray.config import Recipe
from differnet_ray.model.extractor import load_backbone_weights
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import FitProgress, FittedCategory
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import StoredModel


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

    return lambda recipe: fit_job(good.parents[2], tmp_path, recipe, weights)


@pytest.fixture
def run(job: Callable[[Recipe], FitJob]) -> Run:
    """Fits the images as they are now, by a recipe."""

    def run(recipe: Recipe, on_progress: Callable[[FitProgress], None] = lambda p: None) -> tuple[FittedCategory, StoredModel]:
        now = job(recipe)
        result = fit_category(now, "lid", "cpu", Effort(checkpoint_seconds=0, on_progress=on_progress))
        return result, ModelStore(now.models).load("lid", result.version)

    return run

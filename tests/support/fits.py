"""What the tests of fits without Ray share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from differnet_ray.archives.manifest import list_images, select
from differnet_ray.config import Recipe
from differnet_ray.model.extractor import weights_digest
from differnet_ray.pipeline.fit_category import FitJob
from differnet_ray.pipeline.fit_state import FittedCategory
from differnet_ray.storage.locations import canonical
from differnet_ray.store.stored_model import Backbone, StoredModel

N, FOLDS = 12, 4
Run = Callable[..., tuple[FittedCategory, StoredModel]]


class Killed(BaseException):
    """What no handler of errors catches."""


def fit_job(data: Path, root: Path, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> FitJob:
    """What to do with the images below a folder as they are now; models and scratch are below `root`."""
    images = list_images([str(data)])
    return FitJob(
        listing=select(images, split="train", defect="good"),
        test=select(images, split="test"),
        data=("here",),
        models=canonical(str(root / "models")),
        recipe=recipe,
        backbone=Backbone("random", weights_digest(weights), pretrained=False),
        weights={key: value.numpy() for key, value in weights.items()},
        scratch=str(root / "scratch"),
        bank_memory=0,
        checkpoint_seconds=0,
        began="9999",  # what these tests published in the same second is not of this run
    )

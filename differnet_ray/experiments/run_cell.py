"""A cell: fit on stored features, score the test images, measure.

Legend: N training images, t transforms per image and epoch, F fresh epochs, T transforms at scoring, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import FitConfig, Recipe
from differnet_ray.data.manifest import Listing
from differnet_ray.experiments.cells import Cell
from differnet_ray.experiments.features import FeatureStore, Floats, images_of, parts_of
from differnet_ray.model.baselines import fit_nearest_neighbour, fit_one_class_svm
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.metrics import GOOD, auroc, detection_metrics
from differnet_ray.model.scoring import transform_scores


class StoredBank:
    """A feature bank that lies in memory: epoch e gives the (e mod F)-th t transforms of each image.

    Args:
        features: float32 (N, F t, D), or (N, 1, D) for images as they are, which then stand t times in an epoch, as in
            the authors' code with its transforms turned off.
        config: t.
    """

    def __init__(self, features: Tensor, config: FitConfig) -> None:
        self.features, self.t = features, config.transforms_per_image

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D)."""
        if self.features.shape[1] == 1:
            return self.features.expand(-1, self.t, -1)
        start = epoch * self.t % self.features.shape[1]
        return self.features[:, start : start + self.t]


def run_cell(
    cell: Cell,
    recipe: Recipe,
    store: FeatureStore,
    listing: Listing,
    device: str,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Fits a cell and measures its rows.

    Args:
        cell: what to fit.
        recipe: how; its seed is replaced by the cell's.
        store: features, complete for the cell's categories.
        listing: of the data set.
        device: such as `cpu` or `cuda`.
        on_epoch: told of finished epochs of all.

    Returns:
        `rows`: one per reading and category, with metrics and scores; `curve`: epoch, loss and AUROC (mean over categories,
        last reading) at epochs 1, 2, 4, ... and the last; `losses`, `n_train`, `seconds`.

    Raises:
        FitError: the loss is not finite.
    """
    began = time.monotonic()
    d = cell.n_scales * 256
    train = np.concatenate([_train_features(cell, store, listing, category) for category in cell.categories])[..., :d]
    kind = "fixed" if cell.transformed else "still"
    tests = {}
    for category in cell.categories:
        features, usable = store.read(parts_of(listing, category, "test", kind))
        attributes = images_of(listing, category, "test")["attributes"].to_pylist()
        kinds = np.array([dict(found)["defect"] for found, good in zip(attributes, usable, strict=True) if good])
        tests[category] = (np.ascontiguousarray(features[..., :d]), kinds)
    curve: list[dict[str, float]] = []
    losses: list[float] = []
    if cell.method == "differnet":
        config = recipe.override(seed=cell.seed).fit
        flow = Flow(d, recipe.flow, seed=cell.seed).to(device)
        bank = StoredBank(torch.from_numpy(train).to(device), config)
        for stats in fit(flow, bank, config):
            losses.append(stats.loss)
            on_epoch(stats.epoch, config.epochs)
            last = stats.epoch == config.epochs
            if last or stats.epoch & (stats.epoch - 1) == 0:
                scores = {category: transform_scores(flow, features) for category, (features, _) in tests.items()}
                found = [auroc(scores[category].mean(axis=1), kinds != GOOD) for category, (_, kinds) in tests.items()]
                curve.append({"epoch": stats.epoch, "loss": stats.loss, "auroc": float(np.mean(found))})
    else:
        fit_baseline = {"one_class_svm": fit_one_class_svm, "nearest_neighbour": fit_nearest_neighbour}[cell.method]
        scorer = fit_baseline(train.reshape(-1, d), cell.seed)
        scores = {
            category: scorer(features.reshape(-1, d)).reshape(features.shape[:2]) for category, (features, _) in tests.items()
        }
    return {
        "rows": [
            _row(reading.row, category, scores[category][:, : reading.n_transforms], kinds)
            for reading in cell.readings
            for category, (_, kinds) in tests.items()
        ],
        "curve": curve,
        "losses": losses,
        "n_train": len(train),
        "seconds": round(time.monotonic() - began, 1),
    }


def _train_features(cell: Cell, store: FeatureStore, listing: Listing, category: str) -> Floats:
    features, _ = store.read(parts_of(listing, category, "train", "bank" if cell.transformed else "still"))
    if cell.n_shots is None:
        return features
    chosen = np.random.default_rng([cell.seed, 4]).choice(len(features), min(cell.n_shots, len(features)), replace=False)
    return features[np.sort(chosen)]


def _row(row: str, category: str, scores: npt.NDArray[np.float64], kinds: npt.NDArray[np.str_]) -> Mapping[str, Any]:
    means = scores.mean(axis=1)
    return {
        "row": row,
        "category": category,
        "n_transforms": scores.shape[1],
        "metrics": detection_metrics(means, kinds),
        "scores": means.tolist(),
        "kinds": kinds.tolist(),
    }

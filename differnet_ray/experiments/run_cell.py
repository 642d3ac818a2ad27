"""A cell: fit on stored features, score the test images, measure.

Legend: N training images, t transforms per image and epoch, F fresh epochs, T transforms at scoring, D features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import FitConfig, Recipe
from differnet_ray.data.manifest import Listing, defects
from differnet_ray.errors import FitError
from differnet_ray.experiments.cells import FLOW, NEAREST, SVM, Cell, CellResult, Row
from differnet_ray.experiments.features import FeatureStore, Floats, images_of, parts_of
from differnet_ray.model.baselines import fit_nearest_neighbour, fit_one_class_svm
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.metrics import GOOD, IMAGE_METRICS, auroc
from differnet_ray.model.scoring import transform_scores

BASELINES = {SVM: fit_one_class_svm, NEAREST: fit_nearest_neighbour}
SUBSET_STREAM = 4  # of the random numbers that choose a subset of the training images
Scores = Mapping[str, npt.NDArray[np.float64]]


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


def run_cell(cell: Cell, recipe: Recipe, store: FeatureStore, listing: Listing, device: str) -> CellResult:
    """Fits a cell and measures its rows.

    Args:
        cell: what to fit.
        recipe: how; its seed is replaced by the cell's.
        store: features, complete for the cell's categories.
        listing: of the data set.
        device: such as `cpu` or `cuda`.

    Raises:
        FitError: a category lacks usable images, or the loss or a score is not finite.
    """
    began = time.monotonic()
    d = cell.n_scales * recipe.extractor.n_features // recipe.extractor.n_scales
    n_unusable = 0
    trains, tests, kinds = [], {}, {}
    for category in cell.categories:
        train, usable = store.read(parts_of(listing, category, "train", "bank" if cell.transformed else "still"))
        n_unusable += int((~usable).sum())
        if cell.n_shots is not None:
            rng = np.random.default_rng([cell.seed, SUBSET_STREAM])
            train = train[np.sort(rng.choice(len(train), min(cell.n_shots, len(train)), replace=False))]
        test, usable = store.read(parts_of(listing, category, "test", "fixed" if cell.transformed else "still"))
        n_unusable += int((~usable).sum())
        kinds[category] = np.array(defects(images_of(listing, category, "test")))[usable]
        if len(train) < 2 or not 0 < (kinds[category] == GOOD).sum() < len(test):
            raise FitError(
                f"category {category!r} has {len(train)} usable training images, {(kinds[category] == GOOD).sum()} usable good "
                f"and {(kinds[category] != GOOD).sum()} usable defective test images: expected at least 2, 1 and 1"
            )
        trains.append(train[..., :d])
        tests[category] = np.ascontiguousarray(test[..., :d])
    train = np.concatenate(trains) if len(trains) > 1 else trains[0]
    if cell.method == FLOW:
        scores, curve = _fit_flow(cell, recipe, train, tests, kinds, device)
    else:
        scorer = BASELINES[cell.method](train.reshape(-1, d), cell.seed)
        scores = {category: scorer(test.reshape(-1, d)).reshape(test.shape[:2]) for category, test in tests.items()}
        curve = []
    for category, found in scores.items():
        if not np.isfinite(found).all():
            raise FitError(f"{(~np.isfinite(found)).any(axis=1).sum()} test images of {category!r} have no finite score")
    rows = []
    for reading in cell.readings:
        for category, found in scores.items():
            means, is_anomaly = found[:, : reading.n_transforms].mean(axis=1), kinds[category] != GOOD
            last = len(cell.categories) == 1 and reading == cell.readings[-1]
            rows.append(
                Row(
                    row=reading.row,
                    category=category,
                    n_transforms=reading.n_transforms,
                    metrics={name: metric(means, is_anomaly) for name, metric in IMAGE_METRICS.items()},
                    best_epoch_auroc=max((point[2] for point in curve), default=None) if last else None,
                    scores=means.tolist(),
                    kinds=kinds[category].tolist(),
                )
            )
    return CellResult(cell, rows, curve, len(train), n_unusable, round(time.monotonic() - began, 1))


def _fit_flow(
    cell: Cell,
    recipe: Recipe,
    train: Floats,
    tests: Mapping[str, Floats],
    kinds: Mapping[str, npt.NDArray[np.str_]],
    device: str,
) -> tuple[Scores, list[tuple[int, float, float]]]:
    """Scores (N, T) of each category after the last epoch, and the curve."""
    config = recipe.override(seed=cell.seed).fit
    flow = Flow(train.shape[-1], recipe.flow, seed=cell.seed).to(device)
    bank = StoredBank(torch.from_numpy(train).to(device), config)
    curve: list[tuple[int, float, float]] = []
    scores: Scores = {}
    for stats in fit(flow, bank, config):
        if stats.epoch == config.epochs or stats.epoch & (stats.epoch - 1) == 0:
            scores = {category: transform_scores(flow, test) for category, test in tests.items()}
            if all(np.isfinite(found).all() for found in scores.values()):
                aurocs = [auroc(found.mean(axis=1), kinds[category] != GOOD) for category, found in scores.items()]
                curve.append((stats.epoch, stats.loss, float(np.mean(aurocs))))
    return scores, curve

"""A cell: fit on stored features, score the test images, measure.

Legend: N training images, t transforms per image and epoch, F fresh epochs, T transforms at scoring, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from differnet_ray.archives.manifest import Listing, defects, group_keys
from differnet_ray.config import AUTO_GROUPS, FitConfig, Recipe
from differnet_ray.errors import FitError
from differnet_ray.experiments.cells import FLOW, NEAREST, SVM, Cell, CellResult, Row, train_kind
from differnet_ray.experiments.features import FeatureStore, Floats, images_of, parts_of
from differnet_ray.labels import GOOD
from differnet_ray.model.baselines import Scorer, fit_nearest_neighbour, fit_one_class_svm
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.groups import Partition, draw, grouped
from differnet_ray.model.metrics import IMAGE_METRICS, auroc
from differnet_ray.model.scoring import transform_scores

BASELINES = {SVM: fit_one_class_svm, NEAREST: fit_nearest_neighbour}
SUBSET_STREAM = 4  # of the random numbers that choose a subset of the training images
Score = Callable[[Floats], npt.NDArray[np.float64]]
"""Features (N, T, D) to one score a transform (N, T)."""


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
    trains, tests = [], {}
    for category in cell.categories:
        kind = train_kind(recipe, transformed=cell.transformed)
        train, usable = store.read(parts_of(listing, category, "train", kind))
        n_unusable += int((~usable).sum())
        if cell.n_shots is not None:
            groups = _groups(images_of(listing, category, "train").filter(pa.array(usable)), train, recipe)
            train = train[draw(groups, cell.n_shots, np.random.default_rng([cell.seed, SUBSET_STREAM]))]
        test, usable = store.read(parts_of(listing, category, "test", "fixed" if cell.transformed else "still"))
        n_unusable += int((~usable).sum())
        kinds = np.array(defects(images_of(listing, category, "test")))[usable]
        if len(train) < 2 or not 0 < (kinds == GOOD).sum() < len(test):
            raise FitError(
                f"category {category!r} has {len(train)} usable training images, {(kinds == GOOD).sum()} usable good and "
                f"{(kinds != GOOD).sum()} usable defective test images: expected at least 2, 1 and 1"
            )
        train = train[..., :d]
        trains.append(train.mean(axis=1, keepdims=True) if recipe.transforms.pooled else train)
        tests[category] = _Test(np.ascontiguousarray(test[..., :d]), kinds, recipe.transforms.pooled)
    train = np.concatenate(trains) if len(trains) > 1 else trains[0]
    curve: list[tuple[int, float, float]] = []
    score: Score
    if cell.method == FLOW:
        score, curve = _fit_flow(cell, recipe, train, tests, device)
    else:
        scorer = BASELINES[cell.method](train.reshape(-1, d), cell.seed)
        score = partial(_by_sample, scorer)
    rows = []
    for reading in cell.readings:
        for category, found in tests.items():
            scores = found.scores(score, reading.n_transforms)
            if not np.isfinite(scores).all():
                raise FitError(f"{(~np.isfinite(scores)).sum()} test images of {category!r} have no finite score")
            last = len(cell.categories) == 1 and reading == cell.readings[-1]
            rows.append(
                Row(
                    row=reading.row,
                    category=category,
                    n_transforms=reading.n_transforms,
                    metrics={name: metric(scores, found.kinds != GOOD) for name, metric in IMAGE_METRICS.items()},
                    best_epoch_auroc=max((point[2] for point in curve), default=None) if last else None,
                    scores=scores.tolist(),
                    kinds=found.kinds.tolist(),
                )
            )
    return CellResult(cell, rows, curve, len(train), n_unusable, round(time.monotonic() - began, 1))


def _groups(rows: pa.Table, features: Floats, recipe: Recipe) -> Partition:
    """The group of each usable training image, by its names or by its features (N, T, D)."""
    group_by = recipe.calibration.group_by
    return grouped(group_keys(rows, group_by), features.mean(axis=1), similar=group_by == AUTO_GROUPS)


@dataclass(frozen=True)
class _Test:
    """Test images of a category: features (N, T, D), kinds (N,), and whether features are averaged, or else scores."""

    features: Floats
    kinds: npt.NDArray[np.str_]
    pooled: bool

    def scores(self, score: Score, n_transforms: int) -> npt.NDArray[np.float64]:
        """One score an image, (N,), from its first so many transforms."""
        features = self.features[:, :n_transforms]
        means: npt.NDArray[np.float64] = score(features.mean(axis=1, keepdims=True) if self.pooled else features).mean(axis=1)
        return means


def _by_sample(scorer: Scorer, features: Floats) -> npt.NDArray[np.float64]:
    return scorer(features.reshape(-1, features.shape[-1])).reshape(features.shape[:2])


def _fit_flow(
    cell: Cell, recipe: Recipe, train: Floats, tests: Mapping[str, _Test], device: str
) -> tuple[Score, list[tuple[int, float, float]]]:
    """The scorer after the last epoch, and the curve."""
    config = recipe.override(seed=cell.seed).fit
    flow = Flow(train.shape[-1], recipe.flow, seed=cell.seed).to(device)
    bank = StoredBank(torch.from_numpy(train).to(device), config)
    score = partial(transform_scores, flow)
    n_transforms = cell.readings[-1].n_transforms
    curve = []
    for stats in fit(flow, bank, config):
        if stats.epoch == config.epochs or stats.epoch & (stats.epoch - 1) == 0:
            scores = [(test.scores(score, n_transforms), test.kinds) for test in tests.values()]
            if all(np.isfinite(found).all() for found, _ in scores):
                aurocs = [auroc(found, kinds != GOOD) for found, kinds in scores]
                curve.append((stats.epoch, stats.loss, float(np.mean(aurocs))))
    return score, curve

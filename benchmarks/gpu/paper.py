"""The steps `paper` and `by-tile`: the published recipe at its full size, on the published split and with whole tiles held out.

Legend: N images, B random transforms of each, T fixed transforms, D features.

Several fits share the device, each in a process of its own, so that it is busy while each waits for its Python.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.gpu.images import Tiles, tiles
from benchmarks.gpu.processes import side_by_side
from benchmarks.gpu.setting import Results, Setting
from benchmarks.tile_split import held_out, numbers_of, tiles_of
from differnet_ray.config import FitConfig
from differnet_ray.errors import FitError
from differnet_ray.model.fitting import BankSubset, fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.metrics import auroc, recall_at_fpr
from differnet_ray.model.scoring import transform_scores

MARKS, SMALL_MARKS = (8, 16, 32, 64, 128, 192), (1, 2, 4)
SEEDS = 3


@dataclass(frozen=True)
class Fit:
    """One fit.

    Attributes:
        name: for the table.
        seed: of the flow's weights and the order of batches; the features are the same for all.
        matmul: `highest`, float32 as the package has it, or `high`, which allows TF32 in the flow's products.
        banks: files of the random features to fit on, one after another.
        chosen: rows of these; None: all.
        tests: files of the fixed features to score, each with the rows to take, the good ones first.
        n_good: so many of the scored ones are good.
    """

    name: str
    seed: int
    matmul: str
    banks: tuple[str, ...]
    chosen: tuple[int, ...] | None
    tests: tuple[tuple[str, tuple[int, ...]], ...]
    n_good: int


class DeviceBank:
    """Random features that lie on the device: epoch e gives the (e mod B / t)-th t transforms of each image."""

    def __init__(self, features: Tensor, config: FitConfig) -> None:
        self.features, self.t = features, config.transforms_per_image

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D)."""
        start = epoch * self.t % self.features.shape[1]
        return self.features[:, start : start + self.t]


def run(setting: Setting) -> None:
    """The published split: three seeds in float32, and the first one with TF32 in the flow."""
    found = tiles(setting)
    anomalous = found.is_anomaly[found.n_train :]
    rows = (*np.flatnonzero(~anomalous).tolist(), *np.flatnonzero(anomalous).tolist())
    n_good = int((~anomalous).sum())
    fits = [
        Fit(f"seed {seed}, {matmul}", seed, matmul, ("train-random",), None, (("test-fixed", rows),), n_good)
        for seed, matmul in [*((seed, "highest") for seed in range(SEEDS)), (0, "high")]
    ]
    _run(setting, "paper", fits, summarised=SEEDS)


def run_tiles(setting: Setting) -> None:
    """Five folds of all good images by tile, seed 0, with TF32 in the flow; all defects are test images."""
    found = tiles(setting)
    _run(setting, "by-tile", fits_by_tile(found), summarised=5)


def fits_by_tile(found: Tiles) -> list[Fit]:
    """The folds of `benchmarks/leakage.py`: a fold's tiles are tested, the others fitted on."""
    n = found.n_train
    anomalous = found.is_anomaly[n:]
    good_rows, bad_rows = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
    good_names = [*found.names[:n], *(found.names[n + row] for row in good_rows)]
    fits = []
    for i, fold in enumerate(held_out(tiles_of(numbers_of(good_names)))["by tile"]):
        out = set(fold.tolist())
        chosen = tuple(row for row in range(len(good_names)) if row not in out)
        train_rows = tuple(sorted(row for row in out if row < n))
        test_rows = tuple(int(good_rows[row - n]) for row in sorted(out) if row >= n)
        tests = (("train-fixed", train_rows), ("test-fixed", (*test_rows, *bad_rows.tolist())))
        fits.append(Fit(f"fold {i}, high", 0, "high", ("train-random", "good-random"), chosen, tests, len(out)))
    return fits


def _run(setting: Setting, step: str, fits: Sequence[Fit], summarised: int) -> None:
    """Fits all at once, then the mean and spread of the first so many."""
    results = Results(setting.out, step)
    needed = {f"{name}.npy" for each in fits for name in (*each.banks, *(test for test, _ in each.tests))}
    missing = sorted(name for name in needed if not (setting.work / name).is_file())
    if missing:
        results.add("features are missing", files=missing)
        return
    began = time.monotonic()
    curves = side_by_side([partial(_fit, setting, step, each) for each in fits])
    results.add("all fits", fits=len(fits), seconds=time.monotonic() - began)
    epochs = setting.recipe().fit.epochs
    whole = [curve for curve in curves[:summarised] if curve and curve[-1][0] == epochs]
    if whole:
        last = [curve[-1][1] for curve in whole]
        best = [max(point[1] for point in curve) for curve in whole]
        results.add(
            f"AUROC after {epochs} epochs, mean over {len(whole)} of {summarised} fits",
            mean=float(np.mean(last)),
            deviation=float(np.std(last, ddof=1)) if len(last) > 1 else math.nan,
            best_epoch_chosen_on_test_images=float(np.mean(best)),
        )


def _fit(setting: Setting, step: str, each: Fit) -> list[list[float]]:
    """Fits one flow; its AUROC at the marked epochs, as [epoch, AUROC]."""
    results, recipe = Results(setting.out, step), setting.recipe().override(seed=each.seed)
    torch.set_float32_matmul_precision(each.matmul)
    banks = [torch.from_numpy(np.load(setting.work / f"{name}.npy", mmap_mode="c")).to(setting.device) for name in each.banks]
    whole = DeviceBank(torch.cat(banks) if len(banks) > 1 else banks[0], recipe.fit)
    del banks
    bank = whole if each.chosen is None else BankSubset(whole, each.chosen)
    test = np.concatenate([np.load(setting.work / f"{name}.npy", mmap_mode="r")[list(rows)] for name, rows in each.tests])
    is_anomaly = np.arange(len(test)) >= each.n_good
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=each.seed).to(setting.device)
    marks: tuple[int, ...] = SMALL_MARKS if setting.small else MARKS
    curve: list[list[float]] = []
    began = time.monotonic()
    try:
        for stats in fit(flow, bank, recipe.fit):
            late = setting.seconds_left < 5
            if stats.epoch not in marks and stats.epoch != recipe.fit.epochs and not late:
                continue
            setting.synchronize()
            spent = time.monotonic() - began
            scores = transform_scores(flow, test).mean(axis=1)
            curve.append([float(stats.epoch), _auroc(scores, is_anomaly)])
            last = stats.epoch == recipe.fit.epochs or late
            results.add(
                each.name,
                epoch=stats.epoch,
                auroc=curve[-1][1],
                best_epoch_so_far_chosen_on_test_images=max(point[1] for point in curve),
                recall_at_zero_fpr=_recall(scores, is_anomaly),
                loss=stats.loss,
                largest_loss=stats.largest_loss,
                grad_norm=stats.grad_norm,
                median_good=float(np.median(scores[: each.n_good])),
                seconds=spent,
                **({"scores": scores.tolist(), "n_good": each.n_good} if last else {}),
            )
            if late and stats.epoch != recipe.fit.epochs:
                results.add(f"{each.name}: cut off", epoch=stats.epoch)
                break
    except FitError as error:
        results.add(f"{each.name}: failed", error=str(error))
    return curve


def _auroc(scores: npt.NDArray[np.float64], is_anomaly: npt.NDArray[np.bool_]) -> float:
    return math.nan if np.isnan(scores).any() else auroc(scores, is_anomaly)


def _recall(scores: npt.NDArray[np.float64], is_anomaly: npt.NDArray[np.bool_]) -> float:
    return math.nan if np.isnan(scores).any() else recall_at_fpr(scores, is_anomaly)

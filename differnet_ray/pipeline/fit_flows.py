"""BRIDGE: the flows that one category takes, fitted and tried on good images that they have not seen, kill or no kill.

Some images are held out of the fit to calibrate it. Where few are usable they are cross-fitted: each fold is scored by a
flow fitted on the others, and the flow in use is fitted on all images. Both are a list of `Fold`s, of which the last one's
flow is the one in use.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import Recipe
from differnet_ray.model.activation_map import map_of
from differnet_ray.model.calibration import split_folds
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import (
    BankSubset,
    Block,
    EpochStats,
    FeatureBank,
    FlowFit,
    ReadImages,
    split_holdout,
)
from differnet_ray.model.flow import Flow
from differnet_ray.model.scoring import ImageScore, score_image
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.pipeline.fit_state import FitProgress
from differnet_ray.store.fit_work import FitWork
from differnet_ray.threads import map_ahead

MAP_IMAGES = 16  # unseen good images whose maps give the unit of a model's maps
GRADIENT = "gradient."


@dataclass(frozen=True)
class Fold:
    """Positions of the images that a flow is fitted on, and of those that it is then tried on."""

    train: Sequence[int]
    unseen: Sequence[int]


@dataclass(frozen=True)
class Unseen:
    """A good image as a flow finds it that was not fitted on it; the first of each fold with their map."""

    position: int
    score: ImageScore
    gradient: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Fitted:
    """The flow in use, its epochs, and the images that calibrate it, sorted.

    Attributes:
        n_fitted: images that the flow in use was fitted on, without those that decided when to stop.
        resumed: epochs, over all fits, after which an interrupted fit went on.
    """

    net: DifferNet
    stats: tuple[EpochStats, ...]
    n_fitted: int
    n_fits: int
    unseen: list[Unseen]
    resumed: tuple[int, ...]


@dataclass(frozen=True)
class Effort:
    """How a category is worked on; changes no result.

    Attributes:
        threads: images that are computed at the same time.
        bank_memory: bytes of features that may lie in main memory.
        checkpoint_seconds: between checkpoints; 0: after each step.
        on_progress: told of each step.
        on_checkpoint: told when something has been stored that a next try need not do again.
    """

    threads: int = 1
    bank_memory: int = 2**31
    checkpoint_seconds: float = 120.0
    on_progress: Callable[[FitProgress], None] = lambda progress: None
    on_checkpoint: Callable[[], None] = lambda: None


def plan_folds(n: int, recipe: Recipe) -> tuple[list[Fold], bool]:
    """The fits that n >= 2 usable images take, and whether they are cross-fitted."""
    calibration, seed, everything = recipe.calibration, recipe.fit.seed, range(n)
    if calibration.folds > 0 and n < calibration.cross_fit_below:
        folds = split_folds(n, calibration.folds, seed)
        return [Fold(sorted(set(everything).difference(fold)), fold) for fold in folds] + [Fold(everything, ())], True
    return [Fold(*split_holdout(n, calibration.holdout_fraction, seed))], False


class CategoryFits:
    """The fits of one category.

    Args:
        recipe: all settings.
        extractor: on the device to fit on.
        read: the usable images by position.
        n: how many there are.
        work: where checkpoints and the feature bank are kept.
        effort: how to work.
    """

    def __init__(self, recipe: Recipe, extractor: Extractor, read: ReadImages, n: int, work: FitWork, effort: Effort) -> None:
        self.recipe, self.extractor, self.read, self.work, self.effort = recipe, extractor, read, work, effort
        self.folds, self.cross_fitted = plan_folds(n, recipe)
        self.n_maps = math.ceil(MAP_IMAGES / sum(bool(fold.unseen) for fold in self.folds))
        # The bank holds every image that some flow is fitted on: all of them, or those that are not held out
        self.banked = sorted(set().union(*(fold.train for fold in self.folds)))
        self.unseen: list[Unseen] = []
        self.resumed: list[int] = []
        self._saved = time.monotonic()

    def run(self) -> Fitted:
        """Fits and tries all flows, from the last checkpoint on if there is one.

        Raises:
            FitError: a loss is not finite.
            StorageError: an image, a checkpoint or the scratch folder cannot be read or written.
        """
        bank = self._bank()
        first, state, stats = self._restored()
        for nth in range(first, len(self.folds)):
            fold = self.folds[nth]
            net = self._net()
            fit, n_fitted = self._fit(net.flow, bank, fold)
            if state:
                fit.restore(state, stats)
                state = {}
            for epoch in fit:
                done, total = (nth * self.recipe.fit.epochs + epoch.epoch), len(self.folds) * self.recipe.fit.epochs
                self.effort.on_progress(FitProgress("epochs", done, total, epoch.loss))
                self._checkpoint(nth, fit)
            self._try(net, fold, partial(self._checkpoint, nth, fit))
        unseen = sorted(self.unseen, key=lambda image: image.position)
        return Fitted(net, tuple(fit.stats), n_fitted, len(self.folds), unseen, tuple(self.resumed))

    def scores(self, net: DifferNet, images: Iterable[Tensor]) -> Iterator[ImageScore]:
        """The scores of images, in order."""
        return map_ahead(lambda image: score_image(net, image), images, self.effort.threads)

    def _bank(self) -> FeatureBank:
        effort = self.effort

        def on_image(done: int, total: int) -> None:
            effort.on_progress(FitProgress("features", done, total))
            effort.on_checkpoint()  # it is stored

        return FeatureBank(
            self.extractor,
            len(self.banked),
            lambda positions: self.read([self.banked[i] for i in positions]),
            self.recipe.transforms,
            self.recipe.fit,
            block=lambda number, shape: Block(*self.work.block(number, shape)),
            memory=effort.bank_memory,
            threads=effort.threads,
            on_image=on_image,
        )

    def _net(self) -> DifferNet:
        flow = Flow(self.recipe.extractor.n_features, self.recipe.flow, seed=self.recipe.fit.seed)
        transforms = self.recipe.transforms
        net = DifferNet(self.extractor, flow, fixed_transforms(transforms), pooled=transforms.pooled)
        return net.to(self.extractor.mean.device)

    def _restored(self) -> tuple[int, dict[str, Tensor], list[EpochStats]]:
        """The fit that a checkpoint was made in, its state and its epochs; what was found before is remembered."""
        checkpoint = self.work.checkpoint()
        if checkpoint is None:
            return 0, {}, []
        arrays, values = checkpoint
        state = {name: torch.from_numpy(array) for name, array in arrays.items() if not name.startswith(GRADIENT)}
        stats = [EpochStats(**entry) for entry in values["stats"]]
        self.unseen = [Unseen(i, ImageScore(*score), arrays.get(f"{GRADIENT}{i}")) for i, score in values["unseen"]]
        self.resumed = [*values["resumed"], values["fit"] * self.recipe.fit.epochs + len(stats)]
        return values["fit"], state, stats

    def _fit(self, flow: Flow, bank: FeatureBank, fold: Fold) -> tuple[FlowFit, int]:
        """The fit of a fold, and how many images it is fitted on."""
        config = self.recipe.fit
        rows = [self.banked.index(position) for position in fold.train]
        if config.patience is None or len(rows) < 2:
            return FlowFit(flow, BankSubset(bank, rows), config), len(rows)
        train, validation = split_holdout(len(rows), config.validation_fraction, config.seed)
        parts = [BankSubset(bank, [rows[i] for i in part]) for part in (train, validation)]
        return FlowFit(flow, parts[0], config, parts[1]), len(train)

    def _try(self, net: DifferNet, fold: Fold, checkpoint: Callable[[], None]) -> None:
        known = {image.position for image in self.unseen}
        mapped = set(fold.unseen[: self.n_maps])
        positions = [position for position in fold.unseen if position not in known]

        def look(image: tuple[int, Tensor]) -> Unseen:
            position, pixels = image
            gradient = map_of(net, pixels, self.recipe.maps).cpu().numpy() if position in mapped else None
            return Unseen(position, score_image(net, pixels), gradient)

        images = zip(positions, self.read(positions), strict=True)
        total = sum(len(each.unseen) for each in self.folds)
        for image in map_ahead(look, images, self.effort.threads):
            self.unseen.append(image)
            self.effort.on_progress(FitProgress("calibrate", len(self.unseen), total))
            checkpoint()

    def _checkpoint(self, nth: int, fit: FlowFit) -> None:
        if time.monotonic() - self._saved < self.effort.checkpoint_seconds:
            return
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in fit.state().items()}
        maps = {f"{GRADIENT}{image.position}": image.gradient for image in self.unseen if image.gradient is not None}
        values = {
            "fit": nth,
            "stats": [asdict(stats) for stats in fit.stats],
            "unseen": [
                (image.position, (image.score.anomaly_score, image.score.score_std, image.score.n_transforms))
                for image in self.unseen
            ],
            "resumed": self.resumed,
        }
        self.work.save_checkpoint(arrays | maps, values)
        self._saved = time.monotonic()
        self.effort.on_checkpoint()

"""BRIDGE: the flows that one category takes, fitted and tried on good images that they have not seen, kill or no kill.

Some groups of images are held out of the fit to calibrate it. Where there are few they are cross-fitted: each fold is scored
by a flow fitted on the others, and the flow in use is fitted on all images. Both are a list of `Fold`s, of which the last
one's flow is the one in use. Groups are given, or found from features of the images before the first fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import AUTO_GROUPS, Recipe, TransformConfig
from differnet_ray.model.activation_map import map_of
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import (
    Bank,
    BankSubset,
    Block,
    EpochStats,
    FeatureBank,
    FlowFit,
    ReadImages,
)
from differnet_ray.model.flow import Flow
from differnet_ray.model.groups import Partition, grouped, numbered, separation, split_folds, split_holdout
from differnet_ray.model.scoring import ImageScore, score_image, score_pooled
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.pipeline.fit_state import FitProgress
from differnet_ray.store.fit_work import FitWork
from differnet_ray.threads import map_ahead

logger = logging.getLogger(__name__)
COMPARED_TRANSFORMS = 4  # that features are averaged over to compare images, where the recipe does not pool
NEAR_DUPLICATES = 0.9  # of the distance of independent images: held-out images that are nearer are siblings of fitted ones
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
        cross_fitted: whether all images calibrate, each by a flow fitted without its fold.
        groups: the group of each image.
        separation: how far unseen images are from those fitted on, see `groups.separation`.
        resumed: epochs, over all fits, after which an interrupted fit went on.
    """

    net: DifferNet
    stats: tuple[EpochStats, ...]
    n_fitted: int
    n_fits: int
    unseen: list[Unseen]
    cross_fitted: bool
    groups: Partition
    separation: float
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


def plan_folds(groups: Partition, recipe: Recipe) -> tuple[list[Fold], bool]:
    """The fits that usable images of at least 2 groups take, and whether they are cross-fitted."""
    calibration, seed, everything = recipe.calibration, recipe.fit.seed, range(len(groups))
    if calibration.folds > 0 and len(set(groups.tolist())) < calibration.cross_fit_below:
        folds = split_folds(groups, calibration.folds, seed)
        return [Fold(sorted(set(everything).difference(fold)), fold) for fold in folds] + [Fold(everything, ())], True
    return [Fold(*split_holdout(groups, calibration.holdout_fraction, seed))], False


class CategoryFits:
    """The fits of one category.

    Args:
        recipe: all settings.
        extractor: on the device to fit on.
        read: the usable images by position.
        n: how many there are.
        keys: of the groups that they are of, where names say it; None: as the recipe says.
        work: where checkpoints and the feature bank are kept.
        effort: how to work.
    """

    def __init__(
        self,
        recipe: Recipe,
        extractor: Extractor,
        read: ReadImages,
        n: int,
        keys: Sequence[str] | None,
        work: FitWork,
        effort: Effort,
    ) -> None:
        self.recipe, self.extractor, self.read, self.n, self.keys = recipe, extractor, read, n, keys
        self.work, self.effort = work, effort
        self.folds: list[Fold] = []
        self.banked: list[int] = []
        self.n_maps = 0
        self.unseen: list[Unseen] = []
        self.resumed: list[int] = []
        self._saved = time.monotonic()

    def run(self) -> Fitted:
        """Fits and tries all flows, from the last checkpoint on if there is one.

        Raises:
            FitError: a loss is not finite.
            StorageError: an image, a checkpoint or the scratch folder cannot be read or written.
        """
        compared = self._compared()
        features = compared.epoch(0)[:, 0].cpu().numpy()
        self.groups = self._grouped(features)
        self.folds, cross_fitted = plan_folds(self.groups, self.recipe)
        near = separation(features, [(fold.train, fold.unseen) for fold in self.folds if fold.unseen])
        if near < NEAR_DUPLICATES:
            logger.warning(
                "images that calibrate are near duplicates of fitted ones (%.2f of the distance of independent images): new "
                "parts will raise more false alarms than the threshold promises; name the images of one part by --group-by",
                near,
            )
        self.n_maps = math.ceil(MAP_IMAGES / sum(bool(fold.unseen) for fold in self.folds))
        # The bank holds every image that some flow is fitted on; where features are pooled, those are there already
        self.banked = sorted(set().union(*(fold.train for fold in self.folds)))
        bank: Bank
        if self.recipe.transforms.pooled:
            bank = BankSubset(compared, self.banked)
        else:
            bank = self._bank("features", self.recipe.transforms, self.banked)
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
            self._try(net, fold, features, partial(self._checkpoint, nth, fit))
        return Fitted(
            net=net,
            stats=tuple(fit.stats),
            n_fitted=n_fitted,
            n_fits=len(self.folds),
            unseen=sorted(self.unseen, key=lambda image: image.position),
            cross_fitted=cross_fitted,
            groups=self.groups,
            separation=near,
            resumed=tuple(self.resumed),
        )

    def scores(self, net: DifferNet, images: Iterable[Tensor]) -> Iterator[ImageScore]:
        """The scores of images, in order."""
        return map_ahead(lambda image: score_image(net, image), images, self.effort.threads)

    def _compared(self) -> FeatureBank:
        """Features that images are compared by: one mean over transforms for each of them."""
        transforms = self.recipe.transforms
        if transforms.pooled:
            return self._bank("features", transforms, range(self.n))
        few = min(COMPARED_TRANSFORMS, transforms.n_transforms)
        return self._bank("compared", replace(transforms, pooled=True, n_transforms=few), range(self.n))

    def _grouped(self, features: npt.NDArray[np.float32]) -> Partition:
        """The group of each image. What was found is kept: another machine may round features otherwise."""
        stored = self.work.groups()
        if stored is not None:
            return np.array(stored, dtype=np.int64)
        groups = grouped(self.keys, features, similar=self.recipe.calibration.group_by == AUTO_GROUPS)
        if not groups.any():
            logger.warning(
                "all good images are of one group: they are held out one by one, and new parts may raise more alarms"
            )
            groups = np.arange(self.n)
        self.work.save_groups(groups.tolist())
        return groups

    def _bank(self, phase: str, transforms: TransformConfig, positions: Sequence[int]) -> FeatureBank:
        effort = self.effort

        def on_image(done: int, total: int) -> None:
            effort.on_progress(FitProgress(phase, done, total))
            effort.on_checkpoint()  # it is stored

        return FeatureBank(
            self.extractor,
            len(positions),
            lambda chosen: self.read([positions[i] for i in chosen]),
            transforms,
            self.recipe.fit,
            block=lambda number, shape: Block(*self.work.block(f"{phase}-{number}", shape)),
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

    def _fit(self, flow: Flow, bank: Bank, fold: Fold) -> tuple[FlowFit, int]:
        """The fit of a fold, and how many images it is fitted on."""
        config = self.recipe.fit
        row_of = {position: row for row, position in enumerate(self.banked)}
        rows = [row_of[position] for position in fold.train]
        groups = numbered(self.groups[list(fold.train)])
        if config.patience is None or not groups.any():
            return FlowFit(flow, BankSubset(bank, rows), config), len(rows)
        train, validation = split_holdout(groups, config.validation_fraction, config.seed)
        parts = [BankSubset(bank, [rows[i] for i in part]) for part in (train, validation)]
        return FlowFit(flow, parts[0], config, parts[1]), len(train)

    def _try(self, net: DifferNet, fold: Fold, features: npt.NDArray[np.float32], checkpoint: Callable[[], None]) -> None:
        known = {image.position for image in self.unseen}
        mapped = set(fold.unseen[: self.n_maps])
        positions = [position for position in fold.unseen if position not in known]
        read = [position for position in positions if position in mapped or not net.pooled]  # pooled features are at hand
        found = iter(self.read(read))
        needed = set(read)

        def look(image: tuple[int, Tensor | None]) -> Unseen:
            position, pixels = image
            if pixels is None or net.pooled:
                score = score_pooled(net, torch.from_numpy(features[position : position + 1]))
            else:
                score = score_image(net, pixels)
            if pixels is None or position not in mapped:
                return Unseen(position, score, None)
            return Unseen(position, score, map_of(net, pixels, self.recipe.maps).cpu().numpy())

        images = ((position, next(found) if position in needed else None) for position in positions)
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

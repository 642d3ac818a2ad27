"""BRIDGE between Arrow and tensors: from the good images of one category to a model in the store.

It knows no Ray: `distributed/fit.py` calls it in each worker.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from differnet_ray import __version__
from differnet_ray.config import Recipe
from differnet_ray.data.images import decode
from differnet_ray.data.manifest import Listing
from differnet_ray.data.model_store import (
    CROSS_FITTED,
    HELD_OUT,
    Arrays,
    Backbone,
    Decision,
    Lineage,
    ModelStore,
    StoredModel,
)
from differnet_ray.data.storage import read_bytes
from differnet_ray.data.tables import CALIBRATION
from differnet_ray.errors import FitError, ImageError, StorageError
from differnet_ray.fit_state import FitProgress, FittedCategory
from differnet_ray.model.calibration import conformal_threshold, split_folds
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import Bank, BankSubset, FeatureBank, fit, split_holdout
from differnet_ray.model.flow import Flow
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import ImageScore, score_image
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.stages import as_tensors

MAP_IMAGES = 16  # unseen good images whose maps give the unit of a model's maps
MAP_QUANTILE = 0.99
LIBRARIES = ("ray", "torch", "torchvision", "FrEIA", "numpy", "scipy", "pyarrow", "Pillow")


def usable_images(rows: pa.Table, size: int) -> Iterator[tuple[str, npt.NDArray[np.uint8] | str]]:
    """Reads the images that manifest rows name, in order.

    Yields:
        URI, and uint8 (size, size, 3) or the reason why the image cannot be used.
    """
    for uri in rows["uri"].to_pylist():
        try:
            yield uri, decode(read_bytes(uri), size=size).pixels
        except (ImageError, StorageError) as error:
            yield uri, str(error)
        except FileNotFoundError:
            yield uri, "missing: it was listed, but is no longer there"


def fit_category(
    *,
    category: str,
    listing: Listing,
    models: str,
    recipe: Recipe,
    backbone: Backbone,
    weights: Arrays,
    data: tuple[str, ...],
    device: str,
    on_progress: Callable[[FitProgress], None] = lambda progress: None,
) -> FittedCategory:
    """Fits a flow on the good images of a category, calibrates it on scores of images not seen and publishes the model.

    Some images are held out of the fit to calibrate it. Where fewer than `cross_fit_below` are usable they are cross-fitted:
    the flow is fitted on all images, and each calibrates with the score by a flow that was fitted without its fold. That
    takes K + 1 fits and makes the bound on the false-alarm rate approximate (`model/calibration.py`).

    Args:
        category: its name.
        listing: manifest rows of its good images.
        models: canonical URI of the model store.
        recipe: all settings.
        backbone: the extractor's name and digest.
        weights: its arrays.
        data: locations of the images, for the record.
        device: such as `cpu` or `cuda`.
        on_progress: told of each step.

    Raises:
        FitError: fewer than 2 images are usable, or a loss or the score of an unseen good image is not finite.
        StorageError: the model could not be written.
    """
    began = time.monotonic()
    names, images, skipped = _read(listing.table, recipe, on_progress)
    if len(images) < 2:
        raise FitError(
            f"category {category!r} has {len(images)} usable good images, expected at least 2; "
            f"{len(skipped)} cannot be used: {dict(list(skipped.items())[:3])}"
        )
    extractor = Extractor(recipe.extractor, as_tensors(weights)).to(device)
    material = _Material(recipe, extractor, torch.from_numpy(images), on_progress)
    few = recipe.calibration.folds > 0 and len(images) < recipe.calibration.cross_fit_below
    fitted = _cross_fit(material) if few else _hold_out(material)
    net, unseen = fitted.net, sorted(fitted.unseen, key=lambda image: image.position)
    decision = _decide(unseen, recipe, cross_fitted=few)
    seconds = time.monotonic() - began
    version = ModelStore(models).publish(
        StoredModel(
            category=category,
            recipe=recipe,
            transforms={
                "angles": net.transforms.angles,
                "brightness": net.transforms.brightness,
                "contrast": net.transforms.contrast,
            },
            backbone=backbone,
            decision=decision,
            lineage=Lineage(
                data=data,
                listing_digest=listing.digest(),
                n_fitted=fitted.n_fitted,
                n_held_out=len(images) - fitted.n_fitted,
                n_fits=fitted.n_fits,
                skipped=skipped,
                losses=fitted.losses,
                seconds=round(seconds, 1),
                device=torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or device,
                libraries=library_versions(),
            ),
            flow={name: tensor.cpu().numpy() for name, tensor in net.flow.state_dict().items()},
            weights=weights,
            calibration=pa.table(
                {
                    "image_id": [listing.table["image_id"][names[image.position]].as_py() for image in unseen],
                    "uri": [listing.table["uri"][names[image.position]].as_py() for image in unseen],
                    "anomaly_score": [image.score.anomaly_score for image in unseen],
                    "score_std": [image.score.score_std for image in unseen],
                },
                schema=CALIBRATION.schema,
            ),
        )
    )
    return FittedCategory(
        version=version,
        n_fitted=fitted.n_fitted,
        n_calibrated=decision.n_images,
        method=decision.method,
        skipped=skipped,
        epochs=len(fitted.losses),
        loss=fitted.losses[-1],
        threshold=decision.threshold,
        target_fpr=decision.target_fpr,
        achieved_fpr=decision.achieved_fpr,
        extrapolated=decision.extrapolated,
        statement=decision.statement,
        seconds=seconds,
    )


def library_versions() -> dict[str, str]:
    """Versions of this package and of what it computes with, for the records."""
    return {"differnet_ray": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in LIBRARIES
    }


def _read(
    rows: pa.Table, recipe: Recipe, on_progress: Callable[[FitProgress], None]
) -> tuple[list[int], npt.NDArray[np.uint8], dict[str, str]]:
    positions, images, skipped = [], [], {}
    for i, (uri, image) in enumerate(usable_images(rows, recipe.extractor.image_size)):
        if isinstance(image, str):
            skipped[uri] = image
        else:
            positions.append(i)
            images.append(image)
        on_progress(FitProgress("read", i + 1, rows.num_rows))
    size = recipe.extractor.image_size
    return positions, np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), skipped


@dataclass(frozen=True)
class _Material:
    """What every fit of a category works on: the usable good images, uint8 (N, H, W, 3), and the extractor on its device."""

    recipe: Recipe
    extractor: Extractor
    images: torch.Tensor
    on_progress: Callable[[FitProgress], None]

    def bank(self, positions: Sequence[int], *, keep_all: bool = False) -> FeatureBank:
        def on_image(done: int) -> None:
            self.on_progress(FitProgress("features", done, len(positions)))

        images = self.images[torch.tensor(positions)]
        return FeatureBank(self.extractor, images, self.recipe.transforms, self.recipe.fit, on_image, keep_all=keep_all)

    def fit(self, bank: Bank, nth: int = 0, n_fits: int = 1) -> tuple[DifferNet, tuple[float, ...]]:
        """The nth of so many fits, all by the same recipe, and the loss of every epoch."""
        flow = Flow(self.recipe.extractor.n_features, self.recipe.flow, seed=self.recipe.fit.seed)
        net = DifferNet(
            self.extractor, flow, fixed_transforms(self.recipe.transforms), pooled=self.recipe.transforms.pooled
        ).to(self.extractor.mean.device)
        losses, epochs = [], self.recipe.fit.epochs
        for epoch in fit(net.flow, bank, self.recipe.fit):
            losses.append(epoch.loss)
            self.on_progress(FitProgress("epochs", nth * epochs + epoch.epoch, n_fits * epochs, epoch.loss))
        return net, tuple(losses)

    def score(self, net: DifferNet, positions: Sequence[int], n_maps: int, before: int, total: int) -> list[_Unseen]:
        """Images that the net was not fitted on, the first `n_maps` with a map; `before` of `total` have been scored."""
        unseen = []
        for n, position in enumerate(positions):
            image = self.images[position]
            gradient = gradient_map(net, image, self.recipe.maps).cpu().numpy() if n < n_maps else None
            unseen.append(_Unseen(position, score_image(net, image), gradient))
            self.on_progress(FitProgress("calibrate", before + n + 1, total))
        return unseen


@dataclass(frozen=True)
class _Unseen:
    """A good image as a flow finds it that was not fitted on it."""

    position: int
    score: ImageScore
    gradient: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Fitted:
    """The net to publish, and what it is calibrated on."""

    net: DifferNet
    losses: tuple[float, ...]
    n_fitted: int
    n_fits: int
    unseen: list[_Unseen]


def _hold_out(material: _Material) -> _Fitted:
    """Fits on some of the images and scores the others."""
    recipe = material.recipe
    chosen, held_out = split_holdout(len(material.images), recipe.calibration.holdout_fraction, recipe.fit.seed)
    net, losses = material.fit(material.bank(chosen))
    unseen = material.score(net, held_out, MAP_IMAGES, 0, len(held_out))
    return _Fitted(net, losses, n_fitted=len(chosen), n_fits=1, unseen=unseen)


def _cross_fit(material: _Material) -> _Fitted:
    """Scores each fold by a flow fitted on the other folds, then fits on all images; features are computed once."""
    everything = range(len(material.images))
    folds = split_folds(len(everything), material.recipe.calibration.folds, material.recipe.fit.seed)
    n_maps, n_fits = math.ceil(MAP_IMAGES / len(folds)), len(folds) + 1
    bank = material.bank(everything, keep_all=True)
    unseen: list[_Unseen] = []
    for nth, fold in enumerate(folds):
        others = BankSubset(bank, sorted(set(everything).difference(fold)))
        # in one expression: the flow of a fold is gone before the next is made
        unseen += material.score(material.fit(others, nth, n_fits)[0], fold, n_maps, len(unseen), len(everything))
    net, losses = material.fit(bank, len(folds), n_fits)
    return _Fitted(net, losses, n_fitted=len(everything), n_fits=n_fits, unseen=unseen)


def _decide(unseen: Sequence[_Unseen], recipe: Recipe, *, cross_fitted: bool) -> Decision:
    scores = np.array([image.score.anomaly_score for image in unseen])
    if not np.isfinite(scores).all():
        raise FitError(
            f"{(~np.isfinite(scores)).sum()} of {len(scores)} good images that the flow has not seen have no finite score: "
            "a smaller clamp_alpha, fewer epochs or the preset `pooled` keep the flow from overfitting"
        )
    threshold = conformal_threshold(scores, recipe.calibration.target_fpr)
    review = conformal_threshold(scores, recipe.calibration.review_fpr)
    map_unit = float(np.quantile([image.gradient for image in unseen if image.gradient is not None], MAP_QUANTILE))
    return Decision(
        threshold=threshold.value,
        review_threshold=review.value,
        target_fpr=threshold.requested_fpr,
        achieved_fpr=threshold.achieved_fpr,
        n_images=threshold.n_images,
        method=CROSS_FITTED if cross_fitted else HELD_OUT,
        extrapolated=threshold.extrapolated,
        statement=threshold.statement(cross_fitted=cross_fitted),
        map_unit=max(map_unit, float(np.finfo(np.float32).tiny)),  # a flow that ignores its input has gradients of zero
    )

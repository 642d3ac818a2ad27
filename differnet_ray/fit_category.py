"""BRIDGE between Arrow and tensors: from the good images of one category to a model in the store.

It knows no Ray: `distributed/fit.py` calls it in each worker.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from differnet_ray import __version__
from differnet_ray.config import Recipe
from differnet_ray.data.images import decode
from differnet_ray.data.manifest import Listing
from differnet_ray.data.model_store import Arrays, Backbone, Decision, Lineage, ModelStore, StoredModel
from differnet_ray.data.storage import read_bytes
from differnet_ray.data.tables import CALIBRATION
from differnet_ray.errors import FitError, ImageError, StorageError
from differnet_ray.fit_state import FitProgress, FittedCategory
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import FeatureBank, fit, split_holdout
from differnet_ray.model.flow import Flow
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import ImageScore, score_image
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.stages import as_tensors

MAP_IMAGES = 16  # held-out images whose maps give the unit of a model's maps
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
    """Fits a flow on the good images of a category, calibrates it on those held out and publishes the model.

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
        FitError: fewer than 2 images are usable, or the loss is not finite.
        StorageError: the model could not be written.
    """
    began = time.monotonic()
    names, images, skipped = _read(listing.table, recipe, on_progress)
    if len(images) < 2:
        raise FitError(
            f"category {category!r} has {len(images)} usable good images, expected at least 2; "
            f"{len(skipped)} cannot be used: {dict(list(skipped.items())[:3])}"
        )
    chosen, held_out = split_holdout(len(images), recipe.calibration.holdout_fraction, recipe.fit.seed)
    extractor = Extractor(recipe.extractor, as_tensors(weights))
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=recipe.fit.seed)
    net = DifferNet(extractor, flow, fixed_transforms(recipe.transforms)).to(device)

    def on_image(done: int) -> None:
        on_progress(FitProgress("features", done, len(chosen)))

    bank = FeatureBank(net.extractor, torch.from_numpy(images[chosen]), recipe.transforms, recipe.fit, on_image)
    losses = []
    for epoch in fit(net.flow, bank, recipe.fit):
        losses.append(epoch.loss)
        on_progress(FitProgress("epochs", epoch.epoch, recipe.fit.epochs, epoch.loss))
    decision, scores = _calibrate(net, torch.from_numpy(images[held_out]), recipe, on_progress)
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
                n_fitted=len(chosen),
                n_held_out=len(held_out),
                skipped=skipped,
                losses=tuple(losses),
                seconds=round(seconds, 1),
                device=torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or device,
                libraries=library_versions(),
            ),
            flow={name: tensor.cpu().numpy() for name, tensor in net.flow.state_dict().items()},
            weights=weights,
            calibration=pa.table(
                {
                    "image_id": [listing.table["image_id"][names[i]].as_py() for i in held_out],
                    "uri": [listing.table["uri"][names[i]].as_py() for i in held_out],
                    "anomaly_score": [score.anomaly_score for score in scores],
                    "score_std": [score.score_std for score in scores],
                },
                schema=CALIBRATION.schema,
            ),
        )
    )
    return FittedCategory(
        version=version,
        n_fitted=len(chosen),
        n_held_out=len(held_out),
        skipped=skipped,
        epochs=recipe.fit.epochs,
        loss=losses[-1],
        threshold=decision.threshold,
        target_fpr=decision.target_fpr,
        achieved_fpr=decision.achieved_fpr,
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


def _calibrate(
    net: DifferNet, images: torch.Tensor, recipe: Recipe, on_progress: Callable[[FitProgress], None]
) -> tuple[Decision, list[ImageScore]]:
    scores: list[ImageScore] = []
    maps: list[npt.NDArray[np.float32]] = []
    for image in images:
        scores.append(score_image(net, image))
        if len(maps) < MAP_IMAGES:
            maps.append(gradient_map(net, image, recipe.maps).cpu().numpy())
        on_progress(FitProgress("calibrate", len(scores), len(images)))
    values = np.array([score.anomaly_score for score in scores])
    threshold = conformal_threshold(values, recipe.calibration.target_fpr)
    review = conformal_threshold(values, recipe.calibration.review_fpr)
    map_unit = float(np.quantile(np.stack(maps), MAP_QUANTILE))
    return Decision(
        threshold=threshold.value,
        review_threshold=review.value,
        target_fpr=threshold.requested_fpr,
        achieved_fpr=threshold.achieved_fpr,
        n_images=threshold.n_images,
        map_unit=max(map_unit, float(np.finfo(np.float32).tiny)),  # a flow that ignores its input has gradients of zero
    ), scores

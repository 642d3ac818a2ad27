"""BRIDGE between Arrow and tensors: from the good images of one category to a model in the store.

It knows no Ray: `distributed/fit.py` calls it in each worker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from differnet_ray import __version__
from differnet_ray.archives.manifest import Listing, defects, group_keys, select
from differnet_ray.config import AUTO, Recipe
from differnet_ray.errors import FitError, StorageError
from differnet_ray.labels import GOOD
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import ReadImages
from differnet_ray.model.metrics import auroc
from differnet_ray.model.pose import FoundPose, find_pose
from differnet_ray.pipeline.fit_flows import CategoryFits, Effort, Fitted
from differnet_ray.pipeline.fit_images import FitImages, image_names, look_at_images, usable_images
from differnet_ray.pipeline.fit_state import FitProgress, FittedCategory
from differnet_ray.pipeline.loaded_models import as_tensors
from differnet_ray.store.fit_work import FitWork
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import CROSS_FITTED, HELD_OUT, Arrays, Backbone, Decision, Lineage, StoredModel
from differnet_ray.tables import CALIBRATION
from differnet_ray.versions import library_versions

MAP_QUANTILE = 0.99
FIT_CODE = 3  # grows with each change of the code that changes a model, or what lies in a checkpoint
PROCESS_BYTES = 2**30  # a process with its libraries, the extractor and some images
BYTES_PER_PARAMETER = 40  # the flow, its gradient, Adam's two moments, and a checkpoint of three of them twice


@dataclass(frozen=True)
class FitJob:
    """A fitting run, as values.

    Attributes:
        listing: manifest rows of the good training images of all categories.
        test: manifest rows of labelled test images, which are scored where a category has good and defective ones.
        data: locations of the images, for the record.
        models: canonical URI of the model store.
        recipe: all settings.
        backbone, weights: the extractor's name and digest, and its arrays.
        scratch: folder of the workers for feature banks.
        bank_memory: bytes of features that a fit holds in main memory.
        checkpoint_seconds: between checkpoints of a category; 0: after each step.
        began: when the run did, UTC, as `created_at` of a model.
    """

    listing: Listing = field(repr=False)
    test: Listing = field(repr=False)
    data: tuple[str, ...]
    models: str
    recipe: Recipe
    backbone: Backbone
    weights: Arrays = field(repr=False)
    scratch: str
    bank_memory: int
    checkpoint_seconds: float
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def of(self, category: str) -> Listing:
        """Rows of the good images of a category."""
        return Listing(self.listing.table.filter(pc.equal(self.listing.table["category"], category)))

    @property
    def memory(self) -> int:
        """About what a fit takes at most, in bytes: docs/operations.md has measurements."""
        parameters = self.recipe.flow.n_parameters(self.recipe.extractor.n_features)
        return PROCESS_BYTES + BYTES_PER_PARAMETER * parameters + self.bank_memory

    def fingerprint(self, category: str) -> str:
        """SHA-256 of all that decides a category's model: the same thing is not fitted again, a changed thing is another."""
        code = [__version__, FIT_CODE, torch.__version__]
        what = [*code, category, self.of(category).digest(), self.recipe.to_dict(), self.backbone.digest]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def fit_category(job: FitJob, category: str, device: str, effort: Effort) -> FittedCategory:
    """Fits a flow on the good images of a category, calibrates it on scores of images not seen and publishes the model.

    A run that was killed is continued at its last checkpoint.

    Args:
        job: what to fit.
        category: which of its categories.
        device: such as `cpu` or `cuda`.
        effort: how to work; changes no result.

    Raises:
        FitError: fewer than 2 images are usable, or a loss or the score of an unseen good image is not finite.
        StorageError: the model could not be written.
    """
    began = time.monotonic()
    listing, fingerprint = job.of(category), job.fingerprint(category)
    store, work = ModelStore(job.models), FitWork(job.models, category, fingerprint, job.scratch)
    published = store.find(category, fingerprint)
    if published is not None and published["created_at"] >= job.began:  # by a worker of this run that died before it said so
        return FittedCategory.of_record(published)
    known = work.images()
    images = look_at_images(listing.table, job.recipe.image_form, effort.on_progress) if known is None else FitImages(**known)
    if known is None:
        work.save_images(asdict(images))
    recipe, skipped = job.recipe.override(grey_range=images.grey_range), images.skipped
    rows = listing.table.filter(pa.array([name not in skipped for name in image_names(listing.table)], pa.bool_()))
    if rows.num_rows < 2:
        raise FitError(
            f"category {category!r} has {rows.num_rows} usable good images, expected at least 2; "
            f"{len(skipped)} cannot be used: {dict(list(skipped.items())[:3])}"
        )

    def read(positions: Sequence[int]) -> Iterator[Tensor]:
        for name, image in usable_images(rows.take(pa.array(positions, pa.int64())), recipe.image_form):
            if isinstance(image, str):
                raise StorageError(f"{name} could be decoded when the fit began, and now cannot: {image}")
            yield torch.from_numpy(image.pixels)

    with _noted() as notes:
        extractor = Extractor(recipe.extractor, as_tensors(job.weights)).to(device)
        recipe, statement = _posed(recipe, extractor, read, rows.num_rows, work, effort)
        keys = group_keys(rows, recipe.calibration.group_by)
        fits = CategoryFits(recipe, extractor, read, rows.num_rows, keys, work, effort)
        fitted = fits.run()
        decision = _decide(fitted, recipe)
        test = _test(job, category, fits, fitted)
    seconds = time.monotonic() - began
    model = StoredModel(
        category=category,
        recipe=recipe,
        transforms={
            "angles": fitted.net.transforms.angles,
            "brightness": fitted.net.transforms.brightness,
            "contrast": fitted.net.transforms.contrast,
        },
        backbone=job.backbone,
        decision=decision,
        lineage=Lineage(
            data=job.data,
            listing_digest=listing.digest(),
            fingerprint=fingerprint,
            n_fitted=fitted.n_fitted,
            n_held_out=rows.num_rows - fitted.n_fitted,
            n_fits=fitted.n_fits,
            n_groups=len(set(fitted.groups.tolist())),
            separation=round(fitted.separation, 4),
            skipped=skipped,
            losses=tuple(stats.loss for stats in fitted.stats),
            resumed=fitted.resumed,
            notes=(*images.notes, *notes),
            test=test,
            seconds=round(seconds, 1),
            peak_memory=peak_memory(),
            device=torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or device,
            libraries=library_versions(),
            pose=statement,
        ),
        flow={name: tensor.cpu().numpy() for name, tensor in fitted.net.flow.state_dict().items()},
        weights=job.weights,
        calibration=_calibration(rows, fitted),
        curves=_curves(fitted, decision),
    )
    record = store.record(category, store.publish(model))
    with suppress(StorageError):  # the model is in use: what remains is only in the way
        work.delete()
    return FittedCategory.of_record(record)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _posed(recipe: Recipe, extractor: Extractor, read: ReadImages, n: int, work: FitWork, effort: Effort) -> tuple[Recipe, str]:
    """The recipe with a pose that is decided, and what decided it; nothing where it was given."""
    if recipe.transforms.pose != AUTO:
        return recipe, ""

    def on_image(done: int, total: int) -> None:
        effort.on_progress(FitProgress("pose", done, total))

    stored = work.pose()
    if stored is not None:
        found = FoundPose(**stored)
    else:
        found = find_pose(extractor, read, n, seed=recipe.fit.seed, threads=effort.threads, on_image=on_image)
        work.save_pose(asdict(found))
        effort.on_checkpoint()
    return replace(recipe, transforms=recipe.transforms.posed(found.pose)), found.statement


def _test(job: FitJob, category: str, fits: CategoryFits, fitted: Fitted) -> dict[str, float] | None:
    """The AUROC on the usable labelled test images; None unless there are good and defective ones."""
    rows = select(job.test, categories=[category]).table
    kinds = defects(rows)
    if len({kind == GOOD for kind in kinds}) < 2:
        return None
    usable: list[bool] = []

    def images() -> Iterator[Tensor]:
        for _, image in usable_images(rows, fits.recipe.image_form):
            usable.append(not isinstance(image, str))
            if not isinstance(image, str):
                yield torch.from_numpy(image.pixels)

    scores = []
    for score in fits.scores(fitted.net, images()):
        scores.append(score.anomaly_score)
        fits.effort.on_progress(FitProgress("test", len(scores), rows.num_rows))
    anomalous = np.array([kind != GOOD for kind in kinds])[usable]
    if not np.isfinite(scores).all() or anomalous.all() or not anomalous.any():
        return None
    return {
        "auroc": auroc(np.array(scores), anomalous),
        "n_good": int((~anomalous).sum()),
        "n_anomalous": int(anomalous.sum()),
    }


def _calibration(rows: pa.Table, fitted: Fitted) -> pa.Table:
    unseen = fitted.unseen
    return pa.table(
        {
            "image_id": [rows["image_id"][image.position].as_py() for image in unseen],
            "uri": [rows["uri"][image.position].as_py() for image in unseen],
            "anomaly_score": [image.score.anomaly_score for image in unseen],
            "score_std": [image.score.score_std for image in unseen],
            "group": fitted.groups[[image.position for image in unseen]],
        },
        schema=CALIBRATION.schema,
    )


def _curves(fitted: Fitted, decision: Decision) -> bytes:
    from differnet_ray.report.fit_curves import fit_curves  # matplotlib: a second that only a finished fit needs

    return fit_curves(
        [stats.loss for stats in fitted.stats],
        [stats.validation_loss for stats in fitted.stats if stats.validation_loss is not None],
        [image.score.anomaly_score for image in fitted.unseen],
        decision.threshold,
        decision.review_threshold,
    )


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collects what this package warns of, such as a chunk that was halved."""
    notes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("differnet_ray")
    logger.setLevel(logging.WARNING)  # whatever Ray made of the root
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


def _decide(fitted: Fitted, recipe: Recipe) -> Decision:
    unseen, cross_fitted = fitted.unseen, fitted.cross_fitted
    scores = np.array([image.score.anomaly_score for image in unseen])
    if not np.isfinite(scores).all():
        raise FitError(
            f"{(~np.isfinite(scores)).sum()} of {len(scores)} good images that the flow has not seen have no finite score: "
            "a smaller clamp_alpha, fewer epochs or the preset `pooled` keep the flow from overfitting"
        )
    n_groups = len({int(fitted.groups[image.position]) for image in unseen})
    threshold = conformal_threshold(scores, recipe.calibration.target_fpr, n_groups)
    review = conformal_threshold(scores, recipe.calibration.review_fpr, n_groups)
    map_unit = float(np.quantile([image.gradient for image in unseen if image.gradient is not None], MAP_QUANTILE))
    return Decision(
        threshold=threshold.value,
        review_threshold=review.value,
        target_fpr=threshold.requested_fpr,
        achieved_fpr=threshold.achieved_fpr,
        n_images=threshold.n_images,
        n_groups=n_groups,
        method=CROSS_FITTED if cross_fitted else HELD_OUT,
        extrapolated=threshold.extrapolated,
        statement=threshold.statement(cross_fitted=cross_fitted),
        map_unit=max(map_unit, float(np.finfo(np.float32).tiny)),  # a flow that ignores its input has gradients of zero
    )

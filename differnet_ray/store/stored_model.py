"""A model as values: what a version in the store holds, and where it came from. Arrays are NumPy here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from differnet_ray.config import Recipe

Arrays = Mapping[str, npt.NDArray[Any]]
HELD_OUT, CROSS_FITTED, RECALIBRATED = METHODS = ("held out", "cross-fitted", "recalibrated")


@dataclass(frozen=True)
class Backbone:
    """The extractor that a model was fitted on.

    Attributes:
        name: where its weights came from: `alexnet-imagenet1k-v1`, a file's name or `random-seed0`. The network itself is
            named by the recipe.
        digest: SHA-256 of its weights, and of the network's name where that is not AlexNet.
        pretrained: false for random weights.
    """

    name: str
    digest: str
    pretrained: bool

    @property
    def file(self) -> str:
        """Its file name in MODELS/backbones."""
        return f"{self.name}-{self.digest[:16]}.safetensors"


@dataclass(frozen=True)
class Decision:
    """Thresholds, and how they were found.

    Attributes:
        threshold, review_threshold: a score at or over it is anomalous, or for review.
        target_fpr, achieved_fpr: false-alarm rate asked for, and what `n_images` good images can guarantee.
        n_groups: groups that these images are of; as many in records that are older than groups.
        method: how they came to be scored by a flow that has not seen them, one of METHODS. `held out`: the bound on the
            rate is exact. `cross-fitted`: each by a flow fitted without its fold; the flow in use is fitted on all images,
            and the bound is approximate. `recalibrated`: after the fit, by `calibrate`; exact as well.
        extrapolated: whether the threshold is that of a fitted tail, for a rate below the one that can be guaranteed.
        statement: the same for people, to be read after "the threshold rests on".
        map_unit: the value of a map that 1 % of the pixels of unseen good images exceed; maps are divided by it.
    """

    threshold: float
    review_threshold: float
    target_fpr: float
    achieved_fpr: float
    n_images: int
    n_groups: int
    method: str
    extrapolated: bool
    statement: str
    map_unit: float


@dataclass(frozen=True)
class Lineage:
    """Where a model came from.

    Attributes:
        data, listing_digest: locations of the images, and the digest of their listing.
        fingerprint: digest of listing, options and code version: what has it already is not fitted again.
        n_fitted, n_held_out: good images that the flow was fitted on, and that it has not seen (0 where cross-fitted).
        n_fits: flows that were fitted: one, or one for each fold and the one in use.
        n_groups: groups of good images, none of which is on both sides of a split; None in older records.
        separation: how far unseen images are from those fitted on, over the distance of independent images; None in older ones.
        skipped: images that could not be used: URI to reason.
        losses: loss of every epoch of the flow in use.
        resumed: epochs after which an interrupted fit went on.
        notes: what people should know, such as a chunk halved because memory was short.
        test: `auroc`, `n_good` and `n_anomalous` of a labelled test set, where there is one; no choice was made by it.
        seconds: of all fits and the calibration.
        peak_memory: largest resident memory of the process, in bytes.
        calibrated: of a version that `calibrate` made: `from`, the version with the same flow; `n_images`; and where they are
            from, `data` or `output`, `run_id` and `confirmed`.
        pose: what decided how the parts lie, for people; empty where it was given.
    """

    data: tuple[str, ...]
    listing_digest: str
    fingerprint: str
    n_fitted: int
    n_held_out: int
    n_fits: int
    n_groups: int | None
    separation: float | None
    skipped: dict[str, str]
    losses: tuple[float, ...]
    resumed: tuple[int, ...]
    notes: tuple[str, ...]
    test: dict[str, float] | None
    seconds: float
    peak_memory: int
    device: str
    libraries: dict[str, str]
    calibrated: dict[str, Any] | None = None
    pose: str = ""


@dataclass(frozen=True)
class StoredModel:
    """A model as it lies in the store.

    Attributes:
        category: what it scores.
        recipe: all settings.
        transforms: the fixed set: `angles` (radians), `brightness`, `contrast`.
        flow: arrays of flow.safetensors.
        weights: arrays of the backbone.
        calibration: `tables.CALIBRATION`.
        curves: a PNG of the fit for the card, or empty; `load` leaves it in the store.
        version, digest: empty until published.
    """

    category: str
    recipe: Recipe
    transforms: dict[str, tuple[float, ...]]
    backbone: Backbone
    decision: Decision
    lineage: Lineage
    flow: Arrays = field(repr=False)
    weights: Arrays = field(repr=False)
    calibration: pa.Table = field(repr=False)
    curves: bytes = field(default=b"", repr=False)
    version: str = ""
    digest: str = ""

"""BRIDGE: new thresholds for a model, from good images that it was not fitted on, as a new version with the same flow.

good images, or rows of a published run -> their scores by the model -> thresholds -> a new version, in use
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from differnet_ray.archives.manifest import Listing
from differnet_ray.errors import ConfigError
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.model.scoring import score_image
from differnet_ray.pipeline.fit_images import usable_images
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.pipeline.stages import best_device
from differnet_ray.results.runs import open_table
from differnet_ray.store.model_store import ModelStore, same_scores
from differnet_ray.store.stored_model import RECALIBRATED, StoredModel
from differnet_ray.tables import CALIBRATION, SCORES
from differnet_ray.threads import map_ahead

FEWEST = 2  # good images that thresholds can rest on
TRAIN = "train"  # the split whose images a model may have been fitted on


def scores_of_images(
    models: str, category: str, version: str, images: Listing, on_progress: Callable[[int, int], None]
) -> pa.Table:
    """Scores good images by a model.

    Args:
        models: canonical URI of the model store.
        category: of the model.
        version: of the model.
        images: of the category.
        on_progress: told how many of how many are done.

    Returns:
        `tables.CALIBRATION`; images that cannot be decoded are left out.

    Raises:
        StorageError: an image cannot be fetched.
    """
    device = best_device()
    torch.set_num_threads(1)  # images side by side, each by one thread, as in the scoring job
    model = ModelCache(models, device).get(category, version)
    rows = images.table
    decoded = (image for _, image in usable_images(rows, model.stored.recipe.image_form))

    def score(image: Any) -> tuple[float, float] | None:
        if isinstance(image, str):
            return None
        found = score_image(model.net, torch.from_numpy(image.pixels))
        return found.anomaly_score, found.score_std

    found = []
    for score_of in map_ahead(score, decoded, 1 if device == "cuda" else os.cpu_count() or 1):
        found.append(score_of)
        on_progress(len(found), rows.num_rows)
    kept = pa.array([score_of is not None for score_of in found], pa.bool_())
    scores = np.array([score_of for score_of in found if score_of is not None], dtype=np.float64).reshape(-1, 2)
    columns = rows.filter(kept).select(["image_id", "uri"])
    columns = columns.append_column("anomaly_score", pa.array(scores[:, 0]))
    return _ungrouped(columns.append_column("score_std", pa.array(scores[:, 1])))


def scores_of_run(
    output: str, record: Mapping[str, Any], store: ModelStore, category: str, version: str, confirmed: Collection[str] | None
) -> pa.Table:
    """The stored scores of a run's images as those of good ones; images of the split `train` are left out.

    Args:
        output: canonical URI of the results.
        record: content of the run file.
        store: the model store.
        category: of the model that is to be calibrated.
        version: of that model.
        confirmed: ids of the images that a person found good; None takes all of the run as good.

    Returns:
        `tables.CALIBRATION`.

    Raises:
        ConfigError: another flow computed the scores.
    """
    mine = (pc.field("run_id") == record["run_id"]) & pc.field("anomaly_score").is_valid()
    dataset = open_table(output, SCORES, dt=pa.scalar(record["dt"], pa.string()).cast(pa.date32()).as_py(), category=category)
    rows = dataset.to_table(
        columns=["image_id", "uri", "anomaly_score", "score_std", "attributes", "model_version"], filter=mine
    )
    for scored_by in pc.unique(rows["model_version"]).to_pylist():
        if not same_scores(store.record(category, scored_by), store.record(category, version)):
            raise ConfigError(
                f"{category}: rows of run {record['run_id']} were scored by {scored_by}, of another flow than {version}: "
                "score the images again, or name that version by --model"
            )
    keep = [dict(attributes).get("split") != TRAIN for attributes in rows["attributes"].to_pylist()]
    if confirmed is not None:
        keep = [kept and image in confirmed for kept, image in zip(keep, rows["image_id"].to_pylist(), strict=True)]
    return _ungrouped(rows.filter(pa.array(keep, pa.bool_())))


def _ungrouped(scores: pa.Table) -> pa.Table:
    """Scores of images that count as independent: `tables.CALIBRATION`."""
    scores = scores.append_column("group", pa.nulls(scores.num_rows, pa.int64()))
    return scores.select(CALIBRATION.schema.names).cast(CALIBRATION.schema)


def recalibrated(
    stored: StoredModel, scores: pa.Table, *, target_fpr: float | None, review_fpr: float | None, origin: Mapping[str, Any]
) -> StoredModel:
    """A model with the same flow and the thresholds that the scores of good images give.

    Args:
        stored: the model.
        scores: `tables.CALIBRATION`, of images that it was not fitted on.
        target_fpr: share of good images that may be at or over the threshold; None: as before.
        review_fpr: share that may be at or over the one for review; None: as before.
        origin: where the scores are from, for the lineage.

    Raises:
        ConfigError: fewer than two scores, or one that is not finite.
    """
    values = scores["anomaly_score"].to_numpy()
    if len(values) < FEWEST or not np.isfinite(values).all():
        raise ConfigError(
            f"{stored.category}: {len(values)} good images with a score, {int((~np.isfinite(values)).sum())} of which are not "
            f"finite; expected at least {FEWEST}, all finite"
        )
    recipe = stored.recipe.override(target_fpr=target_fpr, review_fpr=review_fpr)
    threshold, review = (
        conformal_threshold(values, fpr) for fpr in (recipe.calibration.target_fpr, recipe.calibration.review_fpr)
    )
    return replace(
        stored,
        recipe=recipe,
        decision=replace(
            stored.decision,
            threshold=threshold.value,
            review_threshold=review.value,
            target_fpr=threshold.requested_fpr,
            achieved_fpr=threshold.achieved_fpr,
            n_images=threshold.n_images,
            n_groups=threshold.n_groups,
            method=RECALIBRATED,
            extrapolated=threshold.extrapolated,
            statement=threshold.statement(),
        ),
        lineage=replace(stored.lineage, calibrated={"from": stored.version, "n_images": len(values), **origin}),
        calibration=scores,
        version="",
        digest="",
    )

"""How well published scores separate good from anomalous images of a labelled data set.

Legend: labels follow the MVTec AD layout, `<category>/test/<defect>/<name>`, where the defect `good` is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from differnet_ray.data.images import decode
from differnet_ray.data.results import read_table
from differnet_ray.data.storage import join, read_bytes, write_bytes
from differnet_ray.data.tables import MAPS, SCORES
from differnet_ray.errors import ConfigError
from differnet_ray.model.metrics import auroc, average_precision, recall_at_fpr, roc_curve
from differnet_ray.report.plots import contact_sheet, roc_plot, score_histogram

GOOD = "good"
SHEET_IMAGES = 12  # highest scores on a sheet, and as many lowest of the defects
SHEET_PIXELS = 256


def defects(rows: pa.Table) -> list[str]:
    """The defect of each row, from its attributes."""
    return [dict(attributes).get("defect", "") for attributes in rows["attributes"].to_pylist()]


def evaluate_scores(rows: pa.Table, output: str) -> dict[str, Any]:
    """Computes the metrics of every category and writes them, with plots, below OUTPUT/evaluation.

    Args:
        rows: `tables.SCORES` of labelled images.
        output: canonical URI of the results.

    Returns:
        The content of OUTPUT/evaluation/metrics.json.

    Raises:
        ConfigError: a category has no scored good image or no scored defect.
    """
    metrics: dict[str, Any] = {}
    curves: dict[str, tuple[ArrayLike, ArrayLike]] = {}
    for category in sorted(pc.unique(rows["category"]).to_pylist()):
        of_category = rows.filter(pc.field("category") == category)
        scored = of_category.filter(pc.field("anomaly_score").is_valid())
        kinds = np.array(defects(scored))
        scores, is_anomaly = scored["anomaly_score"].to_numpy(), kinds != GOOD
        if is_anomaly.all() or not is_anomaly.any():
            raise ConfigError(
                f"category {category!r} has {int((~is_anomaly).sum())} scored good images and {int(is_anomaly.sum())} scored "
                "defects; expected some of each below test/good and test/<defect>"
            )
        curve = roc_curve(scores, is_anomaly)
        curves[category] = (curve.false_positive_rate, curve.true_positive_rate)
        flagged = pc.equal(scored["status"], "anomalous").to_numpy()
        threshold = scored["threshold"][0].as_py()
        metrics[category] = {
            "n_good": int((~is_anomaly).sum()),
            "n_anomalous": int(is_anomaly.sum()),
            "n_not_scored": of_category.num_rows - scored.num_rows,
            "auroc": auroc(scores, is_anomaly),
            "average_precision": average_precision(scores, is_anomaly),
            "recall_at_zero_fpr": recall_at_fpr(scores, is_anomaly, 0.0),
            "threshold": threshold,
            "recall_at_threshold": float(flagged[is_anomaly].mean()),
            "fpr_at_threshold": float(flagged[~is_anomaly].mean()),
            "auroc_by_defect": {
                kind: auroc(scores[~is_anomaly | (kinds == kind)], is_anomaly[~is_anomaly | (kinds == kind)])
                for kind in sorted(set(kinds[is_anomaly]))
            },
            "model_version": scored["model_version"][0].as_py(),
            "n_transforms": scored["n_transforms"][0].as_py(),
        }
        folder = join(output, "evaluation", category)
        histogram = score_histogram(scores[~is_anomaly], scores[is_anomaly], threshold, f"{category}: anomaly scores")
        write_bytes(join(folder, "histogram.png"), histogram)
        write_bytes(join(folder, "sheet.png"), _sheet(scored, output, category))
    write_bytes(join(output, "evaluation", "roc.png"), roc_plot(curves, "Detection of anomalous images"))
    write_bytes(join(output, "evaluation", "metrics.json"), (json.dumps(metrics, indent=2) + "\n").encode())
    return metrics


def stored_scores(output: str, images: pa.Table, digests: Sequence[str]) -> pa.Table | None:
    """The newest published row of each image by one of some models, or by none where it could not be scored.

    Args:
        output: canonical URI of the results.
        images: `tables.MANIFEST`.
        digests: of the models.

    Returns:
        `tables.SCORES`, one row per image; None if an image has no such row.
    """
    try:
        rows = read_table(output, SCORES)
    except FileNotFoundError:
        return None
    by_models = pc.is_in(rows["model_digest"], value_set=pa.array(digests, pa.string()))
    rows = rows.filter(pc.or_(by_models, pc.is_null(rows["model_digest"])))
    rows = rows.filter(pc.is_in(rows["image_id"], value_set=images["image_id"])).sort_by([("dt", "descending")])
    _, newest = np.unique(rows["image_id"].to_numpy(zero_copy_only=False), return_index=True)
    return rows.take(newest) if len(newest) == images.num_rows else None


def maps_of(output: str, category: str) -> Mapping[str, np.ndarray[Any, np.dtype[np.float16]]]:
    """Published gradient maps of a category: image id to float16 (h, w)."""
    try:
        rows = read_table(output, MAPS, category=category)
    except FileNotFoundError:
        return {}
    return {
        row["image_id"]: np.frombuffer(row["gradient_map"], dtype="<f2").reshape(row["map_height"], row["map_width"])
        for row in rows.select(["image_id", "map_height", "map_width", "gradient_map"]).to_pylist()
    }


def _sheet(scored: pa.Table, output: str, category: str) -> bytes:
    """The images with the highest scores, beside those defects with the lowest: what the model sees, and what it misses."""
    rows = scored.sort_by([("anomaly_score", "descending")]).to_pylist()
    worst = rows[:SHEET_IMAGES]
    missed = [row for row in reversed(rows) if dict(row["attributes"]).get("defect") != GOOD and row not in worst]
    maps = maps_of(output, category)
    tiles = [
        (
            f"{row['anomaly_score']:.2f} {dict(row['attributes']).get('defect')}",
            decode(read_bytes(row["uri"]), size=SHEET_PIXELS).pixels,
            maps.get(row["image_id"]),
        )
        for row in worst + missed[:SHEET_IMAGES]
    ]
    return contact_sheet(tiles, f"{category}: highest scores, then the defects with the lowest")

"""How well published scores and gradient maps separate good from anomalous images of a labelled data set.

Legend: the label of an image is its attribute `defect`, where `good` is none; in the MVTec AD layout the folder in
`<category>/test/<defect>/<name>` says it. Pixel metrics compare gradient maps with the masks of defects, both at 256 x 256
pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from differnet_ray.archives.fetch import decoded_image
from differnet_ray.archives.manifest import defects
from differnet_ray.archives.masks import has_masks, mask_uris, read_mask
from differnet_ray.config import GreyRange, ImageForm
from differnet_ray.errors import ConfigError, DifferNetError, ImageError
from differnet_ray.labels import GOOD
from differnet_ray.model.metrics import detection_metrics, roc_curve
from differnet_ray.model.pixel_metrics import localization_metrics
from differnet_ray.report.plots import Tile, contact_sheet, roc_plot, score_histogram
from differnet_ray.results.runs import read_table
from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import MAPS, SCORES

SHEET_IMAGES = 8  # in each section of a sheet
SHEET_PIXELS = 256
PIXELS = 256  # side at which maps and masks are compared
READ_THREADS = 8
NO_PIXEL_METRICS: dict[str, Any] = {"pixel_auroc": None, "aupro": None}
VERDICTS = {  # (is good, status) -> what the decision was
    (True, "anomalous"): "FALSE ALARM",
    (True, "ok"): "passed",
    (False, "anomalous"): "found",
    (False, "ok"): "MISSED",
}


def evaluate_scores(rows: pa.Table, output: str, forms: Mapping[str, ImageForm] | None = None) -> dict[str, Any]:
    """Computes the metrics of every category and writes them, with plots, below OUTPUT/evaluation.

    Args:
        rows: `tables.SCORES` of labelled images.
        output: canonical URI of the results.
        forms: category to what its model wants of an image, for pictures of grey images of more than 8 bits.

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
        kinds = np.array(defects(scored), dtype=np.str_)
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
        maps = maps_of(output, category, scored)
        pixels, notes = _localization(scored, kinds, maps)
        found = detection_metrics(scores, kinds)
        for kind, of_kind in found["by_defect"].items():
            of_kind["recall_at_threshold"] = float(flagged[kinds == kind].mean())
            of_kind |= pixels["by_defect"].get(kind, NO_PIXEL_METRICS)
        metrics[category] = {
            **found,
            "pixel_auroc": pixels["pixel_auroc"],
            "aupro": pixels["aupro"],
            "n_not_scored": of_category.num_rows - scored.num_rows,
            "threshold": threshold,
            "recall_at_threshold": float(flagged[is_anomaly].mean()),
            "fpr_at_threshold": float(flagged[~is_anomaly].mean()),
            "model_version": scored["model_version"][0].as_py(),
            "n_transforms": scored["n_transforms"][0].as_py(),
            "notes": notes,
        }
        folder = join(output, "evaluation", category)
        histogram = score_histogram(scores[~is_anomaly], scores[is_anomaly], threshold, f"{category}: anomaly scores")
        write_bytes(join(folder, "histogram.png"), histogram)
        grey_range = forms[category].grey_range if forms and category in forms else None
        write_bytes(join(folder, "sheet.png"), _sheet(scored, maps, category, metrics[category], grey_range))
    write_bytes(join(output, "evaluation", "roc.png"), roc_plot(curves, "Detection of anomalous images"))
    write_bytes(join(output, "evaluation", "metrics.json"), (json.dumps(metrics, indent=2) + "\n").encode())
    return metrics


def stored_scores(output: str, images: pa.Table, digests: Sequence[str]) -> pa.Table | None:
    """The newest published row of each image by one of some models, or by none where it could not be scored.

    Args:
        output: canonical URI of the results.
        images: `tables.MANIFEST`; their attributes hold, not those that they were once scored with.
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
    if len(newest) != images.num_rows:
        return None
    rows, images = rows.take(newest).sort_by("image_id"), images.sort_by("image_id")
    return rows.set_column(rows.column_names.index("attributes"), rows.schema.field("attributes"), images["attributes"])


def maps_of(output: str, category: str, scored: pa.Table | None = None) -> Mapping[str, NDArray[np.float16]]:
    """Published gradient maps of a category: image id to float16 (h, w).

    Args:
        output: canonical URI of the results.
        category: whose maps.
        scored: `tables.SCORES`; if given, only the maps of the runs that these rows are from.
    """
    try:
        rows = read_table(output, MAPS, category=category)
    except FileNotFoundError:
        return {}
    if scored is not None:
        run_of = dict(zip(scored["image_id"].to_pylist(), scored["run_id"].to_pylist(), strict=True))
        found = zip(rows["image_id"].to_pylist(), rows["run_id"].to_pylist(), strict=True)
        rows = rows.filter(pa.array([run_of.get(image) == run for image, run in found], pa.bool_()))
    return {
        row["image_id"]: np.frombuffer(row["gradient_map"], dtype="<f2").reshape(row["map_height"], row["map_width"])
        for row in rows.select(["image_id", "map_height", "map_width", "gradient_map"]).to_pylist()
    }


def _localization(
    scored: pa.Table, kinds: NDArray[np.str_], maps: Mapping[str, NDArray[np.float16]]
) -> tuple[dict[str, Any], list[str]]:
    """The pixel metrics of a category, or nulls with the reason; without a reason where it has no masks at all."""
    nothing = {**NO_PIXEL_METRICS, "by_defect": {}}
    images, uris = scored["image_id"].to_pylist(), scored["uri"].to_pylist()
    if not has_masks(uri for uri, kind in zip(uris, kinds, strict=True) if kind != GOOD):
        return nothing, []
    n_unmapped = sum(image not in maps for image in images)
    if n_unmapped:
        return nothing, [
            f"no pixel metrics: {n_unmapped} of {len(images)} scored images have no gradient map; "
            "`differnet-ray score --maps all` makes them"
        ]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        masks = list(pool.map(_mask, uris, kinds))
    reasons = [mask for mask in masks if isinstance(mask, str)]
    if reasons:
        return nothing, [f"no pixel metrics: {len(reasons)} images of defects have no usable mask, such as {reasons[0]}"]
    marked = np.stack(masks)
    if not marked.any() or marked.all():
        return nothing, [f"no pixel metrics: the masks mark {'all' if marked.any() else 'no'} pixels as defect"]
    return localization_metrics(np.stack([_upsampled(maps[image]) for image in images]), marked, kinds), []


def _mask(uri: str, kind: str) -> NDArray[np.bool_] | str:
    """The mask of an image, empty for a good one; or why it cannot be used."""
    if kind == GOOD:
        return np.zeros((PIXELS, PIXELS), dtype=np.bool_)
    masks = mask_uris(uri)
    if not masks:
        return f"{uri}: not in <category>/test/<defect>"
    try:
        return read_mask(masks, PIXELS)
    except FileNotFoundError as error:
        return str(error)
    except ImageError as error:
        return error.reason


def _upsampled(gradient_map: NDArray[np.float16]) -> NDArray[np.float32]:
    field = Image.fromarray(gradient_map.astype(np.float32))
    return np.asarray(field.resize((PIXELS, PIXELS), Image.Resampling.BILINEAR))


def _sheet(
    scored: pa.Table,
    maps: Mapping[str, NDArray[np.float16]],
    category: str,
    found: Mapping[str, Any],
    grey_range: GreyRange | None,
) -> bytes:
    """What a person asks first: what stands out, which defects were missed, and which good parts raised a false alarm."""
    rows = scored.sort_by([("anomaly_score", "descending"), ("uri", "ascending")]).to_pylist()
    good = [row for row in rows if _kind(row) == GOOD]
    highest = rows[:SHEET_IMAGES]
    lowest = [row for row in reversed(rows) if _kind(row) != GOOD and row not in highest]
    n_good, n_anomalous = found["n_good"], found["n_anomalous"]
    n_found = round(found["recall_at_threshold"] * n_anomalous)
    n_alarms = round(found["fpr_at_threshold"] * n_good)
    sections = {
        "Highest scores": highest,
        f"Defects with the lowest scores ({n_anomalous - n_found} of {n_anomalous} below the threshold)": lowest,
        f"Good images with the highest scores ({n_alarms} of {n_good} at or over the threshold)": good,
    }
    low, high = found["intervals"]["auroc"]
    title = f"{category}: AUROC {found['auroc']:.3f} ({low:.3f} to {high:.3f}), threshold {found['threshold']:.3g}"
    tiles = {heading: [_tile(row, maps, grey_range) for row in shown[:SHEET_IMAGES]] for heading, shown in sections.items()}
    return contact_sheet(tiles, title)


def _tile(row: Mapping[str, Any], maps: Mapping[str, NDArray[np.float16]], grey_range: GreyRange | None) -> Tile:
    verdict = VERDICTS.get((_kind(row) == GOOD, row["status"]), "for review")
    caption = f"{row['anomaly_score']:.2f}  {_kind(row)}  {verdict}\n{name_of(row['member'] or row['uri'])}"
    try:
        pixels = decoded_image(row["uri"], row["member"], ImageForm(SHEET_PIXELS, grey_range)).pixels
    except DifferNetError:  # it was scored, so it was there: the sheet is no reason to fail now
        pixels, caption = np.full((SHEET_PIXELS, SHEET_PIXELS, 3), 230, dtype=np.uint8), f"{caption} cannot be read any more"
    width, height = row["width"], row["height"]
    size = (max(1, SHEET_PIXELS * width // max(width, height)), max(1, SHEET_PIXELS * height // max(width, height)))
    upright = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))  # `decode` makes a square
    return caption, upright, maps.get(row["image_id"])


def _kind(row: Mapping[str, Any]) -> str:
    return str(dict(row["attributes"]).get("defect", ""))

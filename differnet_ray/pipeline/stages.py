"""BRIDGE between Arrow and tensors: what the scoring job does to a batch of rows.

    manifest rows -> FetchImages (archives/fetch.py) -> FETCHED -> ScoreImages -> SCORED -> MapGradients -> STAGED

Activation maps come with the score, from the same pass; gradient maps take passes of their own, in the second stage.
Each stage is a plain class: plain values into `__init__`, a table into `__call__`, a table of the same rows out. It knows
no Ray. A bad image is a row with a status and a reason; a bad model raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from differnet_ray.config import Recipe
from differnet_ray.errors import ConfigError
from differnet_ray.model.activation_map import activation_map
from differnet_ray.model.calibration import conformal_p_values
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import score_features, score_image
from differnet_ray.pipeline.loaded_models import LoadedModel, LoadedModels, ModelCache
from differnet_ray.results.overlay import contour, overlay
from differnet_ray.store.stored_model import StoredModel
from differnet_ray.tables import SCORED, SCORES, STAGED, extend, status_of
from differnet_ray.threads import map_ahead

Maps = Literal["none", "flagged", "all"]
MAP_COLUMNS = ["peak_x", "peak_y", "area_fraction", *(name for name in STAGED.names if name not in SCORES.schema.names)]


class ScoreImages:
    """Scores fetched images, eq. 5, decides, eq. 6, and maps where the scores come from.

    Args:
        models: canonical URI of the model store.
        versions: category to version.
        n_transforms: score with the first so many transforms of each model; all if None.
        maps: which rows get a map: none, flagged (review and anomalous) or all scored ones. Where the model's maps are
            gradient maps, those rows keep their pixels for `MapGradients`.
        dt: day of the rows' partition.
        run_id: the run that the rows belong to.
        device: such as `cpu` or `cuda`.
        overlays: add pictures of the images with their maps over them, as PNG.
        threads: images that are scored at the same time; changes no result.
        cache: models that are shared with other stages of the process, of the same store and device; None: its own.
    """

    def __init__(
        self,
        *,
        models: str,
        versions: Mapping[str, str],
        n_transforms: int | None,
        maps: Maps,
        dt: date,
        run_id: str,
        device: str,
        overlays: bool = False,
        threads: int = 1,
        cache: ModelCache | None = None,
    ) -> None:
        self.models = LoadedModels(cache or ModelCache(models, device), versions)
        self.overlays, self.threads = overlays, threads
        self.n_transforms, self.maps, self.dt, self.run_id = n_transforms, maps, dt, run_id

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `tables.FETCHED` -> the same rows of `tables.SCORED`."""
        columns = (rows[name].to_pylist() for name in ("category", "pixels", "status", "error"))
        images = (  # models are loaded here, by one thread
            (None if pixels is None else self.models[category], pixels, status, error)
            for category, pixels, status, error in zip(*columns, strict=True)
        )
        scored = list(map_ahead(lambda image: self._score(*image), images, self.threads))
        rows = rows.rename_columns({"size": "bytes"}).drop_columns(["offset", "pixels", "status", "error"])
        rows = rows.append_column("dt", pa.repeat(pa.scalar(self.dt), rows.num_rows))
        for name in ("run_id", "scored_by"):
            rows = rows.append_column(name, pa.repeat(pa.scalar(self.run_id), rows.num_rows))
        return extend(rows, scored, SCORED)

    def _score(self, model: LoadedModel | None, pixels: bytes, status: str | None, error: str | None) -> dict[str, Any]:
        if model is None:
            return {"status": status, "error": error}
        net, stored, decision = model.net, model.stored, model.stored.decision
        image, maps = _image(pixels, stored), stored.recipe.maps
        activations = None
        if self.maps != "none" and maps.map_kind == "activation":
            activations = net.activations(image, self.n_transforms)
            score = score_features(net, net.features_of(activations))
        else:
            score = score_image(net, image, self.n_transforms)
        row: dict[str, Any] = {
            "model_version": stored.version,
            "model_digest": stored.digest,
            "scored_at": datetime.now(UTC),
        }
        if not np.isfinite(score.anomaly_score):
            return row | {"status": "failed", "error": f"the anomaly score is {score.anomaly_score}"}
        status = status_of(score.anomaly_score, decision.threshold, decision.review_threshold)
        wanted = self.maps == "all" or (self.maps == "flagged" and status != "ok")
        known = stored.calibration["anomaly_score"].to_numpy()
        p_value = conformal_p_values(known, np.array([score.anomaly_score]), decision.n_groups)[0]
        row |= {
            "status": status,
            "anomaly_score": score.anomaly_score,
            "score_std": score.score_std,
            "n_transforms": score.n_transforms,
            "threshold": decision.threshold,
            "review_threshold": decision.review_threshold,
            "p_value": p_value,
        }
        if wanted and activations is not None:
            return row | map_columns(activation_map(net, activations, maps), stored, image, overlays=self.overlays)
        return row | {"pixels": pixels if wanted else None}


class MapGradients:
    """Adds gradient maps, eq. 7, to the rows that kept their pixels; rows of other models have their maps.

    Args:
        models: canonical URI of the model store.
        versions: category to version.
        device: such as `cpu` or `cuda`.
        overlays: add pictures of the images with their maps over them, as PNG.
        threads: images that are mapped at the same time; changes no result.
        cache: as of `ScoreImages`.
    """

    def __init__(
        self,
        *,
        models: str,
        versions: Mapping[str, str],
        device: str,
        overlays: bool = False,
        threads: int = 1,
        cache: ModelCache | None = None,
    ) -> None:
        self.models = LoadedModels(cache or ModelCache(models, device), versions)
        self.overlays, self.threads = overlays, threads

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `tables.SCORED` -> the same rows of `tables.STAGED`."""
        images = (
            (None if pixels is None else self.models[category], pixels)
            for category, pixels in zip(rows["category"].to_pylist(), rows["pixels"].to_pylist(), strict=True)
        )
        mapped = map_ahead(lambda image: self._map(*image), images, self.threads)
        known = rows.select(MAP_COLUMNS).to_pylist()  # of rows that have their map
        columns = [old | new for old, new in zip(known, mapped, strict=True)]
        return extend(rows.drop_columns(["pixels", *MAP_COLUMNS]), columns, STAGED)

    def _map(self, model: LoadedModel | None, pixels: bytes) -> dict[str, Any]:
        if model is None:
            return {}
        stored = model.stored
        image = _image(pixels, stored)
        return map_columns(gradient_map(model.net, image, stored.recipe.maps), stored, image, overlays=self.overlays)


def map_columns(found: torch.Tensor, stored: StoredModel, image: torch.Tensor, *, overlays: bool) -> dict[str, Any]:
    """The columns of a row that its map gives.

    Args:
        found: float32 (h, w), the map as the model finds it.
        stored: the model.
        image: uint8 (H, W, 3).
        overlays: whether a picture is one of them.
    """
    values = found.cpu().numpy() / stored.decision.map_unit
    height, width = values.shape
    peak_row, peak_column = np.unravel_index(values.argmax(), values.shape)
    limit = np.finfo(np.float16).max
    return {
        "peak_x": (peak_column + 0.5) / width,
        "peak_y": (peak_row + 0.5) / height,
        "area_fraction": float((values > contour(values)).mean()),
        "map_height": height,
        "map_width": width,
        "gradient_map": values.clip(0, limit).astype("<f2").tobytes(),
        "overlay_png": overlay(image.numpy(), values) if overlays else None,
        "map_kind": stored.recipe.maps.map_kind,
    }


def check_transforms(
    category: str, transforms: Mapping[str, Sequence[float]], recipe: Recipe, n_transforms: int | None
) -> None:
    """Refuses a number of transforms that a model does not score with.

    Raises:
        ConfigError: it has fewer, or its scores are of all of them together.
    """
    known = len(transforms["angles"])
    if n_transforms is not None and n_transforms > known:
        raise ConfigError(f"--transforms {n_transforms}: the model of {category!r} has {known}")
    if n_transforms not in (None, known) and recipe.transforms.pooled:
        raise ConfigError(
            f"--transforms {n_transforms}: the model of {category!r} pools the features of all its {known} "
            "transforms, and its threshold holds for them alone"
        )


def best_device() -> str:
    """`cuda` where this process sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _image(pixels: bytes, stored: StoredModel) -> torch.Tensor:
    size = stored.recipe.extractor.image_size
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(size, size, 3)

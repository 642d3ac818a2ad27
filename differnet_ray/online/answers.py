"""What the endpoint answers, as JSON: the columns of the declared tables under their names, and what goes with them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, create_model

from differnet_ray.queries import Answer
from differnet_ray.tables import SCORES

_TYPES: list[tuple[Any, type]] = [
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (pa.types.is_date, date),
    (pa.types.is_timestamp, datetime),
    (pa.types.is_map, dict[str, str]),
]


class MapAnswer(BaseModel):
    """Where in the image its score comes from."""

    height: int = Field(description="rows of the map")
    width: int = Field(description="columns of the map")
    kind: Literal["activation", "gradient"]
    values: list[list[float]] | None = Field(
        None, description="map=array: rows of float16 values; 1 is what 1 % of the pixels of unseen good images exceed"
    )
    png: str | None = Field(None, description="map=png: the image with its map over it, base64")


def _type_of(field: pa.Field) -> Any:
    found = next((kind for fits, kind in _TYPES if fits(field.type)), str)
    return found | None if field.nullable else found


def _described(field: pa.Field) -> Any:
    metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
    return Field(
        description=metadata["description"], json_schema_extra={"unit": metadata["unit"]} if "unit" in metadata else {}
    )


EXAMPLE: dict[str, Any] = {
    "image_id": "b376d05539358d860c0660a819c97fce",
    "uri": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "member": None,
    "category": "screw",
    "dt": "2026-01-31",
    "captured_at": None,
    "attributes": {"line": "3"},
    "status": "anomalous",
    "error": None,
    "anomaly_score": 2.4375,
    "score_std": 0.0,
    "n_transforms": 32,
    "threshold": 1.75,
    "review_threshold": 1.5,
    "p_value": 0.0101,
    "peak_x": 0.25,
    "peak_y": 0.5,
    "area_fraction": 0.03125,
    "width": 1024,
    "height": 1024,
    "bytes": 183920,
    "etag": None,
    "model_version": "20260131T020000Z-1a2b3c4d",
    "model_digest": "1a2b3c4d" * 8,
    "run_id": "online-2026-01-31",
    "scored_at": "2026-01-31T09:30:00.123456+00:00",
    "scored_by": "online-2026-01-31",
    "brightness": 0.4375,
    "contrast": 0.125,
    "sharpness": 0.0625,
    "map": None,
    "metadata": {"line": "3"},
    "milliseconds": {"wait": 0.2, "load": 0.01, "decode": 9.5, "score": 212.0, "map": 0.02, "total": 224.1},
}
_ROW: dict[str, Any] = {field.name: (_type_of(field), _described(field)) for field in SCORES.schema}
ScoreAnswer = create_model(
    "ScoreAnswer",
    __doc__="A row of the table `scores`, and what was asked for beside it.",
    __config__={"json_schema_extra": {"examples": [EXAMPLE]}},
    **_ROW,
    map=(MapAnswer | None, Field(description="null where no map was asked for, or the image has no score")),
    metadata=(dict[str, str], Field(description="as it was sent")),
    milliseconds=(dict[str, float], Field(description="time of each stage, and `total` of all")),
)


class CategoryAnswer(BaseModel):
    """The model in use of a category."""

    category: str
    version: str
    digest: str = Field(description="SHA-256 of all in the model that decides scores")
    fitted_at: datetime
    image_size: int = Field(description="pixels a side that images are resized to")
    n_transforms: int = Field(description="transforms that a score is made of")
    fewer_transforms: bool = Field(description="whether `transforms` may be less")
    map_kind: Literal["activation", "gradient"]
    threshold: float = Field(description="a score at or over it is anomalous")
    review_threshold: float = Field(description="a score from here to the threshold is for review")
    rests_on: str = Field(description="what the threshold rests on")
    pretrained: bool = Field(description="false: untrained weights, for demonstrations")


class Histogram(BaseModel):
    """Scores of good images that the model has not seen: as many edges as counts, and one."""

    edges: list[float]
    counts: list[int]


class CategoryDetails(CategoryAnswer):
    """The same with its card and what its thresholds were found on."""

    card: str = Field(description="for people, as Markdown")
    histogram: Histogram


class Readiness(BaseModel):
    """Whether the endpoint can score."""

    ready: bool
    models: dict[str, str] = Field(description="category to the version that scores")
    broken: dict[str, str] = Field(description="category to a version that should be in use and cannot be; the old one goes on")


def json_of(answer: Answer, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `ScoreAnswer`, with values as JSON has them; floats keep every bit."""
    row = {name: _plain(value) for name, value in answer.row.items()}
    return row | {"map": _map_of(answer.map), "metadata": dict(metadata), "milliseconds": dict(answer.milliseconds)}


def _plain(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return dict(value) if isinstance(value, list) else value  # Arrow gives a map as pairs


def _map_of(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    height, width = found["map_height"], found["map_width"]
    values = found.get("gradient_map")
    png = found.get("overlay_png")
    return {
        "height": height,
        "width": width,
        "kind": found["map_kind"],
        "values": None if values is None else np.frombuffer(values, "<f2").reshape(height, width).tolist(),
        "png": None if png is None else base64.b64encode(png).decode("ascii"),
    }


def category_of(record: Mapping[str, Any]) -> CategoryAnswer:
    """What a model's record says of it."""
    decision, recipe, transforms = record["decision"], record["recipe"], record["transforms"]["angles"]
    return CategoryAnswer(
        category=record["category"],
        version=record["version"],
        digest=record["digest"],
        fitted_at=record["created_at"],
        image_size=recipe["extractor"]["image_size"],
        n_transforms=len(transforms),
        fewer_transforms=len(transforms) > 1 and not recipe["transforms"].get("pooled", False),
        map_kind=recipe["maps"].get("map_kind", "gradient"),
        threshold=decision["threshold"],
        review_threshold=decision["review_threshold"],
        rests_on=decision["statement"],
        pretrained=record["backbone"]["pretrained"],
    )

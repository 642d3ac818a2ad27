"""What the OpenAPI document says of requests and answers, with examples."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from differnet_ray.online.answers import ScoreAnswer
from differnet_ray.online.bodies import FORM, RAW_TYPES
from differnet_ray.online.options import MAX_IMAGES, MAX_METADATA
from differnet_ray.online.problems import ProblemDetails
from differnet_ray.queries import MAP_FORMS

DESCRIPTION = (
    "Scores images of parts by the models of a store. The same image and model give the same row as the batch job, to the last "
    "digit. Errors are `application/problem+json`; every answer has an `X-Request-ID`."
)
_WHY = {
    400: "a parameter or the form is wrong",
    401: "no valid token",
    404: "no such category",
    405: "no such method",
    408: "the request came in too slowly",
    411: "the request states no length",
    413: "the request is too large",
    415: "Content-Type is no image and no form",
    422: "the image cannot be used; `image_status` and `detail` are what its row in the tables would have",
    429: "too many images wait; try again after `Retry-After` seconds",
    503: "the model cannot be loaded now, or no scorer is there",
    504: "no answer in time",
}
LONGEST_CATEGORY = 100  # characters
TRANSFORMS = "^[1-9][0-9]{0,3}$"
_FIELDS: dict[str, Any] = {
    "category": {"type": "string", "maxLength": LONGEST_CATEGORY, "examples": ["screw"]},
    "map": {"type": "string", "enum": list(MAP_FORMS)},
    "transforms": {"type": "string", "pattern": TRANSFORMS},
    "metadata": {
        "type": "string",
        "maxLength": MAX_METADATA,
        "description": "a JSON object of texts",
        "examples": ['{"line": "3"}'],
    },
}
_FILE = {"type": "string", "format": "binary"}
Result = create_model("Result", __base__=ScoreAnswer, filename=(str, ...))
BatchAnswer = create_model("BatchAnswer", __doc__="A row for each image, in order.", results=(list[Result], ...))  # type: ignore[valid-type]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a path, for its `responses`."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": _WHY[status], "content": content} for status in statuses}


def _form(files: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {**files, **_FIELDS},
        "required": required,
        "additionalProperties": False,
    }
    return {FORM: {"schema": schema}}


_RAW = {kind: {"schema": _FILE} for kind in RAW_TYPES}
_REFUSED = (400, 401, 404, 408, 411, 413, 415, 422, 429, 503, 504)
ONE: dict[str, Any] = {
    "responses": problems(*_REFUSED),
    "openapi_extra": {"requestBody": {"required": True, "content": {**_RAW, **_form({"image": _FILE}, ["image"])}}},
}
BATCH: dict[str, Any] = {
    "responses": problems(*(status for status in _REFUSED if status != 422)),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": _form({"images": {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_IMAGES}}, ["images"]),
        }
    },
}

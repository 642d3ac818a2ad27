"""BRIDGE from an image file in hand to its row: the stages of the scoring job, for one image at a time.

    Query -> decoders -> with_pixels -> ScoreImages -> MapGradients -> Answer

An image is a batch of its own in the model, so the row is the batch job's to the bit, whatever else is scored beside it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from differnet_ray.archives.decoders import Decoders
from differnet_ray.archives.fetch import with_pixels
from differnet_ray.archives.images import DecodedImage
from differnet_ray.archives.index import image_id
from differnet_ray.config import ImageForm
from differnet_ray.errors import ConfigError, DifferNetError, ImageError, ModelStoreError
from differnet_ray.pipeline.served_models import ServedModels
from differnet_ray.pipeline.stages import MapGradients, ScoreImages, check_transforms
from differnet_ray.queries import Answer, Problem, Query
from differnet_ray.tables import MANIFEST, SCORES, conform

_MAP_COLUMNS = ("map_height", "map_width", "map_kind")
RETRY_AFTER = 10  # seconds, where a model cannot be loaded


class ScoreQuery:
    """Answers queries by the models in use; for any thread.

    Args:
        models: in use.
        decoders: which decode, with their limits.
    """

    def __init__(self, models: ServedModels, decoders: Decoders) -> None:
        self._models, self._decoders = models, decoders

    def __call__(self, query: Query, came: float) -> Answer:
        """The answer.

        Args:
            query: what is asked.
            came: when, by `time.perf_counter` of this process.

        Raises:
            Problem: no such category (404), no model that could be loaded (503), or not so many transforms (400).
        """
        times = {"wait": 1000 * (time.perf_counter() - came)}
        with _measured(times, "load"):
            try:
                stored = self._models.get(query.category).stored
                check_transforms(query.category, stored.transforms, stored.recipe, query.n_transforms)
            except KeyError as error:
                raise Problem(404, f"there is no category {query.category!r}; GET /v1/categories lists them") from error
            except ConfigError as error:
                raise Problem(400, str(error)) from error
            except ModelStoreError as error:
                raise Problem(503, f"the model of {query.category!r} is damaged", RETRY_AFTER) from error
            except DifferNetError as error:
                raise Problem(503, f"the model of {query.category!r} cannot be read now", RETRY_AFTER) from error
        where: dict[str, Any] = {
            "models": self._models.cache.store.uri,
            "versions": {query.category: stored.version},
            "device": self._models.cache.device,
            "cache": self._models.cache,
            "overlays": query.map == "png",
        }
        today = datetime.now(UTC).date()
        score = ScoreImages(
            n_transforms=query.n_transforms,
            maps="none" if query.map == "none" else "all",
            dt=today,
            run_id=f"online-{today}",
            **where,
        )
        with _measured(times, "decode"):
            image = self._decoded(query.image, stored.recipe.image_form)
            rows = with_pixels(_manifest(query), [image])
        with _measured(times, "score"):
            rows = score(rows)
        with _measured(times, "map"):
            (row,) = MapGradients(**where)(rows).to_pylist()
        return Answer({name: row[name] for name in SCORES.schema.names}, _map(row, query), times)

    def _decoded(self, data: bytes, form: ImageForm) -> DecodedImage | ImageError:
        try:
            return self._decoders.decode(data, form)
        except ImageError as error:
            return error


@contextmanager
def _measured(times: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        times[stage] = 1000 * (time.perf_counter() - began)


def _manifest(query: Query) -> pa.Table:
    """A row of `tables.MANIFEST` for an image without a place: its content names it."""
    uri = f"sha256:{hashlib.sha256(query.image).hexdigest()}"
    row = {
        "image_id": image_id(uri),
        "uri": uri,
        "category": query.category,
        "size": len(query.image),
        "attributes": list(query.attributes.items()),
    }
    return conform(pa.Table.from_pylist([row], schema=MANIFEST.schema), MANIFEST.schema)


def _map(row: dict[str, Any], query: Query) -> dict[str, Any] | None:
    if query.map == "none" or row["gradient_map"] is None:
        return None
    wanted = "overlay_png" if query.map == "png" else "gradient_map"
    return {name: row[name] for name in (*_MAP_COLUMNS, wanted)}

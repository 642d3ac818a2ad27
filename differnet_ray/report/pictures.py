"""Images of scored rows as small pictures inside a page, beside the same with the gradient map over it.

A picture is what was scored, or none: a file that has been replaced since has another etag, and is not shown in its place.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from differnet_ray import results
from differnet_ray.archives.fetch import decoded_images
from differnet_ray.archives.images import DecodedImage
from differnet_ray.config import GreyRange, ImageForm
from differnet_ray.errors import DifferNetError, UnavailableError
from differnet_ray.report.run_rows import ScoreRow
from differnet_ray.results.overlay import VMAX, blend

SIDE = 256  # pixels of the longer side
QUALITY = 82  # of JPEG: some ten kilobytes a picture, a tenth of its PNG


@dataclass(frozen=True)
class Picture:
    """A scored image for a page.

    Attributes:
        row: of the image.
        image, overlay: `data:` URIs; the overlay is empty where the row has no gradient map, both where the image is gone.
        width, height: in pixels.
        reason: why the image cannot be shown, or empty.
    """

    row: ScoreRow
    image: str = ""
    overlay: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


def pictures(
    output: str, dt: str, run_id: str, category: str, rows: Sequence[ScoreRow], grey_range: GreyRange | None = None
) -> list[Picture]:
    """Reads the images of some rows of a category, and their gradient maps of this run.

    Args:
        output: canonical URI of the results.
        dt: day of the run's partition.
        run_id: of the rows.
        category: of the rows.
        rows: in the order of the pictures.
        grey_range: of the model that scored them, where that is known.
    """
    if not rows:
        return []
    maps = _maps(output, dt, run_id, category, [row.image_id for row in rows])
    by_place = sorted(rows, key=lambda row: (row.uri, row.member or ""))  # an archive is opened once for all its members
    found = {
        row.image_id: _picture(row, image, maps.get(row.image_id))
        for row, image in zip(by_place, _images(by_place, grey_range), strict=False)
    }
    return [found[row.image_id] for row in rows]


def _maps(output: str, dt: str, run_id: str, category: str, image_ids: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
    wanted = (pc.field("run_id") == run_id) & pc.field("image_id").isin(pa.array(image_ids, pa.string()))
    columns = ["image_id", "map_height", "map_width", "gradient_map"]
    try:
        rows = results.maps(output, date=dt, category=category).to_table(columns=columns, filter=wanted)
    except FileNotFoundError:  # a run without maps
        return {}
    return {row["image_id"]: results.as_array(row) for row in rows.to_pylist()}


def _images(rows: Sequence[ScoreRow], grey_range: GreyRange | None) -> Iterator[DecodedImage | DifferNetError]:
    none = pa.nulls(len(rows), pa.int64())
    named = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in ("uri", "member", "etag")}
    try:
        forms = repeat(ImageForm(SIDE, grey_range), len(rows))
        yield from decoded_images(pa.table({**named, "offset": none, "size": none}), forms)
    except UnavailableError as error:  # the report is made of the rows: it is no reason to have none
        yield from repeat(error)


def _picture(row: ScoreRow, image: DecodedImage | DifferNetError, gradient_map: NDArray[np.float32] | None) -> Picture:
    if isinstance(image, DifferNetError):
        return Picture(row, reason=str(image))
    longer = max(image.width, image.height)
    size = (max(1, round(SIDE * image.width / longer)), max(1, round(SIDE * image.height / longer)))
    upright = Image.fromarray(image.pixels).resize(size, Image.Resampling.LANCZOS)  # decoding makes a square
    over = "" if gradient_map is None else _jpeg(Image.fromarray(blend(np.asarray(upright), gradient_map, VMAX)))
    return Picture(row, _jpeg(upright), over, *size)


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

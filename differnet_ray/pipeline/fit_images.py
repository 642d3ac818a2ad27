"""BRIDGE: the images that a category is fitted on: which of them can be used, and the grey range that they share.

Both are found out once, before a fit, and noted beside its checkpoints: every later read of the images is then the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from differnet_ray.archives.fetch import decoded_images
from differnet_ray.archives.grey import ANY_VALUES, GreyValues, common_range
from differnet_ray.archives.images import DecodedImage
from differnet_ray.config import GreyRange, ImageForm
from differnet_ray.errors import DifferNetError, ImageError, StorageError
from differnet_ray.pipeline.fit_state import FitProgress


@dataclass(frozen=True)
class FitImages:
    """What the good images of a category are like.

    Attributes:
        skipped: images that cannot be used: name to reason.
        grey_range: the values that are black and white; None where all images have 8 bits.
        notes: what people should know of it.
    """

    skipped: dict[str, str]
    grey_range: GreyRange | None = None
    notes: tuple[str, ...] = ()


def look_at_images(rows: pa.Table, form: ImageForm, on_progress: Callable[[FitProgress], None]) -> FitImages:
    """Decodes the images that manifest rows name, and finds their grey range where the form has none.

    Raises:
        FitError: images of more than 8 bits have no common range.
        StorageError: as of `usable_images`.
    """
    skipped: dict[str, str] = {}
    greys: dict[str, GreyValues] = {}
    looking = form if form.grey_range else replace(form, grey_range=ANY_VALUES)
    for done, (name, image) in enumerate(usable_images(rows, looking), 1):
        if isinstance(image, str):
            skipped[name] = image
        elif image.grey is not None:
            greys[name] = image.grey
        on_progress(FitProgress("read", done, rows.num_rows))
    if form.grey_range:
        n_clipped = sum(grey.outside > 0 for grey in greys.values())
        low, high = form.grey_range
        clipped = f"{n_clipped} of {rows.num_rows} images have grey values outside of {low:g} to {high:g}, which are clipped"
        return FitImages(skipped, form.grey_range, (clipped,) if n_clipped else ())
    if not greys:
        return FitImages(skipped)
    found, note = common_range(list(greys.values()))
    low, high = found
    for name, grey in greys.items():
        if grey.lowest < low:
            skipped[name] = (
                f"unsupported: grey values run from {grey.lowest:g} to {grey.highest:g}; expected {low:g} or more, or fit with "
                "--grey-range LOW:HIGH"
            )
    return FitImages(skipped, found, (note,) if note else ())


def usable_images(rows: pa.Table, form: ImageForm) -> Iterator[tuple[str, DecodedImage | str]]:
    """Reads the images that manifest rows name, in order.

    Yields:
        The image's name, and the image or the reason why it cannot be used.

    Raises:
        StorageError: an image cannot be fetched: that says nothing of the image, and a fit without it would be another.
    """
    images = decoded_images(rows, [form] * rows.num_rows)
    for name, image in zip(image_names(rows), images, strict=True):
        if isinstance(image, StorageError):
            raise image
        if isinstance(image, ImageError) and image.status == "missing":
            raise StorageError(f"{name} was listed, but is no longer there: run the same command again")
        yield name, str(image) if isinstance(image, DifferNetError) else image


def image_names(rows: pa.Table) -> list[str]:
    """What people call the images of manifest rows: the URI, with the member after it where there is one."""
    members = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), strict=True)
    return [uri if member is None else f"{uri}/{member}" for uri, member in members]

"""Grey of more than 8 bits: what a file holds and says of it, and the range that the images of a category share.

A camera of 12 bits writes files of 16 bits whose values end at 4,095; scaled by 65,535 they have 17 levels. Two statements
look like the range and may not be: MaxSampleValue of a TIFF is by its definition the largest value of that one image, and
values of a PNG with sBIT are by the standard spread over all 16 bits. So a statement counts only where all images of a
category make it and none exceeds it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from differnet_ray.config import GreyRange
from differnet_ray.errors import FitError

ANY_VALUES: Final[GreyRange] = (-1e30, 1e30)  # refuses none but NaN and infinite ones: to look at values, not at pixels
_BITS, _LOWEST, _HIGHEST = 258, (340, 280), (341, 281)  # tags of TIFF: BitsPerSample, SMin- and MinSampleValue, SMax- and Max-


@dataclass(frozen=True)
class GreyValues:
    """The grey values of an image of more than 8 bits, in counts of the camera or whatever the file has.

    Attributes:
        lowest, highest: of its pixels that are not transparent.
        full: the largest value of its type: 65,535, or 1 of floats.
        stated: black and white by the file's own word; None where it has none.
        outside: share of the pixels that were clipped.
    """

    lowest: float
    highest: float
    full: float
    stated: GreyRange | None
    outside: float


def stated_range(image: ImageFile.ImageFile, data: bytes) -> GreyRange | None:
    """What a grey image file says of its range: TIFF SMaxSampleValue, MaxSampleValue, 9 to 15 BitsPerSample, or PNG sBIT.

    Args:
        image: opened.
        data: the whole file.

    Returns:
        Black and white: black is 0 unless the file states a negative value. None where it says nothing that makes sense.
    """
    lowest: float | None = None
    highest: float | None = None
    if isinstance(image, TiffImageFile):
        stated_bits = _number(image.tag_v2.get(_BITS))
        lowest, highest = (
            next((number for tag in tags if (number := _number(image.tag_v2.get(tag))) is not None), None)
            for tags in (_LOWEST, _HIGHEST)
        )
        if highest is None and stated_bits is not None and 8 < stated_bits < 16:
            highest = 2**stated_bits - 1
    elif isinstance(image, PngImageFile) and (significant := _significant_bits(data)):
        highest = 2.0**significant - 1
    low = min(0.0, lowest or 0.0)
    return None if highest is None or highest <= low else (low, highest)


def common_range(images: Sequence[GreyValues]) -> tuple[GreyRange, str]:
    """The range for the images of a category: the files' own word, else the bit depth of the largest value of all of them.

    Args:
        images: of more than 8 bits, at least one.

    Returns:
        Black and white, and what people should know of it: empty where the files state it, or where it is that of their type.

    Raises:
        FitError: some are integers and some floats of another range.
    """
    statements = {image.stated for image in images}
    stated = next(iter(statements)) if len(statements) == 1 else None
    if stated is not None and all(stated[0] <= image.lowest and image.highest <= stated[1] for image in images):
        return stated, ""
    largest = {full: max(image.highest for image in images if image.full == full) for full in {image.full for image in images}}
    depths = {full: max(8 if full > 1 else 1, math.ceil(highest).bit_length()) for full, highest in largest.items()}
    if len(set(depths.values())) > 1:
        raise FitError(
            f"integer grey values up to {largest[65535.0]:g} and float ones up to {largest[1.0]:g} have no common range: "
            "expected images of one kind; convert some, or give --grey-range LOW:HIGH"
        )
    (depth,) = set(depths.values())
    found = (0.0, 2.0**depth - 1)
    if depths.keys() == {found[1]}:
        return found, ""
    why = "state no range of grey values" if statements == {None} else "state ranges of grey values that differ or do not hold"
    return found, (
        f"the images {why}; the largest value of the {len(images)} with more than 8 bits is {max(largest.values()):g}, so "
        f"{depth} bits are taken: 0 is black, {found[1]:.0f} white. If that is wrong, fit with --grey-range LOW:HIGH"
    )


def _number(value: Any) -> float | None:
    """The largest of the values of a tag; None where it is no finite number."""
    try:
        number = float(np.max(value))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _significant_bits(data: bytes) -> int:
    """Bits of the grey values before they were written, by the chunk sBIT of a PNG; 0 where it has none."""
    at, kind = 8, b""
    while kind != b"IDAT":
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"sBIT" and length:
            return data[at + 8] if data[at + 8] <= 16 else 0
        at += 12 + length
    return 0

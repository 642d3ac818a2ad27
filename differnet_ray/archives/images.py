"""The bytes of one image file become RGB pixels, or an `ImageError` that says why they cannot.

What a file is follows from its first bytes, never from its name. JPEG, PNG, BMP, TIFF, WEBP and PPM (PBM, PGM) are read; of
several frames or pages, the first. Nothing here changes the state of Pillow, so threads may decode side by side.

Transparent parts show white, as in most viewers. Grey of more than 8 bits is resized with all its values, and then scaled by
the range that a model has, else by that of its type (65,535, or 1 of floats). Pillow converts the other modes, of 16-bit
colour it keeps the upper 8 bits. ICC profiles are ignored.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from differnet_ray.archives.grey import GreyValues, stated_range
from differnet_ray.config import GreyRange
from differnet_ray.errors import ImageError

# Pillow's readers are called directly: `Image.open` compares with the process-wide `Image.MAX_IMAGE_PIXELS`, and warns.
_READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    str(reader.format): reader
    for reader in (JpegImageFile, PngImageFile, BmpImageFile, TiffImageFile, WebPImageFile, PpmImageFile)
}
MAX_BYTES: Final = 100 * 2**20  # of an image file
MAX_PIXELS: Final = 100_000_000
_EXPECTED: Final = "expected " + ", ".join(_READERS)

# The first bytes of the formats above, and of others that are only named: no reader of theirs sees the data.
_SIGNATURE: Final = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<BMP>BM)|(?P<TIFF>(?:II|MM)(?:[*+]\0|\0[*+]))"
    rb"|(?P<WEBP>RIFF.{4}WEBP)|(?P<GIF>GIF8[79]a)|(?P<AVIF>.{4}ftypavi[fs])|(?P<HEIF>.{4}ftyp(?:he[iv]|mif|msf))"
    rb"|(?P<JPEG2000>\0{3}\x0cjP  |\xff\x4f\xff\x51)|(?P<JPEGXL>\0{3}\x0cJXL |\xff\x0a)|(?P<PSD>8BPS)|(?P<DDS>DDS )"
    rb"|(?P<ICO>\0\0\x01\0)|(?P<ICNS>icns)|(?P<PPM>P[1-6]\s)|(?P<PAM>P7\s)|(?P<QOI>qoif)|(?P<SGI>\x01\xda)|(?P<FITS>SIMPLE  =)"
    rb"|(?P<EPS>%!PS|\xc5\xd0\xd3\xc6)|(?P<PDF>%PDF-)",
    re.DOTALL,
)

# What turns an image of EXIF orientation 2, 3, ... 8 upright.
_TURNS: Final = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
_UPRIGHT: Final = {orientation: Image.Transpose[turn] for orientation, turn in enumerate(_TURNS.split(), start=2)}

_WARNING_FILTERS: Final = threading.Lock()


@dataclass(frozen=True)
class DecodedImage:
    """One image, ready for the model.

    Attributes:
        pixels: (size, size, 3) uint8, RGB, C-contiguous.
        width: of the original in pixels, upright (after EXIF orientation).
        height: of the original in pixels, upright.
        grey: what its values were; None where they have 8 bits.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    grey: GreyValues | None = None


def decode(
    data: bytes,
    *,
    size: int,
    grey_range: GreyRange | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> DecodedImage:
    """Decodes an image file, turns it upright and resizes it to a square with an antialiased bilinear filter.

    The aspect ratio is not kept, as in DifferNet (Rudolph et al., WACV 2021).

    Args:
        data: the whole file.
        size: side of the result, in pixels, at least 1.
        grey_range: grey values of more than 8 bits that become 0 and 255; what lies outside is clipped. None: 0 to 65,535, or
            0 to 1 of floats; what lies outside is refused.
        max_bytes: a longer file is refused unread.
        max_pixels: an image of more pixels (width x height) is refused before it is decoded.

    Raises:
        ImageError: with status `too_large` (a limit, or memory), `unsupported` (another format or range of values) or
            `unreadable` (empty, damaged, incomplete, or no image); the exception of Pillow, if any, is its cause.
        ValueError: if `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    if not data:
        raise ImageError("unreadable", "the file is empty (0 bytes)")
    check_size(len(data), max_bytes)
    if (signature := _SIGNATURE.match(data)) is None:
        raise ImageError("unreadable", f"the file is not an image: it begins with {data[:12]!r}; {_EXPECTED}")
    if (kind := str(signature.lastgroup)) not in _READERS:
        raise ImageError("unsupported", f"the file is of format {kind}; {_EXPECTED}")
    try:
        with _READERS[kind](io.BytesIO(data)) as image:
            n_pixels = image.width * image.height
            if n_pixels > max_pixels:
                found = f"{image.width} x {image.height} = {n_pixels:,} pixels"
                raise ImageError("too_large", f"the image has {found}, more than the limit of {max_pixels:,}")
            with _no_bomb_warning(n_pixels):
                image.load()
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image if turn is None else image.transpose(turn)
            if image.mode == "F" or image.mode.startswith("I"):
                pixels, grey = _from_grey(upright, size, grey_range, stated_range(image, data))
            else:
                pixels, grey = np.array(_to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR)), None
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError("too_large", f"the {kind} needs too much memory: {str(error) or 'none is left'}") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: struct.error, KeyError, zlib.error
        found = str(error) or type(error).__name__
        raise ImageError("unreadable", f"the {kind} file is damaged or incomplete: {found}") from error
    return DecodedImage(pixels, upright.width, upright.height, grey)


def check_size(n_bytes: int, max_bytes: int = MAX_BYTES) -> None:
    """Refuses an image file for its size alone, so that a larger one need not be read.

    Raises:
        ImageError: with status `too_large`.
    """
    if n_bytes > max_bytes:
        raise ImageError("too_large", f"the file has {n_bytes:,} bytes, more than the limit of {max_bytes:,}")


@contextmanager
def _no_bomb_warning(n_pixels: int) -> Iterator[None]:
    """Silences the warning about images over Pillow's own limit, which the TIFF reader gives by itself; ours holds."""
    if n_pixels <= (Image.MAX_IMAGE_PIXELS or n_pixels):
        yield
        return
    # Filters belong to the process: one thread at a time may change them, and only for images as rare as these.
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded image of 8 bits or fewer a channel to mode RGB."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba := image.convert("RGBA"), mask=rgba)
    return white


def _from_grey(
    image: Image.Image, size: int, grey_range: GreyRange | None, stated: GreyRange | None
) -> tuple[npt.NDArray[np.uint8], GreyValues]:
    """Resizes grey of 16 bits and more, or floats, and only then makes 8 bits of it, where `convert` would clip.

    Raises:
        ImageError: its values are not finite; or there is no range, and they are outside of their type's.
    """
    values, full = np.asarray(image), 1.0 if image.mode == "F" else 65535.0
    low, high = grey_range or (0.0, full)
    hole = values == image.info["transparency"] if "transparency" in image.info else None  # a PNG may declare one value so
    seen = values if hole is None else values[~hole]
    lowest, highest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    inside = low <= lowest and highest <= high
    if not inside and (grey_range is None or not math.isfinite(lowest + highest)):  # a NaN is the lowest and the highest
        expected = f"0 to {full:g}, or another range by fit --grey-range" if grey_range is None else "finite numbers"
        raise ImageError("unsupported", f"grey values run from {lowest:g} to {highest:g}; expected {expected}")
    outside = 0.0 if inside else np.count_nonzero((seen < low) | (seen > high)) / seen.size
    precise = values.astype(np.float32)
    np.clip(precise, low, high, out=precise)  # before resizing: a hot pixel is white, and does not spread
    if hole is not None:
        precise[hole] = high
    small = np.asarray(Image.fromarray(precise).resize((size, size), Image.Resampling.BILINEAR), np.float64)
    grey = np.rint((small - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), GreyValues(lowest, highest, full, stated, outside)

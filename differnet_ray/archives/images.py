"""The bytes of one image file become RGB pixels, or an `ImageError` that says why they cannot.

What a file is follows from its first bytes, never from its name. JPEG, PNG, BMP, TIFF, WEBP and PPM (PBM, PGM) are read; of
several frames or pages, the first. Nothing here changes the state of Pillow, so threads may decode side by side.

Transparent parts show white, as in most viewers. 16-bit grey is scaled by its full range (value / 257, so that bright
parts keep their detail), float grey by [0, 1]. Pillow converts the other modes. ICC profiles are ignored.
"""

from __future__ import annotations

import io
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

from differnet_ray.errors import ImageError

# Pillow's readers are called directly: `Image.open` compares with the process-wide `Image.MAX_IMAGE_PIXELS`, and warns.
_READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    str(reader.format): reader
    for reader in (JpegImageFile, PngImageFile, BmpImageFile, TiffImageFile, WebPImageFile, PpmImageFile)
}
MAX_BYTES: Final = 100 * 2**20  # of an image file
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
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, *, size: int, max_bytes: int = MAX_BYTES, max_pixels: int = 100_000_000) -> DecodedImage:
    """Decodes an image file, turns it upright and resizes it to a square with an antialiased bilinear filter.

    The aspect ratio is not kept, as in DifferNet (Rudolph et al., WACV 2021).

    Args:
        data: the whole file.
        size: side of the result, in pixels, at least 1.
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
            rgb = _to_rgb(image if turn is None else image.transpose(turn))
            pixels = np.array(rgb.resize((size, size), Image.Resampling.BILINEAR))
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError("too_large", f"the {kind} needs too much memory: {str(error) or 'none is left'}") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: struct.error, KeyError, zlib.error
        found = str(error) or type(error).__name__
        raise ImageError("unreadable", f"the {kind} file is damaged or incomplete: {found}") from error
    return DecodedImage(pixels, rgb.width, rgb.height)


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
    """Converts a loaded image of any mode to mode RGB; raises ImageError where its values have no known range."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba := image.convert("RGBA"), mask=rgba)
    return white


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits or floats to 8 bits, where `convert` would clip; raises ImageError as `_to_rgb` does."""
    values = np.asarray(image)
    top, lowest, highest = 1 if image.mode == "F" else 65535, values.min(), values.max()
    if not (lowest >= 0 and highest <= top):  # also true of NaN
        raise ImageError("unsupported", f"grey values run from {lowest:g} to {highest:g}; expected 0 to {top}")
    grey = np.rint(values * np.float32(255 / top)).astype(np.uint8)
    if "transparency" in image.info:  # a PNG may declare one value to be transparent
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")

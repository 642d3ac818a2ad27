"""Image files for the tests, built byte by byte (PNG, TIFF) wherever Pillow's own writer would make a test circular."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from differnet_ray.archives.images import decode
from differnet_ray.errors import ImageError

Array = npt.NDArray[Any]


def scene(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Returns random RGB pixels (height, width, 3), uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns smooth RGB pixels that survive JPEG compression and look different in every orientation."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1).astype(np.uint8)


def png(values: Array, depth: int, colour_type: int, *extra: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG file of values (H, W) or (H, W, C); `extra` chunks go before the pixels."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    if depth == 1:
        packed = [np.packbits(row.astype(np.uint8)).tobytes() for row in rows]
    else:
        packed = [row.astype(f">u{depth // 8}").tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiff(*pages: Array, photometric: int = 1, order: str = "<", orientation: int = 1) -> bytes:
    """Returns an uncompressed TIFF file with one page for each array (H, W) or (H, W, C)."""
    file = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    for number, page in enumerate(pages):
        (height, width), channels = page.shape[:2], page.shape[2] if page.ndim == 3 else 1
        pixels = page.astype(page.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
        bits = struct.pack(order + f"{channels}H", *[8 * page.itemsize] * channels)
        at_bits = len(file) + 2 + 11 * 12 + 4
        at_pixels = at_bits + len(bits)
        inline = int.from_bytes(bits.ljust(4, b"\0"), "little" if order == "<" else "big")
        sample_format = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        bits_field = at_bits if len(bits) > 4 else inline
        fields = [(256, width), (257, height), (258, bits_field), (259, 1), (262, photometric), (273, at_pixels)]
        fields += [(274, orientation), (277, channels), (278, height), (279, len(pixels)), (339, sample_format)]
        file += struct.pack(order + "H", len(fields))
        for tag, value in fields:
            if tag == 258:
                file += struct.pack(order + "HHII", tag, 3, channels, value)
            else:
                file += struct.pack(order + "HHII", tag, 4, 1, value)
        end = at_pixels + len(pixels)
        file += struct.pack(order + "I", end if number + 1 < len(pages) else 0) + bits + pixels
    return bytes(file)


def saved(pixels: Array | Image.Image, format: str, **options: Any) -> bytes:
    """Returns the file that Pillow writes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refused(data: bytes, **limits: int) -> ImageError:
    """Returns the error with which `decode` refuses a file."""
    with pytest.raises(ImageError) as caught:
        decode(data, size=8, **limits)
    return caught.value


def grey(values: Array) -> Array:
    """Returns (H, W) repeated to (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=-1)


def exif(orientation: int) -> bytes:
    """Returns an EXIF block that holds nothing but an orientation."""
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)


VALID = {
    "JPEG": saved(smooth(24, 16), "JPEG", quality=95, subsampling=0),
    "PNG": saved(smooth(24, 16), "PNG"),
    "BMP": saved(smooth(24, 16), "BMP"),
    "TIFF": saved(smooth(24, 16), "TIFF"),
    "WEBP": saved(smooth(24, 16), "WEBP", lossless=True),
    "PPM": saved(smooth(24, 16), "PPM"),
}

SIXTEEN_BITS = np.array([[0, 255, 256, 257], [385, 386, 32767, 32768], [40000, 65278, 65407, 65535], [0] * 4])

PALETTE = scene(1, 4, seed=1)[0]
INDICES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 2, 2], [0, 3, 0, 3]])

"""Images are decoded to the right pixels.

Expected pixels come from numpy. Where the size does not change, pixels are compared as they are; resizing has a test of
its own.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from image_files import (
    INDICES,
    PALETTE,
    SIXTEEN_BITS,
    VALID,
    Array,
    exif,
    grey,
    png,
    refused,
    saved,
    scene,
    smooth,
    tiff,
)
from PIL import Image

from differnet_ray.archives.images import decode


@pytest.mark.parametrize(("name", "data"), VALID.items(), ids=VALID)
def test_every_allowed_format_is_decoded(name: str, data: bytes) -> None:
    image = decode(data, size=24)
    assert (image.width, image.height) == (16, 24)
    assert image.pixels.shape == (24, 24, 3)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    expected = bilinear(smooth(24, 16), 24)
    assert np.abs(image.pixels.astype(int) - expected).max() <= (6 if name == "JPEG" else 1)


def bilinear(pixels: Array, size: int) -> Array:
    """Resizes (H, W, 3) to (size, size, 3) with a triangle filter as wide as one pixel of the coarser grid."""
    for axis in (0, 1):
        length = pixels.shape[axis]
        scale = max(length / size, 1.0)
        centres = (np.arange(size)[:, None] + 0.5) * length / size
        weights = np.maximum(0, 1 - np.abs(np.arange(length)[None] + 0.5 - centres) / scale)
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, axes=(1, axis)), 0, axis)
    return pixels


@pytest.mark.parametrize(("height", "width"), [(64, 40), (7, 50), (5, 9), (16, 16)])
def test_resizing_is_bilinear_and_antialiased(height: int, width: int) -> None:
    pixels = scene(height, width)
    decoded = decode(png(pixels, 8, 2), size=16).pixels
    assert np.abs(decoded - bilinear(pixels, 16)).max() <= 1.01  # Pillow rounds after each axis


def test_a_fine_checkerboard_becomes_grey() -> None:
    board = grey((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))
    inner = decode(png(board, 8, 2), size=8).pixels[1:-1, 1:-1].astype(int)
    assert np.abs(inner - 127).max() <= 2  # without antialiasing it would be black or white


def test_one_pixel() -> None:
    image = decode(png(np.array([[[10, 200, 30]]]), 8, 2), size=5)
    assert (image.width, image.height) == (1, 1)
    assert (image.pixels == [10, 200, 30]).all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(SIXTEEN_BITS, 16, 0), id="png"),
        pytest.param(tiff(SIXTEEN_BITS.astype(np.uint16)), id="tiff"),
        pytest.param(tiff(SIXTEEN_BITS.astype(np.uint16), order=">"), id="big-endian tiff"),
        pytest.param(tiff(SIXTEEN_BITS.astype(np.int32)), id="32-bit tiff"),
    ],
)
def test_16_bit_grey_is_scaled_not_clipped(data: bytes) -> None:
    assert (decode(data, size=4).pixels == grey(np.round(SIXTEEN_BITS / 257))).all()


def test_16_bit_grey_with_a_transparent_value() -> None:
    pixels = decode(png(SIXTEEN_BITS, 16, 0, (b"tRNS", struct.pack(">H", 40000))), size=4).pixels
    assert (pixels == grey(np.where(SIXTEEN_BITS == 40000, 255, np.round(SIXTEEN_BITS / 257)))).all()


@pytest.mark.parametrize("values", [[[0, 65536], [1, 2]], [[0, 65535], [-1, 2]]])
def test_integers_beyond_16_bits_are_unsupported(values: list[list[int]]) -> None:
    error = refused(tiff(np.array(values, dtype=np.int32)))
    assert error.status == "unsupported"
    assert "expected 0 to 65535" in error.reason


def test_float_grey_of_unit_range() -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], dtype=np.float32)
    assert (decode(tiff(values), size=2).pixels == grey(np.array([[0, 64], [128, 255]]))).all()


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf")])
def test_float_grey_of_another_range_is_unsupported(value: float) -> None:
    error = refused(tiff(np.array([[0.0, value]], dtype=np.float32)))
    assert error.status == "unsupported"
    assert f"{value:g}" in error.reason
    assert "expected 0 to 1" in error.reason


def test_palette() -> None:
    assert (decode(png(INDICES, 8, 3, (b"PLTE", PALETTE.tobytes())), size=4).pixels == PALETTE[INDICES]).all()


@pytest.mark.parametrize("alphas", [(255, 0, 255, 255), (0, 255, 51, 204)])  # one transparent entry, or several levels
def test_palette_with_transparency_shows_white(alphas: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = png(INDICES, 8, 3, (b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes(alphas)))
        pixels = decode(data, size=4).pixels
    alpha = np.array(alphas)[:, None] / 255
    expected = (PALETTE * alpha + 255 * (1 - alpha))[INDICES]
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize("colour", [True, False])
def test_alpha_is_composited_over_white(colour: bool) -> None:
    colours = scene(4, 4) if colour else grey(scene(4, 4)[..., 0])
    alpha = np.resize([0, 255, 128, 60], (4, 4))[..., None]
    data = png(np.concatenate([colours if colour else colours[..., :1], alpha], axis=-1), 8, 6 if colour else 4)
    pixels = decode(data, size=4).pixels
    assert np.abs(pixels - (colours * (alpha / 255) + 255 * (1 - alpha / 255))).max() <= 1
    assert (pixels[:, 0] == 255).all()
    assert (pixels[:, 1] == colours[:, 1]).all()


def test_transparent_colour_shows_white() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 2, 3]]])
    decoded = decode(png(pixels, 8, 2, (b"tRNS", struct.pack(">3H", 1, 2, 3))), size=2).pixels
    assert decoded.tolist() == [[[255] * 3, [4, 5, 6]], [[7, 8, 9], [255] * 3]]


def test_one_bit() -> None:
    bits = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    assert (decode(png(bits, 1, 0), size=3).pixels == grey(bits * 255)).all()


def test_cmyk_jpeg() -> None:
    ink = (10, 200, 60, 40)
    data = saved(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100)
    assert b"Adobe" in data  # so the file holds inverted values
    expected = [(255 - c) * (255 - ink[3]) / 255 for c in ink[:3]]
    assert np.abs(decode(data, size=8).pixels - np.array(expected)).max() <= 3


def test_cmyk_tiff() -> None:
    ink = np.resize(np.array([0, 255, 60, 40], dtype=np.uint8), (4, 4, 4))
    expected = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    assert np.abs(decode(tiff(ink, photometric=5), size=4).pixels - expected).max() <= 1


def test_lab_tiff() -> None:
    lab = np.array([[[0, 0, 0], [255, 0, 0]], [[128, 0, 0], [138, 81, 70]]], dtype=np.uint8)  # a and b are signed
    pixels = decode(tiff(lab, photometric=8), size=2).pixels.astype(int)
    # CIE L* = 50.2 is sRGB 119; (54.1, 81, 70) is nearly pure red
    assert np.abs(pixels - [[[0, 0, 0], [255, 255, 255]], [[119, 119, 119], [255, 0, 0]]]).max() <= 12
    assert np.abs(pixels[:, 0] - pixels[:, 0, :1]).max() <= 2


# What a camera stores so that a viewer, following the orientation, shows the scene.
STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    upright = smooth(32, 16)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    if format == "PNG":
        data = png(stored, 8, 2, (b"eXIf", exif(orientation)))
    elif format == "TIFF":
        data = tiff(stored, photometric=2, orientation=orientation)
    else:
        best = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True}
        data = saved(stored, format, exif=b"Exif\0\0" + exif(orientation), **best)
    image = decode(data, size=16)
    assert (image.width, image.height) == (16, 32)
    assert np.abs(image.pixels - bilinear(upright, 16)).max() <= (6 if format == "JPEG" else 1.01)


def test_exif_orientation_of_16_bit_grey() -> None:
    data = png(np.rot90(SIXTEEN_BITS), 16, 0, (b"eXIf", exif(6)))
    assert (decode(data, size=4).pixels == grey(np.round(SIXTEEN_BITS / 257))).all()


def test_first_page_of_a_tiff() -> None:
    first, second = scene(4, 4, seed=1), scene(6, 6, seed=2)
    data = tiff(first, second, photometric=2)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    image = decode(data, size=4)
    assert (image.pixels == first).all()
    assert (image.width, image.height) == (4, 4)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.fromarray(scene(4, 4, seed=seed)) for seed in (1, 2)]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert (decode(data, size=4).pixels == scene(4, 4, seed=1)).all()


def test_icc_profile_is_ignored() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = png(scene(4, 4), 8, 2, (b"iCCP", b"x\0\0" + zlib.compress(profile)))
    assert (decode(data, size=4).pixels == scene(4, 4)).all()

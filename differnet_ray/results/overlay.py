"""Maps over their images, as people look at them.

Legend: H x W image pixels, h x w map cells. Map unit: 1.0 is what only 1 % of the pixels of good images exceed.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

VMAX = 4.0  # contours
PEAK_SHARE = 1 / 8
_INFERNO = (  # matplotlib's colour map from 0.4 to 1: without its near-blacks
    "#932567",
    "#a12b61",
    "#af315b",
    "#bd3753",
    "#c93f4a",
    "#d54940",
    "#df5436",
    "#e8612b",
    "#f06f1f",
    "#f57e14",
    "#f98e08",
    "#fb9e07",
    "#fbb014",
    "#fac128",
    "#f6d33f",
    "#f2e45d",
    "#f2f381",
    "#fcfea4",
)
MAP_COLOURS = np.stack(
    [
        np.interp(np.arange(256), np.linspace(0, 255, len(_INFERNO)).round(), channel)
        for channel in zip(*map(ImageColor.getrgb, _INFERNO), strict=True)
    ],
    axis=-1,
).astype(np.uint8)


def contour(gradient_map: NDArray[np.floating]) -> float:
    """The value that outlines a defect: 1, or an eighth of the largest one where that is more.

    Of a very anomalous image nearly all is over 1, its good parts too; what stands out there is near the peak.

    Args:
        gradient_map: (h, w) float, in map units.
    """
    return max(1.0, PEAK_SHARE * float(gradient_map.max()))


def overlay(pixels: NDArray[np.uint8], gradient_map: NDArray[np.floating], *, vmax: float = VMAX) -> bytes:
    """Blend a map into its image; where it is below its contour, hardly anything changes.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        gradient_map: (h, w) float, in map units; NaN counts as 0.
        vmax: multiple of the contour, above 1, from which colour and opacity no longer grow.

    Returns:
        PNG bytes, W x H pixels, as the image.

    Raises:
        ValueError: an array has another shape or type, or `vmax` is not above 1.
    """
    return png_bytes(blend(pixels, gradient_map, vmax))


def blend(pixels: NDArray[np.uint8], gradient_map: NDArray[np.floating], vmax: float) -> NDArray[np.uint8]:
    """The pixels of `overlay`."""
    if not vmax > 1:
        raise ValueError(f"vmax must be above 1, found {vmax}")
    if gradient_map.ndim != 2 or not gradient_map.size:
        raise ValueError(f"gradient_map must have shape (h, w), found {gradient_map.shape}")
    image = checked_image(pixels)
    field = np.nan_to_num(gradient_map, posinf=vmax).astype(np.float64)
    field = np.clip(field / contour(field), 0, vmax).astype(np.float32)
    level = np.asarray(Image.fromarray(field).resize(image.size, Image.Resampling.BILINEAR))
    strength = np.clip((level - 1) / (vmax - 1), 0, 1)
    alpha = (0.04 * np.minimum(level, 1) + 0.68 * strength**0.6)[..., None]
    colour = MAP_COLOURS[(255 * strength).astype(np.uint8)]
    blended: NDArray[np.float32] = np.rint((1 - alpha) * pixels + alpha * colour)
    return blended.astype(np.uint8)


def checked_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image of (H, W, 3) uint8 pixels; ValueError for others."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels must be uint8 of shape (H, W, 3), found {pixels.dtype} of shape {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()

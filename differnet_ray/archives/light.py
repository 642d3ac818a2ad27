"""How bright, contrasted and sharp a picture is: three numbers by which a changed lamp, lens or camera shows.

Legend: H x W pixels. All sums are of integers, so that they are the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

WHITE = 255


@dataclass(frozen=True)
class Light:
    """What a picture looks like as a whole, in fractions of white.

    Attributes:
        brightness: mean of its grey values (luma of ITU-R BT.601), 0 to 1.
        contrast: their standard deviation.
        sharpness: standard deviation of their Laplacian over four neighbours, a measure of focus (Pech-Pacheco et al. 2000).
            It depends on the size that the picture was resized to.
    """

    brightness: float
    contrast: float
    sharpness: float


def light_of(pixels: npt.NDArray[np.uint8]) -> Light:
    """Measures a picture.

    Args:
        pixels: (H, W, 3) uint8, RGB.

    Example:
        >>> light_of(np.full((4, 4, 3), 51, np.uint8))
        Light(brightness=0.2, contrast=0.0, sharpness=0.0)
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.int16)
    around = np.pad(grey, 1, mode="edge")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * grey
    return Light(int(grey.sum(dtype=np.int64)) / (WHITE * grey.size), _deviation(grey), _deviation(laplacian))


def _deviation(values: npt.NDArray[np.int16]) -> float:
    total, squares = int(values.sum(dtype=np.int64)), int(np.square(values, dtype=np.int32).sum(dtype=np.int64))
    return math.sqrt(values.size * squares - total**2) / (WHITE * values.size)

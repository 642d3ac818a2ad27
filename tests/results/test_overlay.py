"""A gradient map over its image shows where it is large, and leaves the rest as it is."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from differnet_ray.results.overlay import MAP_COLOURS, overlay

GREY = np.full((40, 60, 3), 120, dtype=np.uint8)


def opened(png: bytes) -> NDArray[np.int64]:
    """Decode to (H, W, 3) signed integers, so that differences do not wrap."""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image).astype(np.int64)


def test_the_colours_are_those_of_inferno_without_its_near_blacks() -> None:
    inferno = mpl.colormaps["inferno"](np.linspace(0.4, 1, 256), bytes=True)[:, :3]
    assert np.abs(MAP_COLOURS.astype(int) - inferno).max() <= 4


def test_overlay_shows_high_values_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)
    gradient_map = np.full((8, 12), 0.9, dtype=np.float32)
    gradient_map[2:5, 6:10] = 6.0
    shown = opened(overlay(pixels, gradient_map))
    assert shown.shape == pixels.shape
    change = np.abs(shown - pixels).max(axis=-1)
    assert change[25:45, 65:95].mean() > 60
    assert change[:, :50].max() <= 12
    assert np.array_equal(opened(overlay(pixels, np.zeros((1, 1)))), pixels)


@given(st.floats(0, 1e300), st.floats(0, 1e300), st.floats(1.1, 100))
@settings(deadline=None)
def test_overlay_grows_with_the_value(one: float, other: float, vmax: float) -> None:
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    low, high = (opened(overlay(black, np.full((1, 1), v), vmax=vmax)).sum() for v in sorted([one, other]))
    assert low <= high + 3


@pytest.mark.parametrize("value", [math.nan, -1.0, -math.inf])
def test_overlay_of_no_value_is_the_image(value: float) -> None:
    assert np.array_equal(opened(overlay(GREY, np.full((3, 3), value))), GREY)
    assert not np.array_equal(opened(overlay(GREY, np.full((3, 3), math.inf))), GREY)


def test_overlay_reads_any_memory_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    gradient_map = np.random.default_rng(1).gamma(1, 1, (20, 30))
    flipped = opened(overlay(pixels[:, ::-1], gradient_map[:, ::-1]))
    assert np.abs(flipped[:, ::-1] - opened(overlay(pixels, gradient_map))).max() <= 1


def test_overlay_refuses_what_is_no_image_or_no_map() -> None:
    one = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\), found float64"):
        overlay(GREY.astype(np.float64), one)
    with pytest.raises(ValueError, match=r"found uint8 of shape \(40, 60\)"):
        overlay(GREY[..., 0], one)
    with pytest.raises(ValueError, match=r"found uint8 of shape \(0, 60, 3\)"):
        overlay(GREY[:0], one)
    with pytest.raises(ValueError, match=r"gradient_map must have shape \(h, w\), found \(1, 2, 2\)"):
        overlay(GREY, one[None])
    with pytest.raises(ValueError, match="vmax must be above 1"):
        overlay(GREY, one, vmax=1.0)

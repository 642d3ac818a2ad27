"""The three numbers of a picture say what they promise: lighter, flatter, blurred."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from differnet_ray.archives.light import light_of

SHAPE = (31, 17, 3)
PICTURES = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8))


def in_floats(pixels: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """The same by the definitions, in floating point."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float) / 255
    around = np.pad(grey, 1, mode="edge")
    four = [np.roll(around, shift, axis)[1:-1, 1:-1] for axis in (0, 1) for shift in (-1, 1)]
    return grey.mean(), grey.std(), (sum(four) - 4 * grey).std()


@given(PICTURES)
def test_they_are_what_the_definitions_say(pixels: npt.NDArray[np.uint8]) -> None:
    light = light_of(pixels)
    assert (light.brightness, light.contrast, light.sharpness) == pytest.approx(in_floats(pixels), abs=1e-12)


def test_large_white_pictures_do_not_overflow() -> None:
    board = np.indices((2048, 2048)).sum(0) % 2 * 255
    light = light_of(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    assert (light.brightness, light.contrast) == (0.5, 0.5)
    assert light.sharpness == pytest.approx(4, rel=2e-3)  # neighbours beyond the edge are the pixel itself


@given(PICTURES)
def test_a_darker_camera_a_flatter_light_and_a_blurred_lens_show(pixels: npt.NDArray[np.uint8]) -> None:
    light = light_of(pixels)
    darker = light_of((pixels * 0.7).astype(np.uint8))
    flatter = light_of((64 + pixels * 0.5).astype(np.uint8))
    blurred = light_of(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))))
    assert darker.brightness == pytest.approx(0.7 * light.brightness, rel=0.02)
    assert flatter.contrast == pytest.approx(0.5 * light.contrast, rel=0.02)
    assert blurred.sharpness < 0.3 * light.sharpness
    assert blurred.brightness == pytest.approx(light.brightness, rel=0.01)

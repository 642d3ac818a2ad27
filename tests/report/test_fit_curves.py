"""The picture on a model's card shows the losses, the scores and both thresholds, whatever the numbers are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from differnet_ray.report.fit_curves import HELD_OUT_COLOUR, fit_curves
from differnet_ray.report.plots import GOOD

pytestmark = pytest.mark.filterwarnings("error")


def opened(png: bytes) -> NDArray[np.int64]:
    """Decode to (H, W, 3) signed integers, so that differences do not wrap."""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image).astype(np.int64)


def where(pixels: NDArray[np.int64], colour: str) -> NDArray[np.bool_]:
    """Which pixels are (almost) of this colour."""
    return np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=-1) <= 3


FITTED, HELD_OUT = [1.0, 0.0, -0.5, -0.6], [1.2, 0.2, -0.2, -0.1]


def test_the_curves_of_a_fit_show_losses_scores_and_both_thresholds() -> None:
    pixels = opened(fit_curves(FITTED, HELD_OUT, np.linspace(0.5, 1.5, 30), 2.0, 1.7))
    assert pixels.shape == (300, 900, 3)
    left, right = pixels[:, :450], pixels[:, 450:]
    assert where(left, GOOD).any()
    assert where(left, HELD_OUT_COLOUR).any()
    assert where(right, GOOD).any()
    assert not where(right, HELD_OUT_COLOUR).any()
    without = opened(fit_curves(FITTED, [], np.linspace(0.5, 1.5, 30), 2.0, 1.7))
    assert not where(without, HELD_OUT_COLOUR).any()
    moved = opened(fit_curves(FITTED, HELD_OUT, np.linspace(0.5, 1.5, 30), 2.1, 1.7))
    assert (moved[:, 460:] != pixels[:, 460:]).any()


def test_one_epoch_is_no_curve() -> None:
    for losses in ([], [1.0]):
        assert opened(fit_curves(losses, [], [1.0, 1.1], 2.0, 1.7)).shape == (300, 450, 3)


def test_a_huge_first_loss_does_not_flatten_the_others() -> None:
    tail = [1 / n for n in range(1, 40)]
    huge, plain = (opened(fit_curves([first, *tail], [], [1.0], 2.0, 1.7)) for first in (1e6, 1.0))
    heights = []
    for pixels in (huge, plain):
        rows, _ = np.nonzero(where(pixels[50:, 100:440], GOOD))
        heights.append(np.ptp(rows))
    assert heights[0] > heights[1] / 4


@settings(max_examples=15, deadline=None)
@given(
    losses=st.lists(st.floats(width=32), max_size=5),
    scores=st.lists(st.floats(-1e30, 1e30), max_size=9),
    threshold=st.floats(width=32),
)
def test_the_curves_of_any_fit_are_drawn(losses: list[float], scores: list[float], threshold: float) -> None:
    assert opened(fit_curves(losses, losses[1:], scores, threshold, threshold)).shape[0] == 300

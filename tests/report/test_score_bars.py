"""The bars of a histogram hold every score once, whatever the scores are, and the threshold is an edge of two of them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from differnet_ray.report.score_bars import Cells, Histogram, cells_of, histogram

SCORES = st.lists(st.floats(0, 1e12) | st.floats(0.5, 3), max_size=60)
THRESHOLDS = st.none() | st.floats(1e-3, 1e6)


def drawn(
    scores: list[float], threshold: float | None, review: float | None = None, good: list[float] | None = None
) -> Histogram:
    """Returns the histogram of some scores, of which there are any."""
    found = histogram(cells_of(np.array(scores), threshold), cells_of(np.array(good or []), threshold), threshold, review)
    assert found is not None
    return found


@given(scores=SCORES, threshold=THRESHOLDS, parts=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_cells_hold_every_score_once_on_its_side_of_the_threshold_in_any_batches(
    scores: list[float], threshold: float | None, parts: int
) -> None:
    whole = cells_of(np.array(scores), threshold)
    pieces: Cells = Counter()
    for part in np.array_split(np.array(scores), parts):
        pieces += cells_of(part, threshold)
    assert pieces == whole
    assert whole.total() == len(scores)
    assert sum(n for cell, n in whole.items() if cell >= 0) == sum(score >= (threshold or 1.0) for score in scores)


@given(scores=SCORES.filter(len), good=SCORES, threshold=THRESHOLDS, share=st.none() | st.floats(0.1, 1))
@settings(max_examples=200, deadline=None)
def test_bars_lie_inside_the_axes_side_by_side_and_none_crosses_the_threshold(
    scores: list[float], good: list[float], threshold: float | None, share: float | None
) -> None:
    review = None if share is None or threshold is None else share * threshold
    found = drawn(scores, threshold, review, good)
    assert found.n_scores == len(scores)
    assert found.n_calibration == len(good)
    for bar in found.bars:
        assert found.left - 1e-6 <= bar.x <= bar.x + bar.width <= found.right + 1e-6
        assert found.top - 1e-6 <= bar.y <= bar.y + bar.height <= found.bottom + 1e-6
        assert bar.x >= found.threshold.at - 1e-6 if bar.kind == "anomalous" else bar.x + bar.width <= found.threshold.at + 1e-6
    assert all(a.x + a.width <= b.x + 1e-6 for a, b in pairwise(found.bars))
    for marks, low, high in ((found.x_ticks, found.left, found.right), (found.y_ticks, found.top, found.bottom)):
        assert marks
        assert all(low - 1e-6 <= mark.at <= high + 1e-6 for mark in marks)
    assert bool(found.outline) == bool(good)


def test_an_outlier_is_in_a_bar_set_apart_and_does_not_squeeze_the_others() -> None:
    scores = np.random.default_rng(0).lognormal(0, 0.15, 1000).tolist()
    alone, with_outlier = drawn(scores, 2.0), drawn([*scores, 1e9], 2.0)
    assert len(with_outlier.bars) >= 15
    assert with_outlier.x_ticks[-1].label.startswith("≥")
    assert with_outlier.bars[-1].x > with_outlier.bars[-2].x + 3 * with_outlier.bars[-2].width
    assert not any(mark.label.startswith(("≥", "<")) for mark in alone.x_ticks)


def test_scores_without_a_logarithm_are_counted_too() -> None:
    assert cells_of(np.array([0.0, -1.0, math.inf, math.nan]), 2.0).total() == 3
    found = drawn([0.0, -1.0, math.inf, 1.0, 2.0], 2.0)
    assert found.n_scores == 5
    assert [mark.label[0] for mark in found.x_ticks if not mark.label[0].isdigit()] == ["<", "≥"]


def test_no_score_is_no_histogram() -> None:
    assert histogram(Counter(), cells_of(np.array([1.0]), 2.0), 2.0, 1.5) is None

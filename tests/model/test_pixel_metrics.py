"""Pixel metrics against scikit-learn and against a slow, literal AUPRO, on maps with many ties."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn import metrics as oracle  # type: ignore[import-untyped]

from differnet_ray.model import pixel_metrics

Marked = tuple[NDArray[np.float64], NDArray[np.bool_]]
RATES = st.sampled_from([0.05, 0.1, 0.25, 0.3, 1 / 3, 0.5, 1.0]) | st.floats(0.01, 1)


@st.composite
def marked(draw: st.DrawFn) -> Marked:
    """Up to 3 small maps with few or many distinct values, and masks with pixels of both kinds."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(2, 7)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    maps = rng.integers(-1, draw(st.sampled_from([1, 4, 1000])), shape).astype(np.float64)
    masks = rng.random(shape) < draw(st.sampled_from([0.05, 0.2, 0.5]))
    masks[0, 0, :2] = rng.permutation([True, False])
    return maps, masks


def slow_aupro(maps: NDArray[np.floating[Any]], masks: NDArray[np.bool_], max_fpr: float) -> float:
    """Threshold by threshold, region by region."""
    regions = []
    for image, mask in zip(maps, masks, strict=True):
        labels, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [image[labels == number] for number in range(1, n_regions + 1)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        fpr = float(np.mean(maps[~masks] >= threshold))
        points.append((fpr, float(np.mean([np.mean(region >= threshold) for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < x1 and x0 < max_fpr:
            end = min(x1, max_fpr)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / max_fpr


@given(marked())
@settings(deadline=None)
def test_pixel_auroc_is_that_of_sklearn(images: Marked) -> None:
    maps, masks = images
    expected = oracle.roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_metrics.pixel_auroc(maps, masks) == pytest.approx(expected, abs=1e-12)


@given(marked(), RATES)
@settings(deadline=None)
def test_aupro_is_the_literal_one(images: Marked, max_fpr: float) -> None:
    maps, masks = images
    assert pixel_metrics.aupro(maps, masks, max_fpr) == pytest.approx(slow_aupro(maps, masks, max_fpr), abs=1e-12)


@given(marked())
@settings(deadline=None)
def test_with_one_region_and_to_the_end_aupro_is_the_auroc(images: Marked) -> None:
    maps, masks = images
    masks[:] = False
    masks[0, :, :1] = True  # one region, and there are at least two columns
    assert pixel_metrics.aupro(maps, masks, 1.0) == pytest.approx(pixel_metrics.pixel_auroc(maps, masks), abs=1e-12)


@given(marked(), RATES)
@settings(deadline=None)
def test_only_the_order_of_the_values_counts(images: Marked, max_fpr: float) -> None:
    maps, masks = images
    _, rank = np.unique(maps, return_inverse=True)
    rank = rank.reshape(maps.shape)
    for mapped in (rank, rank.astype(np.float16), rank.astype(np.float32), np.where(rank == rank.max(), np.inf, rank - 5.0)):
        assert pixel_metrics.pixel_auroc(mapped, masks) == pixel_metrics.pixel_auroc(maps, masks)
        assert pixel_metrics.aupro(mapped, masks, max_fpr) == pytest.approx(
            pixel_metrics.aupro(maps, masks, max_fpr), abs=1e-12
        )


@given(marked(), RATES)
@settings(deadline=None)
def test_the_order_of_images_and_the_side_they_are_seen_from_do_not_count(images: Marked, max_fpr: float) -> None:
    maps, masks = images
    expected = pixel_metrics.aupro(maps, masks, max_fpr)
    for turn in (lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x.transpose(0, 2, 1)):
        assert pixel_metrics.aupro(turn(maps), turn(masks), max_fpr) == pytest.approx(expected, abs=1e-12)
        assert pixel_metrics.pixel_auroc(turn(maps), turn(masks)) == pixel_metrics.pixel_auroc(maps, masks)


def test_a_map_equal_to_its_mask_is_perfect_and_a_constant_one_is_chance() -> None:
    masks = np.zeros((3, 8, 8), dtype=np.bool_)
    masks[0, 2:4, 2:4] = masks[1, 5, 5] = True
    for metric, chance in ((pixel_metrics.pixel_auroc, 0.5), (pixel_metrics.aupro, 0.15)):
        assert metric(masks.astype(float), masks) == 1.0
        assert metric(-masks.astype(float), masks) == 0.0
        assert metric(np.ones(masks.shape), masks) == pytest.approx(chance, abs=1e-12)


def test_a_small_region_weighs_as_much_as_a_large_one() -> None:
    masks = np.zeros((2, 10, 10), dtype=np.bool_)
    masks[0, :6, :6] = masks[1, 9, 9] = True
    only_large, only_small = np.zeros(masks.shape), np.zeros(masks.shape)
    only_large[0, :6, :6] = only_small[1, 9, 9] = 1.0
    assert pixel_metrics.aupro(only_large, masks) == pytest.approx(pixel_metrics.aupro(only_small, masks))
    assert pixel_metrics.pixel_auroc(only_large, masks) > 0.9 > 0.6 > pixel_metrics.pixel_auroc(only_small, masks)


def test_corners_connect_within_an_image_and_nothing_connects_two_images() -> None:
    maps, masks = np.zeros((2, 4, 4)), np.zeros((2, 4, 4), dtype=np.bool_)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[1, 1, 1] = True  # a diagonal is one region; its neighbour image has another
    maps[1, 1, 1] = 1.0
    assert pixel_metrics.aupro(maps, masks, 1.0) == pytest.approx(0.5 + 0.5 / 2)  # one of two regions, the rest by chance


def test_good_images_add_false_positives_only() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((2, 6, 6)), np.zeros((2, 6, 6), dtype=np.bool_)
    masks[0, 1:3, 1:3] = True
    maps[1] -= 1.0  # all of the good image is below all of the other: the curve is the same, four times as steep in places
    with_good = pixel_metrics.aupro(maps, masks, 0.3)
    assert with_good == pytest.approx(slow_aupro(maps, masks, 0.3))
    assert with_good > pixel_metrics.aupro(maps[:1], masks[:1], 0.3)


def test_localization_metrics_are_those_of_each_kind_with_the_good_images() -> None:
    rng = np.random.default_rng(1)
    kinds = np.array(["good", "crack", "stain", "good", "crack", "haze"])
    masks = rng.random((6, 5, 5)) < 0.2
    masks[(kinds == "good") | (kinds == "haze")] = False
    maps = rng.random((6, 5, 5)) + masks
    found = pixel_metrics.localization_metrics(maps, masks, kinds)
    assert found["pixel_auroc"] == pixel_metrics.pixel_auroc(maps, masks)
    assert found["aupro"] == pytest.approx(slow_aupro(maps, masks, 0.3), abs=1e-12)
    assert found["by_defect"]["haze"] == {"pixel_auroc": None, "aupro": None}
    for kind in ("crack", "stain"):
        among = (kinds == "good") | (kinds == kind)
        of_kind = found["by_defect"][kind]
        assert of_kind["pixel_auroc"] == pytest.approx(oracle.roc_auc_score(masks[among].ravel(), maps[among].ravel()))
        assert of_kind["aupro"] == pytest.approx(slow_aupro(maps[among], masks[among], 0.3), abs=1e-12)
    with pytest.raises(ValueError, match=r"one entry for each of the \(6,\) maps, found shape \(1,\)"):
        pixel_metrics.localization_metrics(maps, masks, ["good"])


@pytest.mark.parametrize("metric", [pixel_metrics.pixel_auroc, pixel_metrics.aupro])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([[1.0, 2.0]], [[True, False]], r"shape \(N, H, W\), found \(1, 2\)"),
        ([[[1.0, 2.0]]], [[[True], [False]]], r"found \(1, 1, 2\) and \(1, 2, 1\)"),
        ([[[1.0, math.nan]]], [[[True, False]]], "1 of 2 values of the maps are NaN"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2, 2), dtype=bool), "there are no pixels"),
        ([[[1.0, 2.0]]], [[[255, 0]]], "booleans, found dtype int"),
        ([[[1.0, 2.0]]], [[[True, True]]], "none of the 2 pixels is without defect"),
        ([[[1.0, 2.0]]], [[[False, False]]], "none of the 2 pixels is with a defect"),
    ],
)
def test_unusable_inputs_are_named(metric: Callable[..., float], maps: Any, masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(maps, masks)


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.1, math.nan])
def test_max_fpr_is_a_share_above_zero(max_fpr: float) -> None:
    with pytest.raises(ValueError, match="max_fpr must be above 0 and at most 1"):
        pixel_metrics.aupro([[[1.0, 2.0]]], [[[True, False]]], max_fpr)


def test_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(pixel_metrics).failed == 0

"""Calibration: the conformal guarantee on many repetitions, and the p-values against a literal count."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from differnet_ray.model.calibration import conformal_p_values, conformal_threshold

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

CONTINUOUS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(1, 0.1, shape),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape),
    "lognormal": lambda rng, shape: rng.lognormal(0, 2, shape),
}
TIED: dict[str, Draw] = {
    "dice": lambda rng, shape: rng.integers(1, 7, shape).astype(np.float64),
    "mostly one value": lambda rng, shape: (rng.uniform(size=shape) > 0.9).astype(np.float64),
    "constant": lambda rng, shape: np.ones(shape),
}
REPETITIONS, NEW_IMAGES = 1500, 200

scores = st.lists(st.one_of(st.integers(-5, 5).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=60).map(np.array)
rates = st.integers(1, 999).map(lambda k: k / 1000)


def false_alarm_rate(draw: Draw, n: int, target_fpr: float) -> tuple[float, float]:
    """Mean share of new good images at or above the threshold, and the standard error of that mean."""
    rng = np.random.default_rng([n, round(1000 * target_fpr)])
    calibration_scores, new_scores = draw(rng, (REPETITIONS, n)), draw(rng, (REPETITIONS, NEW_IMAGES))
    flagged = np.array(
        [
            (new >= conformal_threshold(known, target_fpr).value).mean()
            for known, new in zip(calibration_scores, new_scores, strict=True)
        ]
    )
    return flagged.mean(), flagged.std() / math.sqrt(REPETITIONS)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize(("n", "target_fpr"), [(9, 0.1), (12, 0.1), (19, 0.05), (50, 0.05), (99, 0.01), (120, 0.2)])
def test_continuous_scores_are_flagged_at_the_achieved_rate_within_the_target(name: str, n: int, target_fpr: float) -> None:
    threshold = conformal_threshold(np.arange(float(n)), target_fpr)
    rate, error = false_alarm_rate(CONTINUOUS[name], n, target_fpr)
    assert threshold.guaranteed
    assert threshold.achieved_fpr <= target_fpr
    assert rate == pytest.approx(threshold.achieved_fpr, abs=4 * error)


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize(("n", "target_fpr"), [(9, 0.1), (19, 0.05), (50, 0.05), (120, 0.2)])
def test_tied_scores_are_flagged_at_most_at_the_target_rate(name: str, n: int, target_fpr: float) -> None:
    rate, error = false_alarm_rate(TIED[name], n, target_fpr)
    assert rate <= target_fpr + 4 * error


@pytest.mark.parametrize("name", CONTINUOUS)
def test_too_few_images_are_owned_up_to(name: str) -> None:
    threshold = conformal_threshold(np.arange(4.0), 0.01)
    rate, error = false_alarm_rate(CONTINUOUS[name], 4, 0.01)
    assert not threshold.guaranteed
    assert (threshold.achieved_fpr, threshold.requested_fpr, threshold.n_images) == (0.2, 0.01, 4)
    assert rate == pytest.approx(0.2, abs=4 * error)


@given(scores, rates)
def test_the_threshold_keeps_its_promise_on_the_calibration_images(known: Floats, target_fpr: float) -> None:
    threshold, n = conformal_threshold(known, target_fpr), len(known)
    flagged = int((known >= threshold.value).sum())
    assert Fraction(flagged + 1, n + 1) <= Fraction(threshold.achieved_fpr).limit_denominator(n + 1)
    assert threshold.guaranteed == (Fraction(1, n + 1) <= Fraction(target_fpr).limit_denominator(1000))


@given(st.sets(st.integers(-1000, 1000), min_size=1, max_size=60), rates)
def test_no_smaller_threshold_would_keep_the_promise(values: set[int], target_fpr: float) -> None:
    known, n = np.array(list(values), dtype=np.float64), len(values)
    theta = conformal_threshold(known, target_fpr).value
    with_one_more = int((known >= np.nextafter(theta, -np.inf)).sum())
    assert with_one_more == int((known >= theta).sum()) + 1
    assert Fraction(with_one_more + 1, n + 1) > Fraction(target_fpr).limit_denominator(1000)


def test_rates_that_the_images_can_just_guarantee_are_reached_whatever_rounding_does() -> None:
    for n in range(1, 150):
        known = np.arange(float(n))
        for flagged in range(1, n + 1):
            threshold = conformal_threshold(known, flagged / (n + 1))
            assert threshold.achieved_fpr == flagged / (n + 1)
            assert threshold.guaranteed
            assert (known >= threshold.value).sum() == flagged - 1


@given(scores, rates)
def test_an_image_exactly_at_the_order_statistic_is_not_flagged_and_one_just_above_is(known: Floats, target_fpr: float) -> None:
    theta = conformal_threshold(known, target_fpr).value
    assert np.nextafter(theta, -np.inf) in known
    assert conformal_threshold(known[::-1], target_fpr).value == theta


@given(scores, scores, rates)
def test_flagged_means_a_p_value_of_at_most_the_achieved_rate(known: Floats, new: Floats, target_fpr: float) -> None:
    threshold = conformal_threshold(known, target_fpr)
    new = np.concatenate([new, known, [threshold.value]])
    p_values = conformal_p_values(known, new)
    np.testing.assert_array_equal(new >= threshold.value, p_values <= threshold.achieved_fpr)


@given(scores, rates, rates)
def test_a_smaller_rate_never_has_a_smaller_threshold(known: Floats, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert conformal_threshold(known, low).value >= conformal_threshold(known, high).value


@given(scores, scores)
def test_p_values_are_the_literal_count(known: Floats, new: Floats) -> None:
    new = np.concatenate([new, known])
    expected = [(1 + sum(k >= s for k in known)) / (len(known) + 1) for s in new]
    assert conformal_p_values(known, new).tolist() == expected


@given(scores, scores)
def test_p_values_fall_as_scores_rise_and_never_reach_zero(known: Floats, new: Floats) -> None:
    p_values = conformal_p_values(known, np.sort(new))
    assert (np.diff(p_values) <= 0).all()
    assert p_values.min() >= 1 / (len(known) + 1)
    assert p_values.max() <= 1


@pytest.mark.parametrize("name", [*CONTINUOUS, *TIED])
def test_p_values_of_good_images_are_valid(name: str) -> None:
    draw, rng = (CONTINUOUS | TIED)[name], np.random.default_rng(0)
    known, new = draw(rng, (REPETITIONS, 30)), draw(rng, (REPETITIONS, NEW_IMAGES))
    p_values = np.array([conformal_p_values(k, s) for k, s in zip(known, new, strict=True)])
    for p in (0.04, 0.1, 0.25, 0.5, 0.9):
        share = (p_values <= p).mean(axis=1)
        assert share.mean() <= p + 4 * share.std() / math.sqrt(REPETITIONS)

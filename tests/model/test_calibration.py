"""Calibration: the guarantee and the extrapolation on many repetitions, and the p-values against a literal count."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from differnet_ray.model.calibration import conformal_p_values, conformal_threshold, tail_threshold

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


@pytest.mark.parametrize(("n", "target_fpr"), [(30, 0.1), (60, 0.05), (99, 0.01), (152, 0.01)])
def test_the_rate_behind_one_calibration_set_is_a_beta_variable(n: int, target_fpr: float) -> None:
    rng, law = np.random.default_rng(n), stats.lognorm(1)
    thresholds = [conformal_threshold(law.rvs(n, random_state=rng), target_fpr) for _ in range(REPETITIONS)]
    rates = law.sf([threshold.value for threshold in thresholds])
    above = round(thresholds[0].achieved_fpr * (n + 1))
    assert stats.kstest(rates, stats.beta(above, n + 1 - above).cdf).pvalue > 0.001
    for level in (0.5, 0.9, 0.99):
        low, high = thresholds[0].realised_interval(level)
        assert ((rates >= low) & (rates <= high)).mean() == pytest.approx(level, abs=4 * math.sqrt(0.25 / REPETITIONS))


@given(scores, rates)
def test_the_threshold_keeps_its_promise_on_the_calibration_images(known: Floats, target_fpr: float) -> None:
    threshold, n = conformal_threshold(known, target_fpr), len(known)
    flagged = int((known >= threshold.value).sum())
    assert Fraction(flagged + 1, n + 1) <= Fraction(threshold.achieved_fpr).limit_denominator(n + 1)
    assert threshold.guaranteed == (Fraction(1, n + 1) <= Fraction(target_fpr).limit_denominator(1000))


@given(st.sets(st.integers(-1000, 1000), min_size=1, max_size=60), rates)
def test_no_smaller_threshold_would_keep_the_promise(values: set[int], target_fpr: float) -> None:
    known, n = np.array(list(values), dtype=np.float64), len(values)
    threshold = conformal_threshold(known, target_fpr)
    assume(not threshold.extrapolated)
    theta = threshold.value
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
    threshold = conformal_threshold(known, target_fpr)
    assert threshold.extrapolated or np.nextafter(threshold.value, -np.inf) in known
    assert conformal_threshold(known[::-1], target_fpr) == threshold


@given(scores, scores, rates)
def test_flagged_means_a_p_value_of_at_most_the_achieved_rate(known: Floats, new: Floats, target_fpr: float) -> None:
    threshold = conformal_threshold(known, target_fpr)
    new = np.concatenate([new, known, [threshold.value]])
    p_values = conformal_p_values(known, new)
    flagged, unlikely = new >= threshold.value, p_values <= threshold.achieved_fpr
    assert (unlikely[flagged]).all()
    assert threshold.extrapolated or (flagged == unlikely).all()


@given(scores, rates, rates)
def test_a_smaller_rate_never_has_a_smaller_threshold(known: Floats, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert conformal_threshold(known, low).value >= conformal_threshold(known, high).value


# --- below 1 / (n + 1) ------------------------------------------------------------------------------------------------

many_scores = st.lists(st.one_of(st.integers(-5, 5).map(float), st.floats(-1e6, 1e6)), min_size=20, max_size=60).map(np.array)
small_rates = st.floats(1e-9, 0.01)

TAILS: dict[str, tuple[Any, float]] = {  # a law, and how many times the target its mean rate may be
    "uniform": (stats.uniform(), 1),
    "normal": (stats.norm(1, 0.1), 1),
    "gamma": (stats.gamma(10), 1),
    "exponential": (stats.expon(), 1),
    "student": (stats.t(5), 1.2),
    "lognormal": (stats.lognorm(1), 2.5),
    "pareto": (stats.genpareto(0.25), 2.5),
}


def rates_behind(law: Any, n: int, target_fpr: float) -> Floats:
    """The false-alarm rates of thresholds from many calibration sets of a law."""
    draws = law.rvs((REPETITIONS, n), random_state=np.random.default_rng(n))
    return np.asarray(law.sf([conformal_threshold(known, target_fpr).value for known in draws]))


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize(("n", "target_fpr"), [(30, 0.005), (60, 0.002), (150, 0.001)])
def test_extrapolated_rates_are_near_the_target_and_far_below_what_the_largest_score_gives(
    name: str, n: int, target_fpr: float
) -> None:
    law, times = TAILS[name]
    rates = rates_behind(law, n, target_fpr)
    assert rates.mean() <= times * target_fpr + 4 * rates.std() / math.sqrt(REPETITIONS)
    assert rates.mean() < 0.5 / (n + 1)


@pytest.mark.parametrize(("n", "target_fpr"), [(50, 0.01), (150, 0.001)])
@pytest.mark.parametrize("shape", [0.0, 0.25])
def test_a_known_quantile_is_recovered_within_a_factor(n: int, target_fpr: float, shape: float) -> None:
    law = stats.genpareto(shape)
    draws = law.rvs((REPETITIONS, n), random_state=np.random.default_rng(n))
    thetas = np.array([conformal_threshold(known, target_fpr).value for known in draws])
    assert 0.8 < np.median(thetas) / law.isf(target_fpr) < 1.5
    assert ((thetas / law.isf(target_fpr) > 1 / 3) & (thetas / law.isf(target_fpr) < 3)).mean() > 0.9


def test_exponential_tails_are_exceeded_at_the_target_rate_where_the_shape_is_held_at_zero() -> None:
    n, m, fpr = 60, 10, 0.001
    known = np.sort(np.random.default_rng(0).exponential(size=(20_000, n)), axis=1)
    u, tail = known[:, n - m - 1], known[:, n - m :]
    mean = (tail - u[:, None]).mean(axis=1)
    exact = u + m * mean * (((m + 1) / ((n + 1) * fpr)) ** (1 / m) - 1)
    rates = np.exp(-exact)
    assert rates.mean() == pytest.approx(fpr, abs=4 * rates.std() / math.sqrt(len(rates)))
    for row in range(200):
        found = tail_threshold(known[row], fpr)
        half_gini = np.abs(tail[row, :, None] - tail[row]).sum() / (2 * m * (m - 1))
        if mean[row] >= 2 * half_gini:
            assert found == pytest.approx(exact[row])
        else:
            assert found > exact[row]  # type: ignore[operator]


@given(many_scores, small_rates)
def test_an_extrapolated_threshold_is_marked_and_never_below_the_largest_score(known: Floats, target_fpr: float) -> None:
    threshold, n = conformal_threshold(known, target_fpr), len(known)
    assert not threshold.guaranteed
    assert threshold.value >= np.nextafter(known.max(), np.inf)
    assert threshold.achieved_fpr == 1 / (n + 1)
    assert math.isfinite(threshold.value)
    assert threshold.extrapolated or threshold.value == np.nextafter(known.max(), np.inf)
    assert threshold.extrapolated == (tail_threshold(np.sort(known), target_fpr) is not None)


@given(many_scores, small_rates, small_rates)
def test_an_extrapolated_threshold_rises_as_the_rate_falls(known: Floats, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert conformal_threshold(known, low).value >= conformal_threshold(known, high).value


@given(many_scores, st.floats(1e-6, 0.5), st.floats(1e-6, 0.5))
def test_the_review_band_lies_below_the_threshold(known: Floats, one: float, other: float) -> None:
    target_fpr, review_fpr = sorted((one, other))
    assert conformal_threshold(known, review_fpr).value <= conformal_threshold(known, target_fpr).value


@pytest.mark.parametrize(
    "known",
    [np.arange(19.0), np.ones(100), np.r_[np.zeros(80), np.ones(20)], np.r_[np.zeros(99), np.inf], np.r_[np.zeros(29), 5e-324]],
    ids=["19 images", "all equal", "equal excesses", "infinite", "denormal"],
)
def test_scores_that_allow_no_tail_fit_have_the_threshold_just_above_the_largest(known: Floats) -> None:
    threshold = conformal_threshold(known, 0.001)
    assert threshold.value == np.nextafter(known.max(), np.inf)
    assert (threshold.extrapolated, threshold.guaranteed) == (False, False)


def test_shift_and_scale_of_the_scores_are_those_of_the_threshold() -> None:
    known = np.random.default_rng(0).lognormal(size=60)
    theta = conformal_threshold(known, 0.001).value
    assert conformal_threshold(1e9 * known, 0.001).value == pytest.approx(1e9 * theta)
    assert conformal_threshold(known - 7, 0.001).value == pytest.approx(theta - 7)


@given(st.integers(1, 400), st.integers(1, 5000).map(lambda k: k / 10_000))
def test_what_it_rests_on_is_said_with_its_kind_and_the_images_that_a_guarantee_takes(n: int, target_fpr: float) -> None:
    threshold = conformal_threshold(np.random.default_rng(n).normal(size=n), target_fpr)
    for cross_fitted in (False, True):
        text = threshold.statement(cross_fitted=cross_fitted)
        assert text.startswith(f"{n} {'cross-fitted' if cross_fitted else 'held-out'} good images: ")
        assert ("approximately" in text) == cross_fitted
        assert f"at most {100 * threshold.achieved_fpr:.3g} % of good images" in text
        assert ("extrapolated" in text) == threshold.extrapolated
        assert ("asked for" in text) == (not threshold.guaranteed and not threshold.extrapolated)
        if not threshold.guaranteed:
            needed = int(text.rsplit(" ", 1)[1])
            assert needed > n
            assert conformal_threshold(np.arange(float(needed)), target_fpr).guaranteed
            assert not conformal_threshold(np.arange(needed - 1.0), target_fpr).guaranteed


# --- p-values ---------------------------------------------------------------------------------------------------------


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

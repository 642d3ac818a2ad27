"""Levels, rates, nights and slow drift: p-values are super-uniform, evidence has a mean of one, what is there is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, false_discovery_control, nct, norm
from scipy.stats import t as student

from differnet_ray.model.alarms import Budget, family_wise
from differnet_ray.model.nights import night_p_value, reference_of_calibration, reference_of_nights
from differnet_ray.model.rates import RatePrior, rate_test
from differnet_ray.model.slow_drift import log_ratio, slow_drift

NO_NIGHTS_DIFFER = 0.001


def at_most(found: int, n: int, level: float) -> bool:
    """Whether a count is not over what a rate of `level` gives, but in one of 10,000 cases."""
    return found <= level * n + 3.72 * np.sqrt(level * n) + 1


# --- levels -----------------------------------------------------------------------------------------------------------


def test_the_families_together_spend_what_was_asked_for() -> None:
    budget = Budget(2.0)
    assert 365.25 * 3 * budget.level == pytest.approx(2.0)
    assert budget.run_length == pytest.approx(3 * 365.25 / 2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.5))
def test_holm_is_between_bonferroni_and_no_correction_and_ignores_what_was_not_tested(
    values: list[float], level: float
) -> None:
    p = np.array(values)
    rejected = family_wise(p, level)
    assert (rejected >= (p <= level / len(p))).all()
    assert (rejected <= (p <= level)).all()
    with_gaps = family_wise(np.insert(p, 0, np.nan), level)
    assert not with_gaps[0]
    np.testing.assert_array_equal(with_gaps[1:], rejected)


def test_the_family_is_wrong_no_more_often_than_its_level_also_beside_true_alarms() -> None:
    """Which is why it is Holm: ten true alarms buy a false one with Benjamini and Yekutieli's procedure."""
    rng, n, level = np.random.default_rng(0), 4000, 0.05
    wrong = {"holm": 0, "by": 0}
    for _ in range(n):
        p = np.concatenate([np.zeros(40), rng.random(10)])
        wrong["holm"] += bool(family_wise(p, level)[40:].any())
        wrong["by"] += bool((false_discovery_control(p, method="by")[40:] <= level).any())
    assert at_most(wrong["holm"], n, level)
    assert not at_most(wrong["by"], n, level)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "n", "count"), [(1, 20, 500, 100), (2, 99, 1000, 60), (5, 496, 50, 5), (26, 475, 400, 40)])
def test_without_variation_between_nights_a_count_is_beta_binomial(a: float, b: float, n: int, count: int) -> None:
    exact = float(betabinom.sf(count - 1, n, a, b))
    found = rate_test(count, n, RatePrior(a, b), night_factor=NO_NIGHTS_DIFFER).p_value
    assert 0.99 * exact < found < 1.5 * exact  # nights are never assumed to vary by less than the grid resolves


def test_a_small_calibration_set_widens() -> None:
    """Each of these sets says about 1 %, or nothing below it; the same night is less and less surprising."""
    p = [rate_test(30, 1000, RatePrior.of_calibration(n // 100, n, n)).p_value for n in (2000, 500, 100, 20)]
    assert p == sorted(p)
    assert p[-1] > 20 * p[0]


def test_groups_widen() -> None:
    alone, grouped = (rate_test(30, 1000, RatePrior.of_calibration(5, 500, groups)) for groups in (500, 100))
    assert grouped.p_value > alone.p_value


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5])
def test_p_values_of_counts_are_super_uniform_when_nights_differ(sigma: float) -> None:
    """Over calibration sets, nights behind and tonight, all drawn anew."""
    rng, n, found = np.random.default_rng(1), 1000, {0.05: 0, 0.01: 0}
    for _ in range(n):
        size, images = rng.choice([20, 100, 500]), int(rng.choice([50, 500]))
        q = rng.beta(1 + size // 50, size - size // 50)

        def counts(nights: int, q: float = q, images: int = images) -> list[int]:
            odds = q / (1 - q) * np.exp(sigma * rng.standard_normal(nights))
            return [int(k) for k in rng.binomial(images, odds / (1 + odds))]

        nights = [(k, images) for k in counts(int(rng.choice([0, 10])))]
        p = rate_test(counts(1)[0], images, RatePrior.of_calibration(size // 50, size, size), nights).p_value
        for level in found:
            found[level] += p <= level
    assert all(at_most(count, n, level) for level, count in found.items()), found


def test_nights_that_vary_make_a_high_count_less_surprising() -> None:
    prior = RatePrior(10, 991)
    steady, wild = [(10, 1000)] * 28, [(3, 1000), (28, 1000), (10, 1000), (2, 1000)] * 7
    assert rate_test(40, 1000, prior, steady).p_value < 1e-4 < 1e-3 < rate_test(40, 1000, prior, wild).p_value


def test_one_bad_night_of_counts_does_not_hide_the_next() -> None:
    prior, nights = RatePrior(10, 991), [(10, 1000)] * 27
    assert rate_test(200, 1000, prior, [*nights, (200, 1000)]).p_value < 1e-5


def test_counts_of_large_nights_are_held_to_what_the_grid_resolves() -> None:
    prior, nights = RatePrior(26, 475), [(2500, 50_000)] * 28
    usual, more = rate_test(2520, 50_000, prior, nights), rate_test(12_500, 50_000, prior, nights)
    assert usual.expected == pytest.approx(0.05, rel=0.1)
    assert usual.p_value > 0.05
    assert more.p_value < 1e-7


# --- tonight ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [7, 10, 28, 60])
def test_p_values_of_nights_are_super_uniform(m: int) -> None:
    rng, n = np.random.default_rng(m), 10_000
    draws = rng.standard_normal((n, m + 1))
    p = np.array([night_p_value(row[0], 0.0, reference_of_nights(row[1:], np.zeros(m))) for row in draws])
    for level in (0.05, 0.01, 0.001):
        assert at_most(int((p <= level).sum()), n, level), level


def test_one_bad_night_does_not_hide_the_next() -> None:
    nights = np.random.default_rng(0).standard_normal(28)
    clean = night_p_value(8.0, 0.0, reference_of_nights(nights, np.zeros(28)))
    nights[-1] = 30.0
    assert night_p_value(8.0, 0.0, reference_of_nights(nights, np.zeros(28))) < 10 * clean < 1e-6


def test_a_night_of_few_images_is_less_certain() -> None:
    nights = np.random.default_rng(0).normal(0, 0.1, 28)
    reference = reference_of_nights(nights, np.full(28, 0.05))
    assert night_p_value(1.0, 0.4, reference) > 0.01 > 1e-6 > night_p_value(1.0, 0.05, reference)


def test_nights_that_were_all_the_same_take_tonights_own_error() -> None:
    reference = reference_of_nights(np.ones(10), np.zeros(10))
    assert night_p_value(1.0, 0.0, reference) == 1.0
    assert night_p_value(2.0, 0.0, reference) == 0.0
    assert night_p_value(1.1, 0.1, reference) == pytest.approx(2 * student.sf(1, 7))


def test_a_small_calibration_set_widens_the_reference() -> None:
    small, large = (reference_of_calibration(0.0, error, 0.25) for error in (0.4, 0.05))
    assert night_p_value(1.0, 0.02, small) > night_p_value(1.0, 0.02, large)
    assert night_p_value(1.0, 0.0, reference_of_calibration(0.0, 0.0, 0.25)) == pytest.approx(2 * norm.sf(4))


# --- slow drift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "t", "nu"), [(2.0, 3.0, 10), (5.0, 5.0, 6), (1.0, -2.0, 30), (9.0, 7.5, 60)])
def test_the_evidence_is_the_ratio_of_a_noncentral_and_a_central_t(size: float, t: float, nu: int) -> None:
    c = t / np.sqrt(t**2 + nu - 1)
    expected = np.log(nct.pdf(t, nu - 1, size) / student.pdf(t, nu - 1))
    assert log_ratio(np.array([size]), np.array([c]), nu)[0] == pytest.approx(expected, abs=1e-5)


def test_the_evidence_of_one_change_has_a_mean_of_one_in_healthy_nights() -> None:
    rng, n, nu = np.random.default_rng(0), 100_000, 19
    y = rng.standard_normal((n, nu + 1))
    y -= y.mean(axis=1, keepdims=True)
    shape = np.r_[np.zeros(15), np.ones(5)] - 0.25
    c = y @ shape / (np.linalg.norm(shape) * np.linalg.norm(y, axis=1))
    evidence = np.exp(log_ratio(np.full(n, 1.0), c, nu))
    assert evidence.mean() == pytest.approx(1, abs=5 * evidence.std() / np.sqrt(n))


def test_the_detector_runs_at_least_as_long_as_was_asked_for() -> None:
    """Mean nights to a false alarm; a stream that has none in 150 nights counts as 150, which is too few."""
    rng, asked, runs = np.random.default_rng(3), 30.0, []
    for _ in range(30):
        values = rng.standard_normal(150)
        for t in range(8, 151):
            if slow_drift(values[:t], np.arange(t), horizon=40, fewest=7).log_e >= np.log(asked):
                break
        runs.append(t)
    assert np.mean(runs) >= asked


def test_a_drift_over_five_nights_is_found_when_it_began() -> None:
    values = np.random.default_rng(4).standard_normal(30)
    values[25:] += 2.0 * np.arange(1, 6)
    found = slow_drift(values, np.arange(30), horizon=40, fewest=7)
    assert found.log_e > np.log(100_000)
    assert 24 <= found.began <= 27
    assert found.since - found.before > 4


@given(st.floats(0.01, 100), st.floats(-1000, 1000))
def test_the_detector_knows_no_unit_and_no_origin(scale: float, origin: float) -> None:
    values = np.random.default_rng(5).standard_normal(30)
    days = np.arange(30)
    one, other = (slow_drift(x, days, horizon=20, fewest=7).log_e for x in (values, scale * values + origin))
    assert one == pytest.approx(other, abs=1e-4)


def test_after_an_alarm_it_begins_anew() -> None:
    values = np.r_[np.random.default_rng(6).standard_normal(20), 9 + np.random.default_rng(7).standard_normal(6)]
    days = np.arange(26)
    before, after = (slow_drift(values, days, horizon=40, fewest=7, after=day).log_e for day in (-1, 23))
    assert before > np.log(10_000) > np.log(100) > after
    assert slow_drift(values, days, horizon=40, fewest=7, after=25).began == -1


def test_nights_that_are_all_the_same_are_no_evidence() -> None:
    assert slow_drift(np.full(30, 2.5), np.arange(30), horizon=40, fewest=7).log_e == pytest.approx(np.log(23))

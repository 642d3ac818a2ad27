"""Is tonight's count of flagged, unreadable or missing images more than usual?

Legend: n images of a night, K of them flagged, p the rate of a night, q that of a usual one, sigma how nights vary.

    q ~ Beta(a, b)                                           of the calibration set, exact for continuous scores
    logit p = logit q + sigma Z,  Z ~ N(0, 1)                a shift of all scores of a night multiplies the odds
    K ~ Binomial(n, p)

The rate over the k-th largest of G calibration scores is Beta(k, G + 1 - k) (Vovk 2012, Conditional validity of inductive
conformal predictors); without nights' variation K is beta-binomial, which scipy.stats.betabinom has. A small calibration set
widens it, as it must. Images of one night share their light, so sigma is not zero: its prior is half-normal, and both q and
sigma are learned from the trailing healthy nights (a random-effects model for rates; Gelman et al. 2013, chapter 5). Each of
these nights may with probability 1 / 50 have been anything, so that one bad night cannot hide the next. All is summed over a
grid of logits: no sampling, the same result every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, expit, logit, xlog1py, xlogy
from scipy.stats import binom

Floats = npt.NDArray[np.float64]

STEP = 0.05  # of the grid
LOGITS: Floats = np.arange(logit(1e-7), logit(0.9995), STEP)
USUAL: Floats = LOGITS[::2]  # of q
MOST_FLAGGED = 400  # more of them say no more than so many: their own spread would be narrower than the grid
SIGMAS = (0.25, 0.5, 0.9, 1.5, 2.2, 3.0, 4.0)  # times the prior's scale
BAD_NIGHT = 0.02  # probability that a trailing night was anything


@dataclass(frozen=True)
class RatePrior:
    """Beta(a, b): what is known of a rate before any night."""

    a: float
    b: float

    @staticmethod
    def of_calibration(n_over: float, n_images: int, n_groups: int) -> RatePrior:
        """Of the rate over a threshold that `n_over` of `n_images` calibration images in `n_groups` groups are over.

        Example:
            >>> RatePrior.of_calibration(0, 99, 99)
            RatePrior(a=1.0, b=99.0)
        """
        over = 1 + n_over * n_groups / n_images
        return RatePrior(over, n_groups + 1 - over)


# What is seldom: as if 100 images had been seen, with half a one flagged.
SELDOM = RatePrior(0.5, 99.5)


@dataclass(frozen=True)
class RateTest:
    """Tonight's count against what was to be expected.

    Attributes:
        p_value: probability of as many or more.
        expected: mean of the rate.
        spread: standard deviation of the rate between nights, with what is not known of it.
    """

    p_value: float
    expected: float
    spread: float


def rate_test(
    count: int, n: int, prior: RatePrior, nights: Sequence[tuple[int, int]] = (), night_factor: float = 0.45
) -> RateTest:
    """Compares a count with its predictive distribution.

    Args:
        count: flagged images tonight.
        n: images tonight, at least 1.
        prior: of the usual rate.
        nights: (flagged, images) of trailing healthy nights.
        night_factor: scale of the half-normal prior of sigma.

    Returns:
        The test; where the rate is not over the expected one the p-value is 1 and nothing was computed.

    Example:
        >>> round(rate_test(30, 1000, RatePrior(10, 990), [(9, 1000)] * 28).p_value, 4) < 0.01
        True
    """
    log_posterior = np.log(_sigma_prior())[:, None] + prior.a * _log_p(USUAL) + prior.b * _log_q(USUAL)
    for flagged, images in nights:
        if images:
            log_posterior = log_posterior + _log_likelihood(*_held(flagged, images), night_factor)
    posterior = np.exp(log_posterior - log_posterior.max())
    posterior /= posterior.sum()
    some = _not_negligible(posterior.sum(axis=0))
    # distribution of tonight's logit
    of_night = sum(p[some] @ kernel[some] for p, kernel in zip(posterior, _kernels(night_factor), strict=True))
    rates = expit(LOGITS)
    expected = float(of_night @ rates)
    spread = float(np.sqrt(max(of_night @ (rates - expected) ** 2, 0.0)))
    if count <= expected * n:
        return RateTest(1.0, expected, spread)
    held, of = _held(count, n)
    return RateTest(float(min(of_night @ binom.sf(held - 1, of, rates), 1.0)), expected, spread)


def _held(count: int, n: int) -> tuple[int, int]:
    """The count and its images, both shrunk to what the grid resolves; of a large night this widens the distribution."""
    if count <= MOST_FLAGGED:
        return count, n
    return MOST_FLAGGED, max(int(np.ceil(n * MOST_FLAGGED / count)), MOST_FLAGGED)


def _sigma_prior() -> Floats:
    weights = np.exp(-0.5 * np.square(SIGMAS)) * np.gradient(np.array(SIGMAS))
    return np.asarray(weights / weights.sum())


def _log_p(logits: Floats) -> Floats:
    return -np.logaddexp(0.0, -logits)


def _log_q(logits: Floats) -> Floats:
    return -np.logaddexp(0.0, logits)


@lru_cache(maxsize=4)
def _kernels(night_factor: float) -> Floats:
    """Distribution of a night's logit given the usual one: (sigma, usual, night), rows sum to 1."""
    sigmas = np.maximum(night_factor * np.array(SIGMAS), 1.5 * STEP)[:, None, None]
    weights = np.exp(-0.5 * ((LOGITS[None, None, :] - USUAL[None, :, None]) / sigmas) ** 2)
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))


@lru_cache(maxsize=4096)
def _log_likelihood(count: int, n: int, night_factor: float) -> Floats:
    """Of a night's count, for each sigma and usual rate: (sigma, usual)."""
    rates = expit(LOGITS)
    log_choose = -np.log(n + 1) - betaln(count + 1, n - count + 1)
    of_rate = np.exp(log_choose + xlogy(count, rates) + xlog1py(n - count, -rates))
    some, kernels = _not_negligible(of_rate), _kernels(night_factor)
    of_night = kernels.reshape(-1, len(LOGITS))[:, some] @ of_rate[some]
    return np.asarray(np.log((1 - BAD_NIGHT) * of_night.reshape(kernels.shape[:2]) + BAD_NIGHT / (n + 1)))


def _not_negligible(weights: Floats) -> slice:
    """From the first to the last of some weights that matter."""
    places = np.flatnonzero(weights > 1e-15 * weights.max())
    return slice(int(places[0]), int(places[-1]) + 1)

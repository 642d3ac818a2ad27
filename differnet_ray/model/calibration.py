"""Thresholds and p-values from the scores of defect-free images that the flow has not seen.

Legend: n calibration images, s_(1) <= ... <= s_(n) their sorted scores, s the score of a new image, p a false-alarm rate,
m scores of the tail.

Split conformal: if a new good image is exchangeable with the calibration images, then P(s > s_(k)) is at most
(n + 1 - k) / (n + 1), with no assumption on the distribution (Vovk et al. 2005; Angelopoulos and Bates 2021). That is the
mean over calibration sets; the rate behind one set is Beta(n + 1 - k, k) for continuous scores (Vovk 2012).

Tail: no count of n images reaches below 1 / (n + 1). There the threshold is extrapolated, and marked so, by a generalised
Pareto distribution of the excesses over a high score (peaks over threshold: Coles 2001, chapter 4).

Cross-fitting: K flows are each fitted without one of K folds, which they score; the n scores calibrate a flow that is
fitted on all images. The bounds are then approximate. The new image is scored by another flow than the calibration images
were, as with the jackknife in Barber et al. (2021): no distribution-free bound holds, but the rate is close to it where
leaving out a fold changes the scores little, and below it where a flow fitted on more images finds good images more likely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, genpareto

Floats = npt.NDArray[np.float64]

FEWEST_FOR_A_TAIL = 20  # images
TAIL_SCORES, TAIL_SHARE = 10, 0.1  # m is the larger of these, the share rounded up
LARGEST_SHAPE = 0.5  # tails up to those of finite variance


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and what can be said of it.

    Attributes:
        value: an image is at or over the threshold if its score is >= value.
        requested_fpr: the false-alarm rate asked for.
        achieved_fpr: the rate that n images can guarantee; larger than requested_fpr where n is too small for it.
        n_images: n.
        extrapolated: whether the value is that of a fitted tail, over the one that achieved_fpr is guaranteed for.
    """

    value: float
    requested_fpr: float
    achieved_fpr: float
    n_images: int
    extrapolated: bool

    @property
    def guaranteed(self) -> bool:
        """Whether n images suffice for the rate asked for."""
        return self.achieved_fpr <= self.requested_fpr

    def realised_interval(self, level: float = 0.9) -> tuple[float, float]:
        """Where the false-alarm rate behind this very set of calibration images lies.

        Args:
            level: the probability, over calibration sets of n images, of an interval that holds the rate.

        Returns:
            Equal-tailed interval of Beta(n + 1 - k, k); from zero where the threshold is extrapolated. For tied scores
            its upper end is conservative.

        Example:
            >>> low, high = conformal_threshold(np.arange(99.0), 0.01).realised_interval()
            >>> round(low, 4), round(high, 4)
            (0.0005, 0.0298)
        """
        above = round(self.achieved_fpr * (self.n_images + 1))
        low, high = beta.interval(level, above, self.n_images + 1 - above)
        return (0.0 if self.extrapolated else float(low)), float(high)

    def statement(self, *, cross_fitted: bool = False) -> str:
        """What the threshold rests on, for people; to be read after "the threshold rests on".

        Example:
            >>> conformal_threshold(np.arange(9.0), 0.01).statement()
            '9 held-out good images: at most 10 % of good images are flagged; 1 % was asked for and takes 99'
        """
        achieved, requested = _percent(self.achieved_fpr), _percent(self.requested_fpr)
        if cross_fitted:
            text = f"{self.n_images} cross-fitted good images: approximately at most {achieved} of good images are flagged"
        else:
            text = f"{self.n_images} held-out good images: at most {achieved} of good images are flagged"
            if self.guaranteed:
                low, high = self.realised_interval()
                text += f", as a mean over such sets of images; {_percent(low)} to {_percent(high)} for 9 sets in 10"
        needed = math.ceil(1 / self.requested_fpr - 1e-9) - 1
        if self.extrapolated:
            text += f"; the threshold for {requested} is extrapolated by a tail fit: an estimate, a guarantee takes {needed}"
        elif not self.guaranteed:
            text += f"; {requested} was asked for and takes {needed}"
        return text


def conformal_threshold(scores: Floats, target_fpr: float) -> Threshold:
    """The smallest threshold whose false-alarm rate is at most `target_fpr`, or the best that n images allow.

    Args:
        scores: (n,) scores of defect-free images that the flow has not seen, n >= 1.
        target_fpr: the share of good images that may be flagged, in (0, 1).

    Returns:
        A value just above s_(k), k = ceil((n + 1)(1 - target_fpr)), whose rate is at most (n + 1 - k) / (n + 1). Where
        target_fpr < 1 / (n + 1), k would be n + 1: the value is then the one of `tail_threshold`, marked as extrapolated,
        and at least just above s_(n); or just above s_(n) where the scores do not allow a tail fit. A smaller target_fpr
        never has a smaller value.

    Example:
        >>> conformal_threshold(np.arange(99.0), 0.1).achieved_fpr
        0.1
        >>> conformal_threshold(np.arange(99.0), 0.001).extrapolated
        True
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    # 1e-9: (n + 1)(1 - fpr) is often a whole number that floating point puts just above itself
    wanted = math.ceil((n + 1) * (1 - target_fpr) - 1e-9)
    k = min(n, wanted)
    # eq. 6 flags score >= theta, the conformal bound is for score > s_(k): take the next number up
    value = float(np.nextafter(ordered[k - 1], np.inf))
    tail = tail_threshold(ordered, target_fpr) if wanted > n else None
    return Threshold(
        value=value if tail is None else max(value, tail),
        requested_fpr=target_fpr,
        achieved_fpr=(n + 1 - k) / (n + 1),
        n_images=n,
        extrapolated=tail is not None,
    )


def tail_threshold(ordered: Floats, fpr: float) -> float | None:
    """The score that a share `fpr` of good images exceeds, by a generalised Pareto fit to the m largest scores.

    The excesses over u = s_(n - m), which a new score exceeds with probability (m + 1) / (n + 1), have

        mean a, b = E[X (2 F(X) - 1)] (half of Gini's mean difference), shape xi = 2 - a / b, scale a (1 - xi)

    by probability-weighted moments, which beat maximum likelihood for samples this small (Hosking and Wallis 1987). xi is
    held in [0, 0.5]: m scores cannot tell that a tail ends, and a shape below zero would say so. The quantile is taken at
    shape xi + 1 / m: for exponential excesses u + m a (r^(1/m) - 1), r = (m + 1) / ((n + 1) fpr), is exceeded with
    probability fpr exactly, as a mean over calibration sets, while plain estimates put in are exceeded more often.

    Args:
        ordered: (n,) scores, ascending.
        fpr: below (m + 1) / (n + 1).

    Returns:
        The score, or None for fewer than 20 images or where the m largest scores are equal or not finite.
    """
    n = len(ordered)
    m = max(TAIL_SCORES, math.ceil(TAIL_SHARE * n))
    if n < FEWEST_FOR_A_TAIL:
        return None
    u, tail = ordered[n - m - 1], ordered[n - m :]
    if not -np.inf < u <= tail[0] < tail[-1] < np.inf:
        return None
    mean = float((tail - u).mean())
    weights = (2 * np.arange(1, m + 1) - m - 1) / (m * (m - 1))  # their sum is zero: any origin will do, the nearest is exact
    half_gini = float(weights @ (tail - tail[0]))
    shape = min(2 - mean / half_gini, LARGEST_SHAPE) if mean < 2 * half_gini else 0.0
    scale, exceeded = mean * (1 - shape), (m + 1) / (n + 1)
    return float(genpareto.isf(fpr / exceeded, shape + 1 / m, loc=u, scale=scale)) if scale > 0 else None


def conformal_p_values(calibration_scores: Floats, scores: Floats) -> Floats:
    """P-values of scores: (1 + number of calibration scores >= s) / (n + 1).

    Args:
        calibration_scores: (n,), in any order.
        scores: (m,).

    Returns:
        float64 (m,) in [1 / (n + 1), 1]; a good image gets a value <= p with probability at most p.
    """
    ordered = np.sort(calibration_scores)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.asarray((1.0 + at_least) / (len(ordered) + 1.0), dtype=np.float64)


def split_folds(n: int, folds: int, seed: int) -> list[list[int]]:
    """Splits n images into folds of nearly equal size for cross-fitting, no more folds than images.

    Returns:
        Sorted lists of positions, drawn from the seed, that together hold each image once.
    """
    order = np.random.default_rng([seed, 0, 2]).permutation(n)
    return [sorted(fold.tolist()) for fold in np.array_split(order, min(folds, n))]


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"

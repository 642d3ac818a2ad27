"""Thresholds and p-values from the scores of defect-free images that the flow has not seen.

Legend: n calibration images in G groups, s_(1) <= ... <= s_(n) their sorted scores, s the score of a new image, p a
false-alarm rate, m scores of the tail.

Split conformal: if a new good image is exchangeable with the calibration images, then P(s > s_(k)) is at most
(n + 1 - k) / (n + 1), with no assumption on the distribution (Vovk et al. 2005; Angelopoulos and Bates 2021). That is the
mean over calibration sets; the rate behind one set is Beta(n + 1 - k, k) for continuous scores (Vovk 2012).

Groups: images of one part are no independent draws, the parts are. If whole groups are exchangeable and the new image is of
a new one, its score is over s_(k) with probability at most (1 + G (n - k) / n) / (G + 1), about: the new group has the mass
1 / (G + 1) (hierarchical conformal prediction: Dunn et al. 2022; Lee, Barber and Willett 2023), which we spread evenly over
images, not over groups, because the promise is one about images. For groups of one image it is split conformal to the bit.

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

FEWEST_FOR_A_TAIL = 20  # groups
TAIL_SCORES, TAIL_SHARE = 10, 0.1  # m is the larger of these, the share rounded up
LARGEST_SHAPE = 0.5  # tails up to those of finite variance


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and what can be said of it.

    Attributes:
        value: an image is at or over the threshold if its score is >= value.
        requested_fpr: the false-alarm rate asked for.
        achieved_fpr: the rate that G groups can guarantee; larger than requested_fpr where they are too few for it.
        n_images: n.
        n_groups: G; n where each image is a draw of its own.
        extrapolated: whether the value is that of a fitted tail, over the one that achieved_fpr is guaranteed for.
    """

    value: float
    requested_fpr: float
    achieved_fpr: float
    n_images: int
    n_groups: int
    extrapolated: bool

    @property
    def guaranteed(self) -> bool:
        """Whether the groups suffice for the rate asked for."""
        return self.achieved_fpr <= self.requested_fpr

    def realised_interval(self, level: float = 0.9) -> tuple[float, float]:
        """Where the false-alarm rate behind this very set of calibration images lies.

        Args:
            level: the probability, over calibration sets of G groups, of an interval that holds the rate.

        Returns:
            Equal-tailed interval of Beta(a, G + 1 - a), a = achieved_fpr (G + 1), as if the images of a group had all the
            same score; from zero where the threshold is extrapolated. For tied scores its upper end is conservative.

        Example:
            >>> low, high = conformal_threshold(np.arange(99.0), 0.01).realised_interval()
            >>> round(low, 4), round(high, 4)
            (0.0005, 0.0298)
        """
        above = self.achieved_fpr * (self.n_groups + 1)
        low, high = beta.interval(level, above, self.n_groups + 1 - above)
        return (0.0 if self.extrapolated else float(low)), float(high)

    def statement(self, *, cross_fitted: bool = False) -> str:
        """What the threshold rests on, for people; to be read after "the threshold rests on".

        Example:
            >>> conformal_threshold(np.arange(9.0), 0.01).statement()
            '9 held-out good images: at most 10 % of good images are flagged; 1 % was asked for and takes 99'
        """
        achieved, requested = _percent(self.achieved_fpr), _percent(self.requested_fpr)
        grouped = self.n_groups < self.n_images
        images = f"{self.n_images} {'cross-fitted' if cross_fitted else 'held-out'} good images"
        images += f" of {self.n_groups} groups" if grouped else ""
        about = "approximately " if cross_fitted or grouped else ""
        text = f"{images}: {about}at most {achieved} of good images are flagged"
        if self.guaranteed and not cross_fitted:
            low, high = self.realised_interval()
            text += f", as a mean over such sets of images; {_percent(low)} to {_percent(high)} for 9 sets in 10"
        needed = f"{math.ceil(1 / self.requested_fpr - 1e-9) - 1}{' groups' if grouped else ''}"
        if self.extrapolated:
            text += f"; the threshold for {requested} is extrapolated by a tail fit: an estimate, a guarantee takes {needed}"
        elif not self.guaranteed:
            text += f"; {requested} was asked for and takes {needed}"
        return text


def conformal_threshold(scores: Floats, target_fpr: float, n_groups: int | None = None) -> Threshold:
    """The smallest threshold whose false-alarm rate is at most `target_fpr`, or the best that the images allow.

    Args:
        scores: (n,) scores of defect-free images that the flow has not seen, n >= 1.
        target_fpr: the share of good images that may be flagged, in (0, 1).
        n_groups: G, the groups that the images are of; None: each is one of its own, G = n.

    Returns:
        A value just above s_(k), for the smallest k whose rate (1 + G (n - k) / n) / (G + 1) is at most target_fpr. Where
        target_fpr < 1 / (G + 1) there is none: the value is then the one of `tail_threshold`, marked as extrapolated,
        and at least just above s_(n); or just above s_(n) where the scores do not allow a tail fit. A smaller target_fpr
        never has a smaller value.

    Example:
        >>> conformal_threshold(np.arange(99.0), 0.1).achieved_fpr
        0.1
        >>> conformal_threshold(np.arange(99.0), 0.001).extrapolated
        True
        >>> conformal_threshold(np.arange(99.0), 0.1, n_groups=19).achieved_fpr <= 0.1
        True
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    groups = n if n_groups is None else n_groups
    # 1e-9: what the rate leaves after the new group is often a whole number that floating point puts just below itself
    above = math.floor(n / groups * (target_fpr * (groups + 1) - 1) + 1e-9)
    flagged = min(max(above, 0), n - 1)
    # eq. 6 flags score >= theta, the conformal bound is for score > s_(k): take the next number up
    value = float(np.nextafter(ordered[n - flagged - 1], np.inf))
    tail = tail_threshold(ordered, target_fpr) if above < 0 and groups >= FEWEST_FOR_A_TAIL else None
    return Threshold(
        value=value if tail is None else max(value, tail),
        requested_fpr=target_fpr,
        achieved_fpr=(1 + flagged * groups / n) / (groups + 1),
        n_images=n,
        n_groups=groups,
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


def conformal_p_values(calibration_scores: Floats, scores: Floats, n_groups: int | None = None) -> Floats:
    """P-values of scores: (1 + G share of calibration scores >= s) / (G + 1).

    Args:
        calibration_scores: (n,), in any order.
        scores: (m,).
        n_groups: as in `conformal_threshold`.

    Returns:
        float64 (m,) in [1 / (G + 1), 1]; a good image gets a value <= p with probability at most p.
    """
    ordered = np.sort(calibration_scores)
    groups = len(ordered) if n_groups is None else n_groups
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.asarray((1.0 + at_least * groups / len(ordered)) / (groups + 1.0), dtype=np.float64)


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"

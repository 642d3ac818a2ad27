"""Thresholds and p-values from the scores of held-out defect-free images, by split-conformal order statistics.

Legend: n calibration images, s_(1) <= ... <= s_(n) their sorted scores, s the score of a new image.

If a new good image is exchangeable with the calibration images, then P(s >= s_(k) and s among the largest) is at most
(n + 1 - k) / (n + 1), with no assumption on the distribution (Vovk et al. 2005; Angelopoulos and Bates 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and what can be said of it.

    Attributes:
        value: an image is at or over the threshold if its score is >= value.
        requested_fpr: the false-alarm rate asked for.
        achieved_fpr: the rate that n images can guarantee; larger than requested_fpr where n is too small for it.
        n_images: n.
    """

    value: float
    requested_fpr: float
    achieved_fpr: float
    n_images: int

    @property
    def guaranteed(self) -> bool:
        """Whether n images suffice for the rate asked for."""
        return self.achieved_fpr <= self.requested_fpr


def conformal_threshold(scores: Floats, target_fpr: float) -> Threshold:
    """The smallest threshold whose false-alarm rate is at most `target_fpr`, or else just above the largest score.

    Args:
        scores: (n,) scores of defect-free images that the flow has not seen, n >= 1.
        target_fpr: the share of good images that may be flagged, in (0, 1).

    Returns:
        A value just above s_(k), k = ceil((n + 1)(1 - target_fpr)), at most n; its achieved rate is (n + 1 - k) / (n + 1).

    Example:
        >>> conformal_threshold(np.arange(99.0), 0.1).achieved_fpr
        0.1
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    # 1e-9: (n + 1)(1 - fpr) is often a whole number that floating point puts just above itself
    k = min(n, math.ceil((n + 1) * (1 - target_fpr) - 1e-9))
    # eq. 6 flags score >= theta, the conformal bound is for score > s_(k): take the next number up
    return Threshold(float(np.nextafter(ordered[k - 1], np.inf)), target_fpr, (n + 1 - k) / (n + 1), n)


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

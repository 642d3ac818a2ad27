"""Does tonight differ from the nights before? The unit is the night.

Legend: m trailing healthy nights, x_1 ... x_m a summary of each (a median, a mean), x tonight's, g nights cut at each end.

Pictures of one night share their light, so a two-sample test over images finds a difference in every large night; what
counts is how nights differ from each other. If the summaries of healthy nights are draws from one normal distribution, then

    t = (x - location) / sqrt(spread^2 + Var(location))      has about Student's distribution with m - 2 g - 1 degrees

with the trimmed mean as location and the winsorised standard deviation, made unbiased for normal nights, as spread: up to g
bad nights among the trailing ones neither move nor widen the reference (Tukey and McLaughlin 1963; Yuen 1974). For small m it
is conservative; benchmarks/alarms.py says by how much.

A summary of few images is less certain than one of many: where tonight's standard error is larger than those of the trailing
nights, the difference of their squares is added to spread^2, which is never below the square of tonight's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

Floats = npt.NDArray[np.float64]

TRIMMED = 0.1  # share of the nights that is cut at each end, one at least
_DRAWS = 40_000


@dataclass(frozen=True)
class Reference:
    """What a summary usually is.

    Attributes:
        location: of the nights.
        spread: standard deviation of a night.
        std_error: of the location.
        sampling_error: what of the spread is due to the number of images of a night, as a standard error.
        degrees: of freedom of the spread; infinite where it was assumed.
        n_nights: m; 0 where the calibration set is the reference.
    """

    location: float
    spread: float
    std_error: float
    sampling_error: float
    degrees: float
    n_nights: int


def reference_of_nights(values: Floats, std_errors: Floats) -> Reference:
    """The reference that m >= 7 healthy nights are; of fewer the spread is too uncertain for the degrees of freedom.

    Args:
        values: (m,) summaries.
        std_errors: (m,) of each as an estimate from its images.

    Example:
        >>> reference_of_nights(np.array([1.0, 2.0, 3.0, 4.0, 99.0]), np.zeros(5)).location
        3.0
    """
    m = len(values)
    g = max(1, int(TRIMMED * m))
    ordered = np.sort(values)
    kept = ordered[g : m - g]
    of_variance, of_location = _normal_nights(m, g)
    spread = float(np.clip(ordered, kept[0], kept[-1]).std(ddof=1) / np.sqrt(of_variance))
    sampling = float(np.median(std_errors))
    return Reference(float(kept.mean()), spread, spread * float(np.sqrt(of_location)), sampling, m - 2 * g - 1, m)


def reference_of_calibration(value: float, std_error: float, night_spread: float) -> Reference:
    """The reference that a calibration set is, if nights are assumed to differ by a normal shift of a standard deviation."""
    return Reference(value, night_spread, std_error, 0.0, np.inf, 0)


def night_p_value(value: float, std_error: float, reference: Reference) -> float:
    """Probability that a healthy night is as far from the reference, on either side.

    Args:
        value: tonight's summary.
        std_error: of it as an estimate from tonight's images.
        reference: what it usually is.

    Example:
        >>> reference = reference_of_nights(np.linspace(-1, 1, 28), np.zeros(28))
        >>> night_p_value(0.5, 0.0, reference) > 0.1 > 1e-6 > night_p_value(9.0, 0.0, reference)
        True
    """
    more = max(std_error**2 - reference.sampling_error**2, 0.0)
    variance = max(reference.spread**2 + more, std_error**2) + reference.std_error**2
    if variance == 0:
        return 1.0 if value == reference.location else 0.0
    return float(2 * t.sf(abs(value - reference.location) / np.sqrt(variance), reference.degrees))


@lru_cache(maxsize=256)
def _normal_nights(m: int, g: int) -> tuple[float, float]:
    """Mean winsorised variance of m standard normal nights, and the variance of their trimmed mean over the true one."""
    draws = np.sort(norm.ppf(np.random.default_rng([m, g]).random((_DRAWS, m))), axis=1)
    kept = draws[:, g : m - g]
    winsorised = np.clip(draws, kept[:, :1], kept[:, -1:])
    return float(winsorised.var(axis=1, ddof=1).mean()), float(kept.mean(axis=1).var())

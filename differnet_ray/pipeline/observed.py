"""What is observed of a night, and what is known of it: values that `night_summaries.py` makes and `judge.py` compares.

Legend: a cell is a category, or the images of it that have a value of an attribute, such as a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from differnet_ray.limits import VOLUME, AlarmLimits
from differnet_ray.model.nights import Reference, reference_of_calibration
from differnet_ray.model.rates import RatePrior

Floats = npt.NDArray[np.float64]

LOGARITHMIC = (VOLUME, "score_median", "score_q90", "sharpness")  # compared as ratios
SCORE_RATES = ("anomalous_rate", "review_rate", "outside_rate")
SMALLEST = 1e-12  # what the logarithm of zero is taken of
ERROR_OF_MEDIAN, ERROR_OF_Q90 = 1.2533, 1.7094  # times the deviation of n normal draws, over the root of n
NORMAL_IQR = 1.349  # quartiles of a normal distribution are so many standard deviations apart

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Observed:
    """A measure of a cell in a night.

    Attributes:
        category, attribute, attribute_value: the cell; two empty texts are all images of the category.
        measure: one of `limits.MEASURES`.
        n_images: that it is of.
        value: of the measure.
        count: flagged images, of rates.
        std_error: of the value as an estimate from these images, of medians and quantiles.
        image_spread: standard deviation of single images, robust; of medians and quantiles.
        model_version: that scored, of measures that depend on it.
    """

    category: str
    attribute: str
    attribute_value: str
    measure: str
    n_images: int
    value: float
    count: int | None = None
    std_error: float | None = None
    image_spread: float | None = None
    model_version: str | None = None

    @property
    def key(self) -> Key:
        """The cell and the measure."""
        return self.category, self.attribute, self.attribute_value, self.measure


@dataclass(frozen=True)
class Past:
    """The same in an earlier night.

    Attributes:
        dt: the night.
        observed: what was observed.
        healthy: nothing of its cell alarmed.
        drifted: its drift alarmed.
    """

    dt: date
    observed: Observed
    healthy: bool
    drifted: bool


@dataclass(frozen=True)
class Calibration:
    """What a model's calibration says of a night.

    Attributes:
        scores: (n,) of unseen good images.
        n_groups: that they are of.
        threshold, review_threshold: in use.
    """

    scores: Floats
    n_groups: int
    threshold: float
    review_threshold: float

    def prior(self, measure: str) -> RatePrior:
        """Of the rate over a threshold, or outside of the range of the scores."""
        n = len(self.scores)
        if measure == "outside_rate":
            return RatePrior(2.0, max(self.n_groups - 1.0, 1.0))
        threshold = self.threshold if measure == "anomalous_rate" else self.review_threshold
        # a threshold under the smallest score leaves nothing to the rest: half a group, so that it is a distribution
        n_over = min(int((self.scores >= threshold).sum()), n - 0.5 * n / self.n_groups)
        return RatePrior.of_calibration(n_over, n, self.n_groups)

    @property
    def _logs(self) -> Floats:
        return np.asarray(np.log(np.maximum(self.scores, SMALLEST)))

    @property
    def image_spread(self) -> float:
        """Robust standard deviation of the logarithm of single scores."""
        low, high = np.quantile(self._logs, (0.25, 0.75))
        return float(high - low) / NORMAL_IQR

    def reference(self, level: float, limits: AlarmLimits) -> Reference:
        """Of the logarithm of a quantile of a night."""
        logs, n = self._logs, self.n_groups
        step = np.sqrt(level * (1 - level) / n)
        low, high = np.quantile(logs, np.clip((level - step, level + step), 0, 1))
        # in the tail the quantiles end at the largest score: never less certain than the median's asymptotic error
        error = max(float(high - low) / 2, ERROR_OF_MEDIAN * self.image_spread / float(np.sqrt(n)))
        return reference_of_calibration(float(np.quantile(logs, level)), error, limits.assumed_night_shift * self.image_spread)


@dataclass(frozen=True)
class Judged:
    """A row of `drift` before its verdict.

    Attributes:
        observed: tonight.
        reference, reference_spread: of the measure, in its unit; the spread as a factor for what is compared as ratios.
        n_reference: healthy nights of the reference, 0 for the calibration set.
        effect: ratio of rates and volumes; of others the shift in standard deviations of single images.
        p_value: of tonight.
        log_e, drift, nights_drifting: of slow drift, its shift in the unit of `effect`, and how long it has lasted.
        relevant, drift_relevant: the effect is not below the smallest.
    """

    observed: Observed
    reference: float | None = None
    reference_spread: float | None = None
    n_reference: int = 0
    effect: float | None = None
    p_value: float = float("nan")
    log_e: float | None = None
    drift: float | None = None
    nights_drifting: int = 0
    relevant: bool = False
    drift_relevant: bool = False
    alarms: tuple[str, ...] = ()

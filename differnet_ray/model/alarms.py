"""How many false alarms a year become the level of each test of a night.

Three families of tests watch a night: counts (`rates.py`), whether tonight differs (`nights.py`) and slow drift
(`slow_drift.py`). N false alarms a year are N / 365.25 a night, a third of it for each family:

- counts, tonight: Holm's step-down procedure holds the probability of any false alarm of the family in a night at its level,
  however the tests depend on each other, and also while other alarms are true (Holm 1979). Benjamini and Yekutieli's procedure
  (scipy.stats.false_discovery_control) holds a share of false alarms among alarms instead: with ten true alarms in a night it
  lets a false one through more often than a promise about nights allows, and for the first alarm it is stricter by
  1 + 1/2 + ... + 1/m.
- drift: m detectors of average run length m c each alarm no more often than once in c nights together, since the mean of
  e-detectors is one (Shin, Ramdas and Rinaldo 2023, section 2).

By the union bound the expected number of false alarm nights is at most N a year.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NIGHTS_PER_YEAR = 365.25
FAMILIES = ("counts", "tonight", "drift")


@dataclass(frozen=True)
class Budget:
    """What each family may spend.

    Attributes:
        false_alarms_per_year: N.
    """

    false_alarms_per_year: float

    @property
    def level(self) -> float:
        """Probability of a false alarm of one family in one night.

        Example:
            >>> round(Budget(3).level * 365.25, 9)
            1.0
        """
        return self.false_alarms_per_year / NIGHTS_PER_YEAR / len(FAMILIES)

    @property
    def run_length(self) -> float:
        """Nights between two false alarms of the drift family, at least, on average."""
        return 1 / self.level


def family_wise(p_values: npt.ArrayLike, level: float) -> npt.NDArray[np.bool_]:
    """Which hypotheses Holm's procedure rejects: the probability of any false rejection is at most the level.

    Args:
        p_values: (m,), NaN where there was no test.
        level: in (0, 1).

    Returns:
        (m,) true where rejected.

    Example:
        >>> family_wise([0.5, 0.001, 0.02, np.nan], 0.05).tolist()
        [False, True, True, False]
    """
    values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    passed = values[order] <= level / np.arange(len(order), 0, -1)
    rejected = np.zeros(len(values), dtype=np.bool_)
    rejected[order[: len(order) if passed.all() else int(np.argmin(passed))]] = True
    return rejected

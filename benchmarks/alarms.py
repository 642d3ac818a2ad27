"""Whether alarms keep their promise: healthy nights of twenty categories, and what is found in nights that are not.

    python -m benchmarks.alarms [--nights 1000] [--plants 100] [--asked 2]

Twenty categories of 50 to 50,000 images a night with calibration sets of 20 to 500. Logarithms of scores are normal with the
standard deviation 1 of the calibration set; all images of a night are shifted together, by a normal draw whose standard
deviation differs by category, 0.05 to 0.25; brightness alike. Thresholds are those that `fit` would find for 1 % and 5 %; one
image in 1,000 cannot be read, five times as many in some nights as in others, and volumes vary by a tenth. Medians, quantiles
and counts are drawn from their exact distributions, not image by image.

`judge` of `pipeline/judge.py` decides, as in an audit. KS: scipy.stats.ks_2samp of the scores of a night against the
calibration set, each at the same yearly rate divided by the categories (Bonferroni), once with all images of the night and once
with 200 of them.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import ks_2samp, norm

from differnet_ray.limits import AlarmLimits
from differnet_ray.model.alarms import NIGHTS_PER_YEAR
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.pipeline.judge import judge
from differnet_ray.pipeline.observed import Calibration, Key, Observed, Past

Floats = npt.NDArray[np.float64]
FIRST = date(2024, 1, 1)
SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000) * 2
CALIBRATED = (20, 50, 100, 200, 500, 20, 50, 100, 200, 500, 500, 200, 100, 50, 20, 500, 200, 100, 50, 20)
NIGHT_SPREADS = (0.05, 0.15, 0.25)  # of image standard deviations, by category in turn


@dataclass
class Plant:
    """Twenty categories, their calibration sets and their nights so far."""

    rng: np.random.Generator
    correlation: float = 0.0  # of a night's shift with that of the night before
    tails: float = np.inf  # degrees of freedom of the shifts
    past: dict[Key, deque[Past]] = field(default_factory=dict)
    night: int = 0

    def __post_init__(self) -> None:
        self.calibrations = {}
        for c, n in enumerate(CALIBRATED):
            scores = np.exp(self.rng.standard_normal(n))
            limits = [conformal_threshold(scores, fpr).value for fpr in (0.01, 0.05)]
            self.calibrations[f"c{c}"] = Calibration(scores, n, limits[0], min(limits))
        self.shifts = np.zeros((2, len(SIZES)))

    def _draw(self, c: int, what: int) -> float:
        """Tonight's shift of the scores, or of the brightness."""
        fresh = self.rng.standard_normal() if np.isinf(self.tails) else self.rng.standard_t(self.tails)
        rest = np.sqrt(1 - self.correlation**2)
        self.shifts[what, c] = self.correlation * self.shifts[what, c] + rest * fresh
        return float(NIGHT_SPREADS[c % len(NIGHT_SPREADS)] * self.shifts[what, c])

    def observe(self, c: int, shift: float = 0.0, rate: float = 1.0, brightness: float = 0.0) -> list[Observed]:
        """A night of a category: its scores and brightness shifted, its rate over the threshold multiplied."""
        rng, name = self.rng, f"c{c}"
        calibration = self.calibrations[name]
        n = max(int(SIZES[c] * np.exp(0.1 * rng.standard_normal())), 5)
        shift += self._draw(c, 0)
        brightness += self._draw(c, 1)
        ends = np.array([calibration.threshold, calibration.review_threshold, calibration.scores.max()])
        over = ndtr(shift - np.log(ends))
        defects = rng.binomial(n, min((rate - 1) * over[0], 1.0))
        anomalous = min(rng.binomial(n, over[0]) + defects, n)
        review = min(anomalous + rng.binomial(n - anomalous, (over[1] - over[0]) / (1 - over[0])), n)
        under = ndtr(np.log(calibration.scores.min()) - shift)
        outside = min(rng.binomial(n, min(over[2] + under, 1.0)) + defects, n)
        unreadable = rng.binomial(n, 1e-3 * np.exp(0.4 * rng.standard_normal()))
        place = (name, "", "")
        found = [Observed(*place, "images", n, float(n))]
        for measure, count in (("anomalous", anomalous), ("review", review), ("outside", outside)):
            found.append(Observed(*place, f"{measure}_rate", n, count / n, count, model_version="1"))
        found.append(Observed(*place, "unreadable_rate", n, unreadable / n, unreadable))
        found.append(Observed(*place, "missing_rate", n, 0.0, 0))
        middle, upper = _quantiles(rng, n)
        for measure, level, at in (("score_median", 0.5, middle), ("score_q90", 0.9, upper)):
            value = float(np.exp(at + shift))
            error = np.sqrt(level * (1 - level) / n) / norm.pdf(ndtri(level)) * value
            found.append(Observed(*place, measure, n, value, None, float(error), value, "1"))
        bright = 120 + 10 * (_quantiles(rng, n)[0] + brightness)
        found.append(Observed(*place, "brightness", n, bright, None, 12.533 / np.sqrt(n), 10.0))
        return found

    def judged(self, observed: Sequence[Observed], limits: AlarmLimits) -> list[tuple[str, str, str]]:
        """Judges a night; returns category, measure and alarm of each alarm."""
        dt = FIRST + timedelta(days=self.night)
        rows = judge(dt, observed, self.past, self.calibrations, limits)
        return [(row["category"], row["measure"], row["alarm"]) for row in rows if row["verdict"] == "alarm"]

    def remember(self, observed: Sequence[Observed], alarms: Sequence[tuple[str, str, str]], days: int) -> None:
        """The night becomes one of the past."""
        dt = FIRST + timedelta(days=self.night)
        sick = {category for category, _, _ in alarms}
        drifted = {(category, measure) for category, measure, alarm in alarms if "drift" in alarm}
        for one in observed:
            night = Past(dt, one, one.category not in sick, (one.category, one.measure) in drifted)
            self.past.setdefault(one.key, deque(maxlen=days)).append(night)
        self.night += 1


def _quantiles(rng: np.random.Generator, n: int) -> tuple[float, float]:
    """Median and 90 % quantile of n standard normal draws: order statistics of uniform ones are beta."""
    k, m = (n + 1) // 2, max(int(np.ceil(0.9 * n)), (n + 1) // 2 + 1)
    middle = rng.beta(k, n + 1 - k)
    upper = middle + (1 - middle) * rng.beta(m - k, n + 1 - m)
    return float(ndtri(middle)), float(ndtri(upper))


def healthy(name: str, nights: int, limits: AlarmLimits, seed: int, plants: int = 1, **how: float) -> str:
    """A row: false-alarm nights among healthy ones."""
    found, families = 0, dict.fromkeys(("counts", "tonight", "drift"), 0)
    for number in range(plants):
        plant = Plant(np.random.default_rng([seed, number]), **how)
        for _ in range(nights):
            observed = [one for c in range(len(SIZES)) for one in plant.observe(c)]
            alarms = plant.judged(observed, limits)
            found += bool(alarms)
            for family in families:
                families[family] += any(family in alarm for _, _, alarm in alarms)
            plant.remember(observed, alarms, limits.days_back)
    asked = limits.false_alarms_per_year * nights * plants / NIGHTS_PER_YEAR
    parts = " | ".join(str(count) for count in families.values())
    return f"| {name} | {nights * plants:,} | {asked:.1f} | {found} | {parts} |"


def power(plants: int, limits: AlarmLimits, seed: int) -> list[str]:
    """Rows: shares of categories in which a change is found on its first night, by what, and within ten nights."""
    changes: dict[str, dict[str, float]] = {f"scores + {shift:g} SD": {"shift": shift} for shift in (0.25, 0.5, 1.0)}
    changes |= {f"brightness - {shift:g} SD": {"brightness": -shift} for shift in (0.25, 0.5, 1.0)}
    changes |= {f"anomalous x {rate:g}": {"rate": rate} for rate in (2.0, 5.0)}
    first = {name: np.zeros((3, 2)) for name in changes}
    later = {name: np.zeros(2) for name in changes}
    for number in range(plants):
        plant = Plant(np.random.default_rng([seed, number]))
        for _ in range(limits.reference_nights):
            plant.remember([one for c in range(len(SIZES)) for one in plant.observe(c)], (), limits.days_back)
        kept = {key: list(nights) for key, nights in plant.past.items()}
        for name, change in changes.items():
            plant.past, plant.night = {key: deque(nights) for key, nights in kept.items()}, limits.reference_nights
            changed = set(range(number % 5, len(SIZES), 5))  # the others are healthy
            caught: set[int] = set()
            for day in range(10):
                each = ((c, change if c in changed else {}) for c in range(len(SIZES)))
                observed = [one for c, how in each for one in plant.observe(c, **how)]
                alarms = plant.judged(observed, limits)
                hit = changed & {int(category[1:]) for category, _, _ in alarms}
                caught |= hit
                if day == 0:
                    for c in hit:
                        first[name][c % 3, 0] += 1
                    for c in changed:
                        first[name][c % 3, 1] += 1
                plant.remember(observed, alarms, limits.days_back)
            later[name] += (len(caught), len(changed))
    rows = []
    for name, by_spread in first.items():
        shares = " | ".join(f"{found / n:.0%}" for found, n in by_spread)
        rows.append(f"| {name} | {shares} | {later[name][0] / later[name][1]:.0%} |")
    return rows


def kolmogorov_smirnov(nights: int, asked: float, seed: int, most: int | None) -> str:
    """A row: the nights in which a two-sample test over images finds a difference in healthy nights."""
    rng, alarms = np.random.default_rng(seed), 0
    calibrations = [rng.standard_normal(n) for n in CALIBRATED]
    level = asked / NIGHTS_PER_YEAR / len(SIZES)
    for _ in range(nights):
        shifts = rng.standard_normal(len(SIZES)) * np.resize(NIGHT_SPREADS, len(SIZES))
        samples = [rng.standard_normal(min(n, most or n)) + shift for n, shift in zip(SIZES, shifts, strict=True)]
        found = [ks_2samp(a, b, method="asymp").pvalue for a, b in zip(samples, calibrations, strict=True)]
        alarms += min(found) <= level
    images = f"at most {most} images" if most else "all images"
    return f"| KS, {images} against the calibration set | {nights} | {asked * nights / NIGHTS_PER_YEAR:.1f} | {alarms} | | | |"


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--plants", type=int, default=5)
    parser.add_argument("--asked", type=float, default=2.0)
    given = parser.parse_args()
    limits = AlarmLimits(false_alarms_per_year=given.asked)
    spreads = " | ".join(f"nights vary by {spread:g} SD" for spread in NIGHT_SPREADS)
    print(f"| change, found on its first night | {spreads} | within 10 nights, all |\n|" + "---|" * 5)
    print("\n".join(power(given.plants, limits, 6)), flush=True)
    print("\n| healthy nights | nights | asked for, at most | with a false alarm | counts | tonight | drift |\n|" + "---|" * 7)
    print(healthy("as described", given.nights, limits, 1), flush=True)
    for most in (None, 200):
        print(kolmogorov_smirnov(max(given.nights // 10, 1), given.asked, 5, most), flush=True)
    print(healthy("first 30 nights of new plants", 30, limits, 2, plants=max(given.nights // 100, 1)), flush=True)
    print(healthy("shifts correlated by 0.5", given.nights // 4, limits, 3, correlation=0.5), flush=True)
    print(healthy("shifts of Student's t, 5 degrees", given.nights // 4, limits, 4, tails=5.0), flush=True)


if __name__ == "__main__":
    main()

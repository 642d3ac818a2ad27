"""BRIDGE: what is observed of a night, against the nights before it and the calibration set: the rows of `drift`.

observations of all categories -> a test of each -> the level that the number of tests leaves to each -> verdicts in words

Legend: a cell is a category, or the images of it that have a value of an attribute, such as a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from differnet_ray.limits import VALUES, VOLUME, AlarmLimits
from differnet_ray.model.alarms import Budget, family_wise
from differnet_ray.model.nights import Reference, night_p_value, reference_of_nights
from differnet_ray.model.rates import SELDOM, rate_test
from differnet_ray.model.slow_drift import slow_drift
from differnet_ray.pipeline.attribution import ALARM, LIMIT, attributed
from differnet_ray.pipeline.observed import (
    ERROR_OF_MEDIAN,
    ERROR_OF_Q90,
    LOGARITHMIC,
    SCORE_RATES,
    SMALLEST,
    Calibration,
    Judged,
    Key,
    Observed,
    Past,
)
from differnet_ray.pipeline.verdict_words import words_of

OK, MUTED, NO_REFERENCE = "ok", "muted", "no_reference"
NO_IMAGES = 0.5  # what their logarithm is taken of
_LARGEST_LOG = 700.0  # exp of it is a float


def judge(
    dt: date,
    observed: Sequence[Observed],
    past: Mapping[Key, Sequence[Past]],
    calibrations: Mapping[str, Calibration],
    limits: AlarmLimits,
) -> list[dict[str, Any]]:
    """The rows of `tables.DRIFT` of a night.

    Args:
        dt: the night.
        observed: of all cells.
        past: earlier nights of each, in order, at most `limits.days_back` days back.
        calibrations: of the models that scored, by category.
        limits: what is asked for.
    """
    judged = [
        _judged(dt, one, _reference_nights(dt, one, past.get(one.key, ()), limits), calibrations.get(one.category), limits)
        for one in observed
    ]
    alarms = _alarms(judged, Budget(limits.false_alarms_per_year))
    rows = [_row(dt, replace(one, alarms=found), limits) for one, found in zip(judged, alarms, strict=True)]
    return attributed(rows)


def _reference_nights(dt: date, one: Observed, past: Sequence[Past], limits: AlarmLimits) -> list[Past]:
    """Healthy nights that tonight can be compared with: since the last known change, and by the same model."""
    first = limits.reference_from(*one.key)
    return [
        night
        for night in past
        if first <= night.dt < dt
        and (dt - night.dt).days <= limits.days_back
        and (night.healthy or night.drifted)
        and night.observed.model_version == one.model_version
    ]


def _judged(dt: date, one: Observed, nights: list[Past], calibration: Calibration | None, limits: AlarmLimits) -> Judged:
    healthy = [night.observed for night in nights if night.healthy]
    recent = healthy[-limits.reference_nights :]
    if one.measure in VALUES:
        found = _shift(one, recent, calibration, limits)
        return _with_drift(dt, found, nights, calibration, limits)
    return _volume(one, recent, limits) if one.measure == VOLUME else _rate(one, recent, calibration, limits)


def _rate(one: Observed, nights: list[Observed], calibration: Calibration | None, limits: AlarmLimits) -> Judged:
    if one.measure not in SCORE_RATES:
        prior = SELDOM
    elif calibration is not None:
        prior = calibration.prior(one.measure)
    elif len(nights) >= limits.fewest_nights:
        prior = SELDOM
    else:
        return Judged(one, n_reference=len(nights))
    counts = [(night.count or 0, night.n_images) for night in nights]
    found = rate_test(one.count or 0, one.n_images, prior, counts, limits.assumed_night_factor)
    ratio = one.value / found.expected
    return Judged(one, found.expected, found.spread, len(nights), ratio, found.p_value, relevant=ratio >= limits.smallest_ratio)


def _volume(one: Observed, nights: list[Observed], limits: AlarmLimits) -> Judged:
    if len(nights) < limits.fewest_nights:
        return Judged(one, n_reference=len(nights))
    counts = np.array([max(night.value, NO_IMAGES) for night in nights])
    reference = reference_of_nights(np.log(counts), 1 / np.sqrt(np.maximum(counts, 1.0)))
    tonight = max(one.value, NO_IMAGES)
    ratio = tonight / float(np.exp(reference.location))
    # weekends are healthy: only what no night of the reference had is more or less than usual
    outside = not counts.min() <= tonight <= counts.max()
    usual = max(float(np.exp(reference.location)), 1.0)
    p_value = night_p_value(float(np.log(tonight)), usual**-0.5, reference)  # a healthy night has about the usual error
    relevant = outside and max(ratio, 1 / ratio) >= limits.smallest_ratio
    return _compared(one, reference, one.value / float(np.exp(reference.location)), p_value, relevant)


def _shift(one: Observed, nights: list[Observed], calibration: Calibration | None, limits: AlarmLimits) -> Judged:
    of_scores = one.measure.startswith("score_")
    if len(nights) >= limits.fewest_nights:
        compared = np.array([_compared_as(night) for night in nights])
        reference = reference_of_nights(compared[:, 0], compared[:, 1])
    elif of_scores and calibration is not None:
        reference = calibration.reference(0.5 if one.measure == "score_median" else 0.9, limits)
    else:
        return Judged(one, n_reference=len(nights))
    value, std_error = _compared_as(one)
    unit = _unit(one, nights, calibration)
    shift = (value - reference.location) / unit
    usual = (ERROR_OF_Q90 if one.measure == "score_q90" else ERROR_OF_MEDIAN) * unit / one.n_images**0.5
    p_value = night_p_value(value, max(std_error, usual), reference)  # few images hardly say how far they spread
    return _compared(one, reference, shift, p_value, abs(shift) >= limits.smallest_shift)


def _compared(one: Observed, reference: Reference, effect: float, p_value: float, relevant: bool) -> Judged:
    as_ratio = one.measure in LOGARITHMIC
    location, spread = (float(np.exp(part)) if as_ratio else part for part in (reference.location, reference.spread))
    return Judged(one, location, spread, reference.n_nights, effect, p_value, relevant=relevant)


def _with_drift(dt: date, found: Judged, nights: list[Past], calibration: Calibration | None, limits: AlarmLimits) -> Judged:
    one = found.observed
    watched = [night for night in nights if night.healthy]
    if len(watched) < limits.fewest_nights:
        return found
    values = np.array([_compared_as(night.observed)[0] for night in watched] + [_compared_as(one)[0]])
    days = np.array([night.dt.toordinal() for night in watched] + [dt.toordinal()])
    alarmed = max((night.dt.toordinal() for night in nights if night.drifted), default=-1)
    evidence = slow_drift(values, days, horizon=limits.drift_days, fewest=limits.fewest_nights, after=alarmed)
    if evidence.began < 0:
        return found
    drift = (evidence.since - evidence.before) / _unit(one, [night.observed for night in watched], calibration)
    return replace(
        found,
        log_e=evidence.log_e,
        drift=drift,
        nights_drifting=len(values) - evidence.began,
        drift_relevant=abs(drift) >= limits.smallest_shift,
    )


def _compared_as(one: Observed) -> tuple[float, float]:
    """The value as it is compared, with its standard error."""
    error = one.std_error or 0.0
    if one.measure not in LOGARITHMIC:
        return one.value, error
    value = max(one.value, SMALLEST)
    return float(np.log(value)), error / value


def _unit(one: Observed, nights: Sequence[Observed], calibration: Calibration | None) -> float:
    """Standard deviation of single images in what is compared."""
    if one.measure.startswith("score_") and calibration is not None:
        unit = calibration.image_spread
    else:
        of_nights = [night for night in (*nights, one) if night.image_spread is not None]
        spreads = [
            (night.image_spread or 0.0) / (max(night.value, SMALLEST) if night.measure in LOGARITHMIC else 1.0)
            for night in of_nights
        ]
        unit = float(np.median(spreads)) if spreads else 0.0
    return max(unit, 1e-9)


def _alarms(judged: Sequence[Judged], budget: Budget) -> list[tuple[str, ...]]:
    """The families that alarm, for each.

    Categories as a whole share one half of a family's level and their parts the other, so that many lines and cameras do not
    make whole categories deaf.
    """
    alarms: list[list[str]] = [[] for _ in judged]
    parts = np.array([one.observed.attribute != "" for one in judged], dtype=np.bool_)
    share = 0.5 if parts.any() and not parts.all() else 1.0
    values = np.array([one.observed.measure in VALUES for one in judged], dtype=np.bool_)
    for chosen in (parts, ~parts):
        for family, members in (("counts", chosen & ~values), ("tonight", chosen & values)):
            places = np.flatnonzero(members).tolist()
            found = family_wise([judged[place].p_value for place in places], share * budget.level)
            for place, rejected in zip(places, found, strict=True):
                if rejected and judged[place].relevant:
                    alarms[place].append(family)
        streams = [place for place in np.flatnonzero(chosen).tolist() if judged[place].log_e is not None]
        needed = np.log(max(len(streams), 1) * budget.run_length / share)
        for place in streams:
            if (judged[place].log_e or 0.0) >= needed and judged[place].drift_relevant:
                alarms[place].append("drift")
    return [tuple(found) for found in alarms]


def _row(dt: date, one: Judged, limits: AlarmLimits) -> dict[str, Any]:
    observed = one.observed
    highest, lowest = limits.at_most.get(observed.measure, np.inf), limits.at_least.get(observed.measure, -np.inf)
    alarms = one.alarms if lowest <= observed.value <= highest else (*one.alarms, LIMIT)
    tested = not np.isnan(one.p_value)
    mute = limits.muted_by(*observed.key, dt)
    untroubled = OK if tested else NO_REFERENCE
    verdict = untroubled if not alarms else ALARM if mute is None else MUTED
    return {
        "dt": dt,
        "category": observed.category,
        "attribute": observed.attribute,
        "attribute_value": observed.attribute_value,
        "measure": observed.measure,
        "n_images": observed.n_images,
        "count": observed.count,
        "value": observed.value,
        "std_error": observed.std_error,
        "image_spread": observed.image_spread,
        "model_version": observed.model_version,
        "reference": one.reference,
        "reference_spread": one.reference_spread,
        "n_reference": one.n_reference,
        "effect": one.effect,
        "p_value": one.p_value if tested else None,
        "e_value": None if one.log_e is None else float(np.exp(min(one.log_e, _LARGEST_LOG))),
        "drift": one.drift,
        "verdict": verdict,
        "alarm": ",".join(alarms) or None,
        "reason": words_of(one, alarms, limits, mute) if alarms or not tested else None,
    }

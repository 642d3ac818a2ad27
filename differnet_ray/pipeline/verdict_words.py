"""Why a row of `drift` has its verdict, in words."""

from __future__ import annotations

from collections.abc import Sequence

from differnet_ray.limits import RATES, VOLUME, AlarmLimits, Muted
from differnet_ray.pipeline.observed import LOGARITHMIC, Judged

_NAMES = {
    "anomalous_rate": "anomalous",
    "review_rate": "anomalous or for review",
    "outside_rate": "outside of the range of the calibration scores",
    "unreadable_rate": "unreadable",
    "missing_rate": "missing",
    "score_median": "median score",
    "score_q90": "90 % quantile of the score",
    "brightness": "brightness",
    "contrast": "contrast",
    "sharpness": "sharpness",
}


def words_of(one: Judged, alarms: Sequence[str], limits: AlarmLimits, mute: Muted | None) -> str:
    """The sentence of an alarm, or of what could not be tested."""
    if not alarms:
        nights = "healthy night" if one.n_reference == 1 else "healthy nights"
        return f"not judged: {one.n_reference} {nights}, {limits.fewest_nights} make a reference"
    sentences = []
    if "counts" in alarms or "tonight" in alarms:
        sentences.append(_tonight(one))
    if "drift" in alarms:
        sentences.append(_drifting(one))
    if "limit" in alarms:
        sentences.append(_over_the_limit(one, limits))
    if mute is not None:
        sentences.append(f"muted{': ' + mute.why if mute.why else ''}")
    return "; ".join(sentences)


def _tonight(one: Judged) -> str:
    observed, chance = one.observed, f"probability {one.p_value:.1g} in a healthy night"
    reference, spread = one.reference or 0.0, one.reference_spread or 0.0
    if observed.measure == VOLUME:
        return f"{observed.n_images} images, usually about {reference:.0f} ({_basis(one)}; {chance})"
    if observed.measure in RATES:
        found = f"{observed.count} of {observed.n_images} images {_NAMES[observed.measure]} ({_percent(observed.value)})"
        return f"{found}, expected {_percent(reference)} from {_basis(one)}; {chance}"
    usual = f"{reference:.4g}, give or take {_percent(spread - 1)}" if _as_ratio(one) else f"{reference:.4g} ± {spread:.2g}"
    shift = f"{one.effect:+.2g} standard deviations of an image" if one.effect is not None else ""
    return f"{_NAMES[observed.measure]} {observed.value:.4g}, usually {usual} ({_basis(one)}): {shift}; {chance}"


def _drifting(one: Judged) -> str:
    drift = f"{one.drift:+.2g} standard deviations of an image"
    nights = f"{one.nights_drifting} night{'s' if one.nights_drifting > 1 else ''}"
    return f"{_NAMES[one.observed.measure]} has drifted by {drift} over the last {nights}"


def _over_the_limit(one: Judged, limits: AlarmLimits) -> str:
    observed = one.observed
    highest = limits.at_most.get(observed.measure)
    name = "images" if observed.measure == VOLUME else _NAMES[observed.measure]
    if highest is not None and observed.value > highest:
        return f"{name}: {observed.value:.4g}, over the limit of {highest:g}"
    return f"{name}: {observed.value:.4g}, under the limit of {limits.at_least[observed.measure]:g}"


def _basis(one: Judged) -> str:
    nights = f"{one.n_reference} night{'s' if one.n_reference > 1 else ''}"
    if one.observed.measure in ("anomalous_rate", "review_rate", "outside_rate") and one.n_reference:
        return f"the calibration set and {nights}"
    return nights if one.n_reference else "the calibration set"


def _as_ratio(one: Judged) -> bool:
    return one.observed.measure in LOGARITHMIC


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

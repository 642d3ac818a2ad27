"""Slow drift: a detector whose false alarms are rare however long it runs.

Legend: x_1 ... x_t a summary of each night, k the night of a change, u its shape, delta its size in spreads of a night.

Healthy nights are draws from a normal distribution of unknown mean and spread. The evidence that they changed on night k by
delta u, u a step (0 ... 0 1 1 1) or a ramp (0 ... 0 1 2 3), is the likelihood ratio of what does not depend on that mean and
spread. With y = x and v = u, both less their means, c = y v / (|y| |v|), l = delta |v| and nu = t - 1:

    B = exp(-l^2 / 2) E[exp(l c X)],   X^2 ~ chi^2_nu

the ratio of the densities of a noncentral and a central t (right Haar priors: Berger, Pericchi and Varshavsky 1998). It is a
test martingale from night k on (Hendriksen, de Heide and Gruenwald 2021; Perez-Ortiz et al. 2022), and so is its mean over
shapes, sizes and signs. Their sum over all k, a Shiryaev-Roberts statistic, is an e-detector: its mean at any stopping time is
at most the mean of that time, so the first night at which it is c or more comes after c nights or later, on average
(Shin, Ramdas and Rinaldo 2023, E-detectors, definition 2.2 and theorem 2.4).

Only the last H days are candidates for k, and each is judged with the nights from the block of H days before its own on:
leaving candidates out keeps the bound, and a year need not be read every night.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]

STEPS = (0.5, 1.0, 2.0, 4.0, 8.0)  # spreads of a night
RAMPS = (0.25, 0.5, 1.0, 2.0)  # spreads a night
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_LOG_WEIGHTS = np.log(_WEIGHTS)


@dataclass(frozen=True)
class Drift:
    """The evidence for a change.

    Attributes:
        log_e: logarithm of the e-detector.
        began: index of the night of the likeliest change; -1 where there is no candidate.
        before, since: means of the nights before that one, and from it on.
    """

    log_e: float
    began: int
    before: float
    since: float


def slow_drift(values: Floats, days: Days, *, horizon: int, fewest: int, after: int = -1) -> Drift:
    """The e-detector on the last of some nights.

    Args:
        values: (t,) summaries of healthy nights and of tonight, in order.
        days: (t,) of each, counted from any day.
        horizon: H.
        fewest: nights before a change that it is judged by.
        after: the last alarm; changes up to that day are no candidates any more.

    Returns:
        The evidence; log_e is -inf where there are too few nights.

    Example:
        >>> nights = np.random.default_rng(0).normal(size=40)
        >>> steady = slow_drift(nights, np.arange(40), horizon=40, fewest=7)
        >>> drifting = slow_drift(nights + np.maximum(np.arange(40) - 29, 0), np.arange(40), horizon=40, fewest=7)
        >>> bool(steady.log_e < np.log(100) < np.log(100_000) < drifting.log_e)
        True
    """
    tonight = int(days[-1])
    logs: list[Floats] = []
    changes: list[tuple[int, int]] = []
    blocks = days // horizon
    for block in np.unique(blocks[days > tonight - horizon]):
        anchor = int(np.searchsorted(days, (block - 1) * horizon))
        candidates = np.flatnonzero((blocks == block) & (days > max(tonight - horizon, after)))
        candidates = candidates[candidates - anchor >= fewest]
        if len(candidates):
            logs.append(_log_ratios(values[anchor:], candidates - anchor))
            changes += [(anchor, int(k)) for k in candidates]
    if not logs:
        return Drift(-np.inf, -1, np.nan, np.nan)
    ratios = np.concatenate(logs)
    anchor, began = changes[int(np.argmax(ratios))]
    return Drift(float(logsumexp(ratios)), began, float(values[anchor:began].mean()), float(values[began:].mean()))


def _log_ratios(values: Floats, changes: Days) -> Floats:
    """Logarithm of the mean of B over shapes, sizes and signs: one for each night of a change."""
    since = np.maximum(np.arange(len(values))[None, :] - changes[:, None] + 1.0, 0.0)
    shapes = np.concatenate([np.minimum(since, 1.0), since])  # (2 changes, t)
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    lengths = np.sqrt((shapes**2).sum(axis=1))
    y = values - values.mean()
    size = float(np.sqrt(y @ y))
    if size <= 1e-12 * float(np.abs(values).max()):  # all the same: nothing is known of the spread of a night
        return np.zeros(len(changes))
    c = np.clip(shapes @ y / (lengths * size), -1.0, 1.0)
    n = len(changes)
    logs = []
    for part, deltas in ((slice(0, n), STEPS), (slice(n, 2 * n), RAMPS)):
        signed = np.array([*deltas, *(-delta for delta in deltas)])
        lam = signed[None, :] * lengths[part, None]
        found = log_ratio(lam, np.broadcast_to(c[part, None], lam.shape), len(values) - 1)
        logs.append(logsumexp(found, axis=1) - np.log(len(signed)))
    return np.asarray(np.logaddexp(*logs) - np.log(2))


def log_ratio(lam: Floats, c: Floats, degrees: int) -> Floats:
    """Log B, element by element; a Gauss rule about the peak of the integrand r^(nu - 1) exp(-r^2 / 2 + l c r).

    Args:
        lam: l.
        c: correlation with the shape.
        degrees: nu, at least 2.
    """
    a = lam * c
    peak = (a + np.sqrt(a**2 + 4 * (degrees - 1))) / 2
    width = 1 / np.sqrt(1 + (degrees - 1) / peak**2)
    r = peak[..., None] + width[..., None] * _NODES
    inside = r > 0
    at_peak = (degrees - 1) * np.log(peak) - peak**2 / 2 + a * peak
    log_r = np.log(np.where(inside, r, 1.0))
    terms = (degrees - 1) * log_r + r * (a[..., None] - r / 2) + (_NODES**2 / 2 + _LOG_WEIGHTS) - at_peak[..., None]
    log_integral = np.log(np.where(inside, np.exp(terms), 0.0).sum(axis=-1)) + at_peak + np.log(width)
    log_norm = gammaln(degrees / 2) + (degrees / 2 - 1) * np.log(2)
    return np.asarray(log_integral - log_norm - lam**2 / 2)

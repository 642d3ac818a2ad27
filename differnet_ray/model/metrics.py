"""How well anomaly scores separate good from anomalous images.

Legend: N images, K distinct scores. A larger score means more anomalous; images with equal scores are never told apart.
Positive means anomalous, so a false positive is a good image called anomalous (a false alarm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from differnet_ray.labels import GOOD


@dataclass(frozen=True)
class RocCurve:
    """Receiver operating characteristic: what each threshold finds, and what it costs in false alarms.

    Attributes:
        false_positive_rate: (K + 1,) float64, ascending from 0 to 1: share of good images with score >= threshold.
        true_positive_rate: (K + 1,) float64, ascending from 0 to 1: share of anomalous images found (recall).
        thresholds: (K + 1,) float64: +inf, then the distinct scores in descending order.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc_curve(scores: ArrayLike, is_anomaly: ArrayLike) -> RocCurve:
    """Receiver operating characteristic of the decision `score >= threshold` (eq. 6 of the DifferNet paper).

    The points are those of scikit-learn's `roc_curve(..., drop_intermediate=False)`.

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.

    Returns:
        The curve, one point per distinct score after the point (0, 0) at threshold +inf.

    Raises:
        ValueError: the shapes differ, a score is NaN, or one of the two groups is empty.

    Example:
        >>> curve = roc_curve([1.0, 2.0, 3.0], [False, True, True])
        >>> curve.true_positive_rate.tolist()
        [0.0, 0.5, 1.0, 1.0]
    """
    thresholds, false_positives, true_positives = _counts(scores, is_anomaly)
    return RocCurve(
        false_positive_rate=false_positives / false_positives[-1],
        true_positive_rate=true_positives / true_positives[-1],
        thresholds=thresholds,
    )


def auroc(scores: ArrayLike, is_anomaly: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous image scores higher than a good one, ties counting half.

    This is the Mann-Whitney statistic divided by the number of (good, anomalous) pairs; equal to scikit-learn's
    `roc_auc_score`. It is summed in whole numbers, so it depends on the order of the scores alone.

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: the shapes differ, a score is NaN, or one of the two groups is empty.

    Example:
        >>> auroc([1.0, 2.0, 2.0, 3.0], [False, False, True, True])
        0.875
    """
    _, false_positives, true_positives = _counts(scores, is_anomaly)
    twice_the_wins = np.sum(np.diff(false_positives) * (true_positives[1:] + true_positives[:-1]))
    return float(twice_the_wins / (2 * false_positives[-1] * true_positives[-1]))


def average_precision(scores: ArrayLike, is_anomaly: ArrayLike) -> float:
    """Area under the precision-recall curve: sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation.

    The definition is that of scikit-learn's `average_precision_score`.

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.

    Returns:
        The average precision, in (0, 1]; chance is the share of anomalous images.

    Raises:
        ValueError: the shapes differ, a score is NaN, or one of the two groups is empty.

    Example:
        >>> average_precision([1.0, 2.0, 3.0, 4.0], [False, True, False, True])
        0.8333333333333333
    """
    _, false_positives, true_positives = _counts(scores, is_anomaly)
    precision = true_positives[1:] / (true_positives[1:] + false_positives[1:])
    return float(np.sum(np.diff(true_positives) * precision) / true_positives[-1])


def recall_at_fpr(scores: ArrayLike, is_anomaly: ArrayLike, max_fpr: float = 0.0) -> float:
    """Share of the anomalous images that can be found while false alarms stay rare.

    The best recall over all thresholds theta of eq. 6 (anomalous if score >= theta) whose false positive rate is at
    most `max_fpr`. With the default it is the recall without any false alarm (Fig. 5 of the DifferNet paper).

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.
        max_fpr: largest allowed share of good images called anomalous, in [0, 1].

    Returns:
        The recall, in [0, 1].

    Raises:
        ValueError: the shapes differ, a score is NaN, one of the two groups is empty, or `max_fpr` is not in [0, 1].

    Example:
        >>> recall_at_fpr([1.0, 2.0, 2.0, 3.0], [False, False, True, True])
        0.5
    """
    if not 0.0 <= max_fpr <= 1.0:
        raise ValueError(f"max_fpr must be in [0, 1], found {max_fpr}")
    curve = roc_curve(scores, is_anomaly)
    return float(curve.true_positive_rate[curve.false_positive_rate <= max_fpr][-1])


def f1_max(scores: ArrayLike, is_anomaly: ArrayLike) -> float:
    """Largest F1 over all thresholds: the harmonic mean of precision and recall, 2 TP / (TP + FP + anomalous images).

    The threshold is chosen on the very images that it is measured on, so this is what a threshold could reach at best.

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.

    Returns:
        The F1, in (0, 1]; calling every image anomalous gives 2 p / (1 + p) where p is the share of anomalous images.

    Raises:
        ValueError: the shapes differ, a score is NaN, or one of the two groups is empty.

    Example:
        >>> f1_max([1.0, 2.0, 3.0, 4.0], [False, True, False, True])
        0.8
    """
    _, false_positives, true_positives = _counts(scores, is_anomaly)
    return float(np.max(2 * true_positives / (true_positives + false_positives + true_positives[-1])))


def bootstrap_interval(
    metric: Callable[[ArrayLike, ArrayLike], float],
    scores: ArrayLike,
    is_anomaly: ArrayLike,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap: the range of a metric over test sets drawn, with replacement, from the images at hand.

    Good and anomalous images are drawn separately, as many of each as there are (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, chapters 8 and 13). It says how much the choice of the test images matters, not
    how much another fit would. Unlike `scipy.stats.bootstrap`, it takes a group of one image.

    Args:
        metric: such as `auroc`, called with (N,) scores and (N,) bools.
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        is_anomaly: (N,) bool.
        n_resamples: number of drawn test sets, at least 1.
        level: share of them that the interval covers, between 0 and 1.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: as the metrics, or `n_resamples` or `level` is out of range.

    Example:
        >>> bootstrap_interval(auroc, [1.0, 2.0, 3.0, 4.0], [False, False, True, True])
        (1.0, 1.0)
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, found {n_resamples}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, found {level}")
    score, anomalous = _checked(scores, is_anomaly)
    groups = score[~anomalous], score[anomalous]
    drawn_anomalous = np.repeat([False, True], [group.size for group in groups])
    rng = np.random.default_rng(seed)
    values = [
        metric(np.concatenate([rng.choice(group, group.size) for group in groups]), drawn_anomalous) for _ in range(n_resamples)
    ]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


IMAGE_METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "f1_max": f1_max,
    "recall_at_zero_fpr": recall_at_fpr,
    "recall_at_1_percent_fpr": partial(recall_at_fpr, max_fpr=0.01),
}


def detection_metrics(scores: ArrayLike, kinds: ArrayLike, *, n_resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All image metrics of one category, by any method that gives an image a score.

    Args:
        scores: (N,) float, larger is more anomalous; infinite values are allowed.
        kinds: (N,) str, the kind of defect of each image; `good` is none.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `n_good` and `n_anomalous`; each of `IMAGE_METRICS`; `intervals`, metric to [low, high] of its 95 % bootstrap
        interval; `by_defect`, kind to its number `n` of images and the `auroc` of these against all good ones.
        With fewer than 100 good images, 1 % of them is none, and the recall there is that at zero false positives.

    Raises:
        ValueError: the shapes differ, a score is NaN, or there is no good or no anomalous image.

    Example:
        >>> found = detection_metrics([1.0, 2.0, 3.0, 1.5], ["good", "good", "crack", "stain"], n_resamples=10)
        >>> found["by_defect"]
        {'crack': {'n': 1, 'auroc': 1.0}, 'stain': {'n': 1, 'auroc': 0.5}}
    """
    score, kind = np.asarray(scores, dtype=np.float64), np.asarray(kinds, dtype=np.str_)
    score, is_anomaly = _checked(score, kind != GOOD)
    found: dict[str, Any] = {"n_good": int((~is_anomaly).sum()), "n_anomalous": int(is_anomaly.sum())}
    found |= {name: metric(score, is_anomaly) for name, metric in IMAGE_METRICS.items()}
    found["intervals"] = {
        name: list(bootstrap_interval(metric, score, is_anomaly, n_resamples=n_resamples, seed=seed))
        for name, metric in IMAGE_METRICS.items()
    }
    found["by_defect"] = {}
    for defect in np.unique(kind[is_anomaly]).tolist():
        among = ~is_anomaly | (kind == defect)
        found["by_defect"][defect] = {"n": int((kind == defect).sum()), "auroc": auroc(score[among], is_anomaly[among])}
    return found


def _checked(scores: ArrayLike, is_anomaly: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Both as arrays of shape (N,), with images of both kinds among them; raises ValueError as the metrics say."""
    score = np.asarray(scores, dtype=np.float64)
    anomalous = np.asarray(is_anomaly)
    if score.ndim != 1 or score.shape != anomalous.shape:
        raise ValueError(f"scores and is_anomaly must both have shape (N,), found {score.shape} and {anomalous.shape}")
    n_nan = int(np.isnan(score).sum())
    if n_nan:
        raise ValueError(f"{n_nan} of {score.size} scores are NaN: leave out images that have no score")
    if not score.size:
        raise ValueError("there are no images: at least one good and one anomalous image are needed")
    if anomalous.dtype != np.bool_:  # 0/1 would do, but -1/1 and null labels must not pass as anomalous
        raise ValueError(f"is_anomaly must hold booleans, found dtype {anomalous.dtype}")
    n_anomalous = int(anomalous.sum())
    if n_anomalous in (0, score.size):
        missing = "anomalous" if n_anomalous == 0 else "good"
        raise ValueError(f"none of the {score.size} images is {missing}: both kinds are needed to compare their scores")
    return score, anomalous


def _counts(scores: ArrayLike, is_anomaly: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Count good and anomalous images at or above each threshold.

    Returns:
        Thresholds, false positives and true positives, each (K + 1,): +inf with zero of both, then each distinct score
        in descending order.
    """
    score, anomalous = _checked(scores, is_anomaly)
    order = np.argsort(-score, kind="stable")
    score, anomalous = score[order], anomalous[order]
    last_of_ties = np.append(np.flatnonzero(score[1:] != score[:-1]), score.size - 1)
    true_positives = np.cumsum(anomalous, dtype=np.int64)[last_of_ties]
    false_positives = last_of_ties + 1 - true_positives
    return (
        np.append(np.inf, score[last_of_ties]),
        np.append(np.int64(0), false_positives),
        np.append(np.int64(0), true_positives),
    )

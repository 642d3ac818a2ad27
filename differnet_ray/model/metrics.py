"""How well anomaly scores separate good from anomalous images.

Legend: N images, K distinct scores. A larger score means more anomalous; images with equal scores are never told apart.
Positive means anomalous, so a false positive is a good image called anomalous (a false alarm).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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


def _counts(scores: ArrayLike, is_anomaly: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Count good and anomalous images at or above each threshold.

    Returns:
        Thresholds, false positives and true positives, each (K + 1,): +inf with zero of both, then each distinct score
        in descending order.
    """
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

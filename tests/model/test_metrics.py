"""Metrics against scikit-learn and against their literal definitions, on scores with many ties."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle  # type: ignore[import-untyped]

from differnet_ray.model import metrics

Scored = tuple[NDArray[np.float64], NDArray[np.bool_]]

METRICS: list[Callable[..., object]] = [
    metrics.roc_curve,
    metrics.auroc,
    metrics.average_precision,
    metrics.recall_at_fpr,
]


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    """Between 2 and 40 images of both kinds, with scores that often tie."""
    any_float = st.floats(-1e6, 1e6, allow_nan=False)
    score = draw(st.sampled_from([st.sampled_from([-0.0, 0.0, 0.5, 1.0, 1.5]), st.integers(-8, 8), any_float]))
    rows = draw(st.lists(st.tuples(score, st.booleans()), max_size=38))
    rows += [(draw(score), False), (draw(score), True)]
    rows = draw(st.permutations(rows))
    return np.array([s for s, _ in rows], dtype=np.float64), np.array([a for _, a in rows])


@given(scored())
def test_equal_to_sklearn(images: Scored) -> None:
    scores, is_anomaly = images
    assert metrics.auroc(scores, is_anomaly) == pytest.approx(oracle.roc_auc_score(is_anomaly, scores), abs=1e-12)
    expected_ap = oracle.average_precision_score(is_anomaly, scores)
    assert metrics.average_precision(scores, is_anomaly) == pytest.approx(expected_ap, abs=1e-12)

    curve = metrics.roc_curve(scores, is_anomaly)
    fpr, tpr, thresholds = oracle.roc_curve(is_anomaly, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, fpr, rtol=0, atol=1e-15)
    np.testing.assert_allclose(curve.true_positive_rate, tpr, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@given(scored())
def test_auroc_is_the_share_of_pairs_in_order(images: Scored) -> None:
    scores, is_anomaly = images
    anomalous, good = scores[is_anomaly][:, None], scores[~is_anomaly][None, :]
    assert metrics.auroc(scores, is_anomaly) == np.mean((anomalous > good) + 0.5 * (anomalous == good))


@given(scored())
def test_curve_has_its_documented_form(images: Scored) -> None:
    scores, is_anomaly = images
    curve = metrics.roc_curve(scores, is_anomaly)
    for array in (curve.false_positive_rate, curve.true_positive_rate, curve.thresholds):
        assert array.dtype == np.float64
        assert array.shape == (len(np.unique(scores)) + 1,)
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0], curve.thresholds[0]) == (0, 0, math.inf)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    for threshold, fpr, tpr in zip(curve.thresholds, curve.false_positive_rate, curve.true_positive_rate, strict=True):
        assert fpr == np.mean(scores[~is_anomaly] >= threshold)
        assert tpr == np.mean(scores[is_anomaly] >= threshold)


@given(scored(), st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3, 1 / 3, 0.5, 1.0]) | st.floats(0, 1))
def test_recall_at_fpr_is_the_best_of_all_thresholds(images: Scored, max_fpr: float) -> None:
    scores, is_anomaly = images
    best = 0.0
    for theta in [*scores.tolist(), math.inf]:
        called = [score >= theta for score in scores]
        false_alarms = sum(c and not a for c, a in zip(called, is_anomaly, strict=True))
        found = sum(c and a for c, a in zip(called, is_anomaly, strict=True))
        if false_alarms / (~is_anomaly).sum() <= max_fpr:
            best = max(best, found / is_anomaly.sum())
    assert metrics.recall_at_fpr(scores, is_anomaly, max_fpr) == best


@given(scored())
def test_only_the_order_of_the_scores_counts(images: Scored) -> None:
    scores, is_anomaly = images
    _, rank = np.unique(scores, return_inverse=True)  # a strictly increasing map that cannot round two scores into one
    for mapped in (rank.astype(float), np.exp(rank / 10), 1e9 * rank - 5.0, np.where(rank == rank.max(), np.inf, rank)):
        assert metrics.auroc(mapped, is_anomaly) == metrics.auroc(scores, is_anomaly)
        assert metrics.average_precision(mapped, is_anomaly) == metrics.average_precision(scores, is_anomaly)
        for max_fpr in (0.0, 0.1, 0.5):
            expected = metrics.recall_at_fpr(scores, is_anomaly, max_fpr)
            assert metrics.recall_at_fpr(mapped, is_anomaly, max_fpr) == expected


@given(scored())
def test_the_order_of_the_images_does_not_count(images: Scored) -> None:
    scores, is_anomaly = images
    for metric in (metrics.auroc, metrics.average_precision, metrics.recall_at_fpr):
        assert metric(scores[::-1], is_anomaly[::-1]) == metric(scores, is_anomaly)


def test_many_images_do_not_overflow() -> None:
    n = 200_000  # n squared is beyond 32 bits
    scores = np.arange(2 * n, dtype=np.float32)
    is_anomaly = np.arange(2 * n) >= n
    assert metrics.auroc(scores, is_anomaly) == 1.0
    assert metrics.auroc(-scores, is_anomaly) == 0.0
    assert metrics.recall_at_fpr(scores, is_anomaly) == 1.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scores", "is_anomaly", "message"),
    [
        ([1.0, 2.0], [True, False, True], r"shape \(N,\), found \(2,\) and \(3,\)"),
        ([[1.0, 2.0]], [[True, False]], r"shape \(N,\)"),
        ([1.0, math.nan], [True, False], "1 of 2 scores are NaN"),
        ([], [], "no images"),
        ([1.0, 2.0], [True, True], "none of the 2 images is good"),
        ([1.0, 2.0], [False, False], "none of the 2 images is anomalous"),
        ([1.0, 2.0], [-1, 1], "booleans, found dtype int"),
        ([1.0, 2.0], [None, True], "booleans, found dtype object"),
    ],
)
def test_unusable_inputs_are_named(
    metric: Callable[..., object], scores: list[float], is_anomaly: list[bool], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(scores, is_anomaly)


@pytest.mark.parametrize("max_fpr", [-0.1, 1.1, math.nan])
def test_max_fpr_is_a_share(max_fpr: float) -> None:
    with pytest.raises(ValueError, match=r"max_fpr must be in \[0, 1\]"):
        metrics.recall_at_fpr([1.0, 2.0], [False, True], max_fpr)


def test_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(metrics).failed == 0

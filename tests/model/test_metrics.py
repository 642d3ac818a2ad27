"""Metrics against scikit-learn and against their literal definitions, on scores with many ties."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as oracle  # type: ignore[import-untyped]

from differnet_ray.model import metrics

Scored = tuple[NDArray[np.float64], NDArray[np.bool_]]

METRICS: list[Callable[..., object]] = [
    metrics.roc_curve,
    metrics.auroc,
    metrics.average_precision,
    metrics.recall_at_fpr,
    metrics.f1_max,
    partial(metrics.bootstrap_interval, metrics.auroc),
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

    precision, recall, _ = oracle.precision_recall_curve(is_anomaly, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics.f1_max(scores, is_anomaly) == pytest.approx(f1.max(), abs=1e-12)

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
    for metric in metrics.IMAGE_METRICS.values():
        assert metric(scores[::-1], is_anomaly[::-1]) == metric(scores, is_anomaly)


@given(scored())
def test_f1_max_is_the_best_of_all_thresholds(images: Scored) -> None:
    scores, is_anomaly = images
    best = max(oracle.f1_score(is_anomaly, scores >= theta) for theta in np.unique(scores))
    assert metrics.f1_max(scores, is_anomaly) == pytest.approx(best, abs=1e-12)


@pytest.fixture(scope="module")
def test_set() -> Scored:
    """60 good and 40 anomalous images whose scores overlap."""
    rng = np.random.default_rng(3)
    return np.concatenate([rng.normal(0, 1, 60), rng.normal(1, 1.5, 40)]), np.arange(100) >= 60


@pytest.mark.parametrize("name", metrics.IMAGE_METRICS)
def test_interval_is_that_of_scipy(name: str, test_set: Scored) -> None:
    (scores, is_anomaly), metric = test_set, metrics.IMAGE_METRICS[name]
    expected = scipy.stats.bootstrap(
        (scores[~is_anomaly], scores[is_anomaly]),
        lambda good, anomalous: metric(np.concatenate([good, anomalous]), is_anomaly),
        n_resamples=2000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = metrics.bootstrap_interval(metric, scores, is_anomaly, n_resamples=2000)
    assert found == pytest.approx((expected.low, expected.high), abs=0.03)  # other draws


def test_every_drawn_test_set_has_as_many_images_of_each_kind(test_set: Scored) -> None:
    scores, is_anomaly = test_set
    drawn: list[Scored] = []

    def watched(some_scores: ArrayLike, some_anomalies: ArrayLike) -> float:
        drawn.append((np.asarray(some_scores), np.asarray(some_anomalies)))
        return 0.0

    assert metrics.bootstrap_interval(watched, scores, is_anomaly, n_resamples=20) == (0.0, 0.0)
    assert len(drawn) == 20
    for some_scores, some_anomalies in drawn:
        assert some_anomalies.sum() == 40
        assert set(some_scores[some_anomalies]) <= set(scores[is_anomaly])
        assert set(some_scores[~some_anomalies]) <= set(scores[~is_anomaly])
    assert len({some_scores.tobytes() for some_scores, _ in drawn}) == 20


def test_interval_depends_on_seed_and_level_alone(test_set: Scored) -> None:
    one, again, other = (metrics.bootstrap_interval(metrics.auroc, *test_set, n_resamples=200, seed=s) for s in (0, 0, 1))
    assert one == again != other
    wide = metrics.bootstrap_interval(metrics.auroc, *test_set, n_resamples=200, level=0.99)
    assert wide[0] < one[0] < metrics.auroc(*test_set) < one[1] < wide[1]


@given(scored(), st.integers(0, 5))
def test_interval_lies_in_the_range_of_the_metric(images: Scored, seed: int) -> None:
    low, high = metrics.bootstrap_interval(metrics.average_precision, *images, n_resamples=5, seed=seed)
    assert 0 < low <= high <= 1 + 1e-12


def test_interval_refuses_no_draws_and_no_level(test_set: Scored) -> None:
    with pytest.raises(ValueError, match="n_resamples must be at least 1, found 0"):
        metrics.bootstrap_interval(metrics.auroc, *test_set, n_resamples=0)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            metrics.bootstrap_interval(metrics.auroc, *test_set, level=level)


def test_detection_metrics_are_those_of_the_images(test_set: Scored) -> None:
    scores, is_anomaly = test_set
    kinds = np.where(is_anomaly, np.where(np.arange(100) % 3 == 0, "crack", "stain"), "good")
    found = metrics.detection_metrics(scores, kinds.tolist(), n_resamples=20, seed=4)
    assert (found["n_good"], found["n_anomalous"]) == (60, 40)
    for name, metric in metrics.IMAGE_METRICS.items():
        assert found[name] == metric(scores, is_anomaly)
        low, high = metrics.bootstrap_interval(metric, scores, is_anomaly, n_resamples=20, seed=4)
        assert found["intervals"][name] == [low, high]
    assert found["recall_at_1_percent_fpr"] == found["recall_at_zero_fpr"]  # 1 % of 60 images is none
    assert list(found["by_defect"]) == ["crack", "stain"]
    for kind, of_kind in found["by_defect"].items():
        among = (kinds == "good") | (kinds == kind)
        assert of_kind["n"] == (kinds == kind).sum()
        assert of_kind["auroc"] == pytest.approx(oracle.roc_auc_score(is_anomaly[among], scores[among]), abs=1e-12)
    assert json.loads(json.dumps(found)) == found


def test_detection_metrics_need_both_kinds() -> None:
    with pytest.raises(ValueError, match="none of the 2 images is anomalous"):
        metrics.detection_metrics([1.0, 2.0], ["good", "good"])
    with pytest.raises(ValueError, match=r"found \(2,\) and \(1,\)"):
        metrics.detection_metrics([1.0, 2.0], ["good"])


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

"""The baselines against their definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import OneClassSVM

from differnet_ray.model import baselines
from differnet_ray.model.baselines import fit_nearest_neighbour, fit_one_class_svm


@pytest.fixture
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, 80)) @ rng.normal(size=(80, 80)) * rng.uniform(0.1, 30, 80) + 5).astype(np.float32)


def test_the_nearest_neighbour_is_that_after_z_scores_and_the_64_first_principal_components(features: np.ndarray) -> None:
    train, test = features[:150].astype(np.float64), features[150:].astype(np.float64)
    z = [(part - train.mean(0)) / train.std(0) for part in (train, test)]
    directions = np.linalg.svd(z[0], full_matrices=False)[2][:64]
    a, b = (part @ directions.T for part in z)
    expected = np.sqrt(((b[:, None] - a[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(fit_nearest_neighbour(features[:150], 0)(features[150:]), expected, rtol=1e-3)


def test_fewer_features_or_samples_than_components_are_all_used(features: np.ndarray) -> None:
    assert fit_nearest_neighbour(features[:10, :20], 0)(features[10:20, :20]).shape == (10,)


def test_the_one_class_svm_is_scikit_learns_on_z_scores_and_larger_is_more_anomalous(features: np.ndarray) -> None:
    z = (features - features[:150].mean(0)) / features[:150].std(0)
    expected = -OneClassSVM(gamma="scale").fit(z[:150]).decision_function(z[150:])
    score = fit_one_class_svm(features[:150], 0)
    np.testing.assert_allclose(score(features[150:]), expected, rtol=1e-2, atol=1e-2)
    assert score(features[150:] + 1000).min() > score(features[:150]).mean()


def test_a_large_bank_is_sampled_by_the_seed(features: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "SVM_SAMPLES", 50)
    scores = [fit_one_class_svm(features[:150], seed)(features[150:]) for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])

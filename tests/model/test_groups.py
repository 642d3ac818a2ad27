"""Groups of similar images are found from features alone, no split cuts through one, and thresholds then keep their promise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from differnet_ray.model import groups as module
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.model.groups import (
    Partition,
    draw,
    numbered,
    separation,
    similar_groups,
    split_folds,
    split_holdout,
)

D, LATENT = 64, 24
Features = NDArray[np.float32]

partitions = st.lists(st.integers(0, 12), min_size=2, max_size=80).map(lambda keys: numbered(np.array(keys)))
several = partitions.filter(lambda groups: groups.max() > 0)
seeds = st.integers(0, 2**63 - 1)


def parts(rng: np.random.Generator, n_parts: int, n_each: int, spread: float) -> tuple[Features, Partition]:
    """Features of parts that were each photographed some times: those of one differ by a share of the spread of parts."""
    of_part = rng.normal(size=(n_parts, LATENT)).repeat(n_each, axis=0)
    latent = of_part + spread * rng.normal(size=(n_parts * n_each, LATENT))
    mixed = latent @ np.random.default_rng(0).normal(size=(LATENT, D)) / np.sqrt(LATENT)
    return ((3 + 0.5 * mixed).clip(0) ** 4).astype(np.float32), np.arange(n_parts).repeat(n_each)


def cut_parts(groups: Partition, part: Partition) -> float:
    """The share of parts whose images are of more than one group."""
    return float(np.mean([len(set(groups[part == one].tolist())) > 1 for one in set(part.tolist())]))


# --- similar images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_parts", "n_each", "spread"), [(30, 5, 0.1), (40, 3, 0.2), (60, 2, 0.1), (10, 12, 0.2)])
def test_siblings_are_found_without_names(n_parts: int, n_each: int, spread: float) -> None:
    features, part = parts(np.random.default_rng(1), n_parts, n_each, spread)
    groups = similar_groups(features)
    assert cut_parts(groups, part) <= 0.2
    assert groups.max() + 1 > n_parts / 3


@pytest.mark.parametrize("n", [20, 100, 300])
def test_independent_images_stay_alone(n: int) -> None:
    groups = similar_groups(parts(np.random.default_rng(2), n, 1, 0.0)[0])
    assert groups.max() + 1 > 0.9 * n


def test_frames_of_a_moving_web_are_cut_into_stretches() -> None:
    steps = np.random.default_rng(3).normal(size=(99, LATENT))
    frames = np.stack([steps[i : i + 10].sum(axis=0) for i in range(90)]) / np.sqrt(10)
    features = ((3 + 0.1 * frames @ np.random.default_rng(0).normal(size=(LATENT, D))).clip(0) ** 4).astype(np.float32)
    groups = similar_groups(features)
    assert 4 <= groups.max() + 1 <= 30
    assert (groups[1:] == groups[:-1]).mean() > 0.6


def test_groups_depend_on_the_features_alone_and_not_on_their_order() -> None:
    rng = np.random.default_rng(4)
    features, _ = parts(rng, 20, 4, 0.1)
    groups, order = similar_groups(features), rng.permutation(80)
    assert (similar_groups(features) == groups).all()
    assert (similar_groups(features[order]) == numbered(groups[order])).mean() > 0.9  # what they are compared with is made anew


@pytest.mark.parametrize("features", [np.ones((6, D)), np.zeros((2, D)), np.eye(2, D)])
def test_features_that_do_not_vary_and_two_images_have_groups_too(features: Features) -> None:
    assert len(similar_groups(features)) == len(features)
    assert 0 <= separation(features, [([0], [1])]) < np.inf


def test_of_many_images_some_are_joined_and_the_others_go_with_their_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    features, part = parts(np.random.default_rng(5), 30, 5, 0.1)
    monkeypatch.setattr(module, "LARGEST", 100)
    monkeypatch.setattr(module, "ROWS_PER_PASS", 7)
    assert cut_parts(similar_groups(features), part) < 0.25


def test_siblings_on_both_sides_of_a_split_are_seen_in_its_separation() -> None:
    features, part = parts(np.random.default_rng(6), 40, 5, 0.1)
    assert separation(features, [split_holdout(np.arange(200), 0.2, 0)]) < 0.6
    assert separation(features, [split_holdout(part, 0.2, 0)]) > 0.9


# --- splits -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab", max_size=2), min_size=1))
def test_groups_are_numbered_in_the_order_of_their_first_images(keys: list[str]) -> None:
    groups = numbered(keys).tolist()
    assert [a == b for a in groups for b in groups] == [a == b for a in keys for b in keys]
    assert list(dict.fromkeys(groups)) == list(range(len(set(keys))))


@given(several, st.floats(0.001, 0.999), seeds)
def test_whole_groups_are_held_out_and_at_least_one_is_on_each_side(groups: Partition, fraction: float, seed: int) -> None:
    fitted_on, held_out = split_holdout(groups, fraction, seed)
    assert sorted(fitted_on + held_out) == list(range(len(groups)))
    assert (fitted_on, held_out) == (sorted(fitted_on), sorted(held_out))
    assert fitted_on
    assert held_out
    assert not set(groups[fitted_on].tolist()) & set(groups[held_out].tolist())
    assert split_holdout(groups, fraction, seed) == (fitted_on, held_out)
    largest = np.bincount(groups).max()
    assert abs(len(held_out) - fraction * len(groups)) <= max(1, largest)


def test_single_images_are_held_out_to_the_fraction_and_none_is_favoured() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[split_holdout(np.arange(20), 0.25, seed)[1]] += 1
    assert counts.sum() == 5 * 2000
    assert counts.min() > 400
    assert counts.max() < 600


@given(several, st.integers(2, 20), seeds)
def test_folds_are_of_whole_groups_and_hold_every_image_once(groups: Partition, folds: int, seed: int) -> None:
    split = split_folds(groups, folds, seed)
    assert len(split) == min(groups.max() + 1, folds)
    assert sorted(position for fold in split for position in fold) == list(range(len(groups)))
    assert all(fold == sorted(fold) and fold for fold in split)
    assert sum(len(set(groups[fold].tolist())) for fold in split) == groups.max() + 1
    assert max(map(len, split)) - min(map(len, split)) <= np.bincount(groups).max()
    assert split_folds(groups, folds, seed) == split


@given(partitions, st.integers(1, 90), seeds)
def test_images_are_drawn_from_whole_groups_but_for_the_last(groups: Partition, n: int, seed: int) -> None:
    drawn = draw(groups, n, np.random.default_rng(seed))
    assert len(set(drawn)) == len(drawn) == min(n, len(groups))
    assert drawn == sorted(drawn)
    taken, sizes = np.bincount(groups[drawn], minlength=groups.max() + 1), np.bincount(groups)
    assert ((taken > 0) & (taken < sizes)).sum() <= 1


# --- what it is for ---------------------------------------------------------------------------------------------------


def mahalanobis(train: Features) -> Callable[[Features], NDArray[np.float64]]:
    """What the presets without coupling blocks fit: mean of z^2 after whitening with a shrunk covariance."""

    def raised(features: Features) -> NDArray[np.float64]:
        return np.asarray((features.astype(np.float64) + 1e-4) ** 0.25)

    mean, x = raised(train).mean(axis=0), raised(train)
    covariance = 0.97 * np.cov(x.T) + 0.03 * np.cov(x.T).trace() / D * np.eye(D)
    inverse = np.linalg.inv(covariance)
    return lambda test: np.einsum("nd,de,ne->n", raised(test) - mean, inverse, raised(test) - mean) / D


def realised_rate(held_by: Callable[[Features, Partition], Partition], target_fpr: float) -> tuple[float, float]:
    """False alarms on images of new parts where a share was asked for, by a way to group; its mean and standard error."""
    rates = []
    for seed in range(24):
        rng = np.random.default_rng([seed, 7])
        features, part = parts(rng, 60, 5, 0.25)
        new, _ = parts(rng, 200, 1, 0.25)
        groups = held_by(features, part)
        fitted_on, held_out = split_holdout(groups, 0.3, seed)
        score = mahalanobis(features[fitted_on])
        n_groups = len(set(groups[held_out].tolist()))
        rates.append((score(new) >= conformal_threshold(score(features[held_out]), target_fpr, n_groups).value).mean())
    return float(np.mean(rates)), float(np.std(rates) / np.sqrt(len(rates)))


@pytest.mark.parametrize("target_fpr", [0.1, 0.2])
def test_the_promise_holds_for_new_parts_where_groups_are_held_out_and_not_where_images_are(target_fpr: float) -> None:
    by_image, _ = realised_rate(lambda features, part: np.arange(len(part)), target_fpr)
    by_part, part_error = realised_rate(lambda features, part: part, target_fpr)
    by_features, error = realised_rate(lambda features, part: similar_groups(features), target_fpr)
    assert by_image > 1.5 * target_fpr
    assert by_part <= target_fpr + 3 * part_error
    assert by_features <= target_fpr + 3 * error


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n_groups", "target_fpr"), [(19, 0.1), (60, 0.05), (150, 0.01)])
def test_counting_groups_keeps_the_rate_whatever_scores_of_a_group_share(
    share: float, n_groups: int, target_fpr: float
) -> None:
    rng, rates = np.random.default_rng(n_groups), []
    for _ in range(1500):
        sizes = rng.integers(1, 9, n_groups + 40)
        of_group = rng.normal(size=len(sizes)).repeat(sizes)
        scores = np.sqrt(share) * of_group + np.sqrt(1 - share) * rng.normal(size=len(of_group))
        known = np.arange(len(scores)) < sizes[:n_groups].sum()
        rates.append((scores[~known] >= conformal_threshold(scores[known], target_fpr, n_groups).value).mean())
    assert np.mean(rates) <= target_fpr + 3 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) > 0.2 * target_fpr

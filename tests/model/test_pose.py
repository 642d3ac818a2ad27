"""Poses found out from good images: turned parts from upright ones, by few images, whatever the threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from differnet_ray.model import pose
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.pose import FEWEST_IMAGES, LIE_AS_THEY_FALL, MOST_IMAGES, FoundPose, find_pose, share_of_turns


def parts(n: int, *, turned: bool, size: int = 64) -> Tensor:
    """Good images: an oblong part with a bright end before noise; upright, or at a random angle each."""
    rng = np.random.default_rng(n)
    axis = np.arange(size) + 0.5 - size / 2
    images = []
    for _ in range(n):
        angle = rng.uniform(0, 2 * np.pi) if turned else rng.normal(0, 0.02)
        along = np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]
        across = np.cos(angle) * axis[:, None] - np.sin(angle) * axis[None]
        part = 60 + 90 * ((abs(along) < 24) & (abs(across) < 8)) + 80 * ((abs(along - 18) < 5) & (abs(across) < 8))
        images.append((part + rng.normal(0, 6, (size, size))).clip(0, 255))
    return torch.from_numpy(np.repeat(np.stack(images)[..., None], 3, axis=3).astype(np.uint8))


def found_in(extractor: Extractor, images: Tensor, *, seed: int = 0, threads: int = 1) -> FoundPose:
    return find_pose(extractor, lambda at: images[list(at)], len(images), seed=seed, threads=threads)


def turns(n: int, *, turned: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Features of N images whose quarter turns move a bump on by 8 features: its place is random, or the same."""
    rng = np.random.default_rng(n)
    first = rng.uniform(0, 32, n) if turned else rng.normal(0, 0.3, n)
    place = first[:, None, None] + 8.0 * np.arange(4)[None, :, None]
    bump = 1 + np.cos(2 * np.pi * (np.arange(32) - place) / 32)
    return np.asarray(bump * rng.uniform(0.9, 1.1, (n, 1, 1)), np.float32)


def test_the_share_is_one_where_turned_images_are_as_likely_and_near_zero_where_they_are_not() -> None:
    assert share_of_turns(turns(2000, turned=True)) == pytest.approx(1, abs=0.03)
    assert share_of_turns(turns(2000, turned=False)) < 0.05
    assert share_of_turns(np.ones((5, 4, 8), np.float32)) == 0


def test_it_is_the_law_of_total_variance_that_gives_one() -> None:
    orbits = np.random.default_rng(0).gamma(2, 1, (50, 4, 8))
    every = np.concatenate([np.roll(orbits, turn, axis=1) for turn in range(4)])  # each image at each of its turns
    assert share_of_turns(every.astype(np.float32)) == pytest.approx(1, rel=0.03)


def test_parts_in_any_pose_are_told_from_parts_that_lie_the_same_way(tiny_extractor: Extractor) -> None:
    for n in (FEWEST_IMAGES, 40):
        upright, turned = (found_in(tiny_extractor, parts(n, turned=turned)) for turned in (False, True))
        assert (upright.pose, turned.pose) == ("quarter", "any")
        assert upright.share < 0.3 < LIE_AS_THEY_FALL < turned.share
        assert turned.n_images == n
        assert f"pose 'any': {turned.share:.2f} of what quarter turns change is found among {n} good images" in turned.statement


def test_the_same_images_and_seed_decide_the_same_whatever_the_threads(
    tiny_extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pose, "MOST_IMAGES", FEWEST_IMAGES)
    images = parts(FEWEST_IMAGES + 4, turned=True)
    first = found_in(tiny_extractor, images)
    assert found_in(tiny_extractor, images, threads=3) == first
    assert found_in(tiny_extractor, images, seed=1).share != first.share


def test_few_images_do_not_decide_and_many_are_not_all_looked_at(tiny_extractor: Extractor) -> None:
    found = found_in(tiny_extractor, parts(FEWEST_IMAGES - 1, turned=False))
    assert (found.pose, found.n_images) == ("any", 0)
    assert "fewer than 10 good images" in found.statement
    read: list[int] = []
    image, steps = parts(1, turned=False), []

    def one(positions: Sequence[int]) -> Tensor:
        read.extend(positions)
        return image.expand(len(read), -1, -1, -1)

    find_pose(tiny_extractor, one, 1000, seed=0, on_image=lambda *step: steps.append(step))
    assert (len(set(read)), read) == (MOST_IMAGES, sorted(read))
    assert steps == [(done, MOST_IMAGES) for done in range(1, MOST_IMAGES + 1)]

"""Poses found out from good images: planted defects are small and seen, and what is decided depends on images and seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from differnet_ray.config import POSES, TransformConfig
from differnet_ray.model import pose
from differnet_ray.model.calibration import split_folds
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.pose import DEFECTS, FEWEST_IMAGES, MOST_IMAGES, FoundPose, find_pose, plant, separation

TRANSFORMS = TransformConfig(n_transforms=4)


def plates(n: int, size: int = 64) -> Tensor:
    """Good images: noise over a slope of light."""
    rng = np.random.default_rng(n)
    slope = np.linspace(80, 140, size)[None, :, None, None]
    return torch.from_numpy(rng.normal(slope, 12, (n, size, size, 3)).clip(0, 255).astype(np.uint8))


def found_in(extractor: Extractor, images: Tensor, **how: int) -> FoundPose:
    return find_pose(extractor, lambda at: images[list(at)], len(images), TRANSFORMS, **{"seed": 0} | how)


@pytest.mark.parametrize("size", [64, 448])
@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_are_small_and_lie_where_no_rotation_hides_them(defect: str, size: int) -> None:
    image = plates(1, size)[0]
    axis = np.arange(size) + 0.5 - size / 2
    from_centre = np.hypot(axis[:, None], axis[None])
    for seed in range(20):
        copy = plant(image, defect, np.random.default_rng(seed))
        assert copy.dtype == torch.uint8
        changed = (copy != image).any(dim=2).numpy()
        assert 0 < changed.mean() < 0.03
        assert from_centre[changed].max() < size / 2


def test_a_planted_defect_is_reproduced_by_the_generator_and_leaves_the_image_alone() -> None:
    image = plates(1)[0]
    before = image.clone()
    first, again, other = (plant(image, "scar", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(image, before)


def normal(n: int, mean: float) -> NDArray[np.float32]:
    return (np.random.default_rng(n).normal(mean, 0.1, (n, 8)) ** 2).astype(np.float32)


def test_separation_is_one_for_what_is_far_out_and_a_half_for_the_same_images() -> None:
    good, folds = normal(40, 1.0), split_folds(40, 4, 0)
    assert separation(good, good + 9, folds) == 1
    assert separation(good, good, folds) == 0.5


def test_the_same_images_and_seed_decide_the_same_whatever_the_threads(tiny_extractor: Extractor) -> None:
    images = plates(FEWEST_IMAGES + 2)
    first = found_in(tiny_extractor, images)
    assert found_in(tiny_extractor, images, threads=3) == first
    assert found_in(tiny_extractor, images, seed=1) != first
    assert (first.n_images, list(first.aurocs)) == (len(images), list(POSES))
    assert first.aurocs[first.pose] == max(first.aurocs.values())
    assert f"pose '{first.pose}': AUROC of defects planted on {len(images)} good images: any 0." in first.statement


def test_of_poses_that_are_as_good_the_quickest_is_taken(tiny_extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pose, "separation", lambda good, planted, folds: 1.0)
    few = TransformConfig(n_transforms=8)
    images = plates(FEWEST_IMAGES)
    found = find_pose(tiny_extractor, lambda at: images[list(at)], len(images), few, seed=0)
    assert found.pose == min(POSES, key=lambda name: few.posed(name).n_transforms)


def test_few_images_do_not_decide_and_many_are_not_all_looked_at(tiny_extractor: Extractor) -> None:
    found = found_in(tiny_extractor, plates(FEWEST_IMAGES - 1))
    assert (found.pose, found.n_images) == ("any", 0)
    assert "fewer than 10 good images" in found.statement
    read: list[int] = []
    image, steps = plates(1), []

    def one(positions: object) -> Tensor:
        read.extend(positions)  # type: ignore[call-overload]
        return image.expand(len(read), -1, -1, -1)

    find_pose(tiny_extractor, one, 1000, TransformConfig(1), seed=0, on_image=lambda *step: steps.append(step))
    assert (len(set(read)), read) == (MOST_IMAGES, sorted(read))
    assert steps == [(done, MOST_IMAGES) for done in range(1, MOST_IMAGES + 1)]

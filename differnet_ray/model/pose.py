"""How the parts of a category lie, found out from good images alone, so that each has the transforms that help.

Legend: N images, T transforms, D features, H x W pixels (H = W).

Good images get a small planted defect each. For each pose, densities of pooled features tell the planted copies from good
images that they have not seen; how well says which pose to take. Turned copies of good images would not decide: parts in
any pose are told from their turned copies as well as others, by light and background.

The defects are those of CutPaste (Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization",
CVPR 2021), a patch of the image pasted elsewhere and a thin scar, and a small blob.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import POSES, FlowConfig, TransformConfig
from differnet_ray.model.calibration import split_folds
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import ReadImages
from differnet_ray.model.flow import Flow
from differnet_ray.model.metrics import auroc
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.threads import map_ahead

DEFECTS = ("patch", "scar", "blob")
REACH = 0.36  # of the image's side: so far from the centre planted defects lie at most, where no rotation hides them
MOST_IMAGES, FEWEST_IMAGES = 96, 10
MOST_TRANSFORMS = 8  # of each pose
FOLDS = 4
STREAM = 5  # of the random numbers of a decision
DENSITY = FlowConfig(n_blocks=0, power=0.25, first_layer="whiten_covariance", shrinkage=0.1)


@dataclass(frozen=True)
class FoundPose:
    """What good images say of how parts lie.

    Attributes:
        pose: one of POSES.
        n_images: good images that were looked at; 0 where they are too few.
        aurocs: of planted defects against good images, by pose.
    """

    pose: str
    n_images: int
    aurocs: Mapping[str, float]

    @property
    def statement(self) -> str:
        """For people."""
        if not self.n_images:
            return f"pose {self.pose!r}: fewer than {FEWEST_IMAGES} good images do not decide"
        found = ", ".join(f"{pose} {auroc:.3f}" for pose, auroc in self.aurocs.items())
        return f"pose {self.pose!r}: AUROC of defects planted on {self.n_images} good images: {found}"


def find_pose(
    extractor: Extractor,
    read: ReadImages,
    n: int,
    transforms: TransformConfig,
    *,
    seed: int,
    threads: int = 1,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> FoundPose:
    """Decides the pose of a category by at most 96 of its good images; the same images and seed decide the same.

    Args:
        extractor: f_ex.
        read: reads good images by position.
        n: how many there are.
        transforms: T and ranges of the factors.
        seed: of the choice of images, of the planted defects and of the folds.
        threads: images that are computed at the same time; changes no result.
        on_image: called after each image, with how many of how many are done.
    """
    if n < FEWEST_IMAGES:
        return FoundPose(POSES[0], 0, {})
    chosen = sorted(np.random.default_rng([seed, STREAM]).permutation(n)[:MOST_IMAGES].tolist())
    few = replace(transforms, n_transforms=min(transforms.n_transforms, MOST_TRANSFORMS))
    sets = [fixed_transforms(few.posed(pose)) for pose in POSES]

    def look(position: int, image: Tensor) -> npt.NDArray[np.float32]:
        """Pooled features of an image and its planted copy: (2, poses, D)."""
        rng = np.random.default_rng([seed, position, STREAM])
        pair = image, plant(image, DEFECTS[position % len(DEFECTS)], rng)
        means = [[transformed_features(extractor, copy, each).mean(dim=0) for each in sets] for copy in pair]
        return torch.stack([torch.stack(of_copy) for of_copy in means]).cpu().numpy()

    features = []
    for done, found in enumerate(map_ahead(lambda item: look(*item), zip(chosen, read(chosen), strict=True), threads), 1):
        features.append(found)
        on_image(done, len(chosen))
    good, planted = np.stack(features, axis=1)
    folds = split_folds(len(chosen), FOLDS, seed)
    aurocs = {pose: separation(good[:, i], planted[:, i], folds) for i, pose in enumerate(POSES)}
    best = min(zip(POSES, sets, strict=True), key=lambda each: (-aurocs[each[0]], len(each[1])))  # of equals, the quickest
    return FoundPose(best[0], len(chosen), aurocs)


def separation(good: npt.NDArray[np.float32], planted: npt.NDArray[np.float32], folds: list[list[int]]) -> float:
    """How well a density tells planted defects from good images that it has not seen.

    Args:
        good: pooled features of good images, float32 (N, D).
        planted: those of the same images with a defect, float32 (N, D).
        folds: positions; each fold is scored by the density of the others' good images.

    Returns:
        The mean AUROC of the folds.
    """
    found = []
    for fold in folds:
        flow = Flow(good.shape[1], DENSITY, seed=None)
        flow.fit_first_layer(torch.from_numpy(np.delete(good, fold, axis=0)))
        scores = transform_scores(flow, np.concatenate([good[fold], planted[fold]])[:, None])[:, 0]
        found.append(auroc(scores, np.arange(len(scores)) >= len(fold)))
    return float(np.mean(found))


def plant(image: Tensor, defect: str, rng: np.random.Generator) -> Tensor:
    """A copy of an image with a small defect.

    Args:
        image: uint8 (H, W, 3).
        defect: one of DEFECTS.
        rng: where the randomness comes from; there is no other.

    Returns:
        uint8 (H, W, 3).
    """
    pixels = image.cpu().numpy().astype(np.float32)
    size = len(pixels)
    away, towards, tilt = REACH * size * math.sqrt(rng.uniform()), *rng.uniform(0, 2 * math.pi, 2)
    axis = np.arange(size) + 0.5 - size / 2
    x, y = axis[None] - away * math.cos(towards), axis[:, None] - away * math.sin(towards)
    along, across = math.cos(tilt) * x + math.sin(tilt) * y, math.cos(tilt) * y - math.sin(tilt) * x
    above = pixels + rng.choice([-1, 1]) * rng.uniform(1, 2) * max(float(pixels.std()), 8.0)
    if defect == "patch":
        area, aspect = rng.uniform(0.003, 0.02) * size**2, math.exp(rng.uniform(-1, 1))
        cover = (np.abs(x) < math.sqrt(area * aspect) / 2) & (np.abs(y) < math.sqrt(area / aspect) / 2)
        above = np.roll(pixels, tuple(rng.integers(size // 8, size - size // 8, 2)), axis=(0, 1)) * rng.uniform(0.9, 1.1)
    elif defect == "scar":
        length, width = rng.uniform(0.06, 0.2) * size, rng.uniform(0.004, 0.01) * size
        cover = (np.abs(along) < length / 2) & (np.abs(across) < width / 2)
    else:
        radius = rng.uniform(0.01, 0.03) * size
        cover = np.exp(-((along / (1.5 * radius)) ** 2) - (across / radius) ** 2)
    mixed = pixels + (above - pixels) * cover[..., None]
    return torch.from_numpy(mixed.round().clip(0, 255).astype(np.uint8))

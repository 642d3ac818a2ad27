"""How the parts of a category lie, found out from good images alone, so that each has the transforms that help.

Legend: N images, D features, H x W pixels (H = W).

Parts that lie as they fall look, turned by a quarter, like other good images; parts that always lie the same way do not. A
density of upright images does not tell which is which: it knows turned copies by their light and background as well. How much
images differ does. If quarter turns of a good image are as likely as itself, the variance among images is that of their
means over the turns, and that among the turns of an image on top of it (the law of total variance). The share of the
latter that is found among the images is then 1; where parts always lie the same way it is near 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import TransformConfig
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import ReadImages
from differnet_ray.model.groups import raised
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.threads import map_ahead

TURNS = TransformConfig(n_transforms=4, pose="quarter")
MOST_IMAGES, FEWEST_IMAGES = 96, 10
LIE_AS_THEY_FALL = 0.7  # from this share on; measured were 0.1 to 0.4, and 0.96 (docs/benchmarks.md)
STREAM = 5  # of the random numbers of a decision


@dataclass(frozen=True)
class FoundPose:
    """What good images say of how parts lie.

    Attributes:
        pose: `any` or `quarter`.
        n_images: good images that were looked at; 0 where they are too few.
        share: how much of the variance among quarter turns of an image is found among the images.
    """

    pose: str
    n_images: int
    share: float

    @property
    def statement(self) -> str:
        """For people."""
        if not self.n_images:
            return f"pose {self.pose!r}: fewer than {FEWEST_IMAGES} good images do not decide"
        return (
            f"pose {self.pose!r}: {self.share:.2f} of what quarter turns change is found among {self.n_images} good images; "
            f"from {LIE_AS_THEY_FALL} on parts count as lying in any pose"
        )


def find_pose(
    extractor: Extractor,
    read: ReadImages,
    n: int,
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
        seed: of the choice of images.
        threads: images that are computed at the same time; changes no result.
        on_image: called after each image, with how many of how many are done.
    """
    if n < FEWEST_IMAGES:
        return FoundPose("any", 0, 0.0)
    chosen = sorted(np.random.default_rng([seed, STREAM]).permutation(n)[:MOST_IMAGES].tolist())
    turns = fixed_transforms(TURNS)

    def look(image: Tensor) -> Tensor:
        return transformed_features(extractor, image, turns).cpu()

    features = []
    for done, found in enumerate(map_ahead(look, read(chosen), threads), 1):
        features.append(found)
        on_image(done, len(chosen))
    share = share_of_turns(torch.stack(features).numpy())
    return FoundPose("any" if share >= LIE_AS_THEY_FALL else "quarter", len(chosen), share)


def share_of_turns(features: npt.NDArray[np.float32]) -> float:
    """How much of the variance among quarter turns of an image is found among the images.

    Variances are summed over the features, which are raised to a power as before a density.

    Args:
        features: of each image and its quarter turns, upright first, (N, 4, D), N >= 2, not negative.

    Returns:
        About 1 where turned images are as likely as they are, near 0 where parts always lie the same way, and 0 where turns
        change nothing.
    """
    y = raised(features)
    turned = y.var(axis=1).mean(axis=0).sum()
    among = (y[:, 0].var(axis=0, ddof=1) - y.mean(axis=1).var(axis=0, ddof=1)).sum()
    return float(among / turned) if turned > 0 else 0.0

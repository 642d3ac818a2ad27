"""The anomaly score, eq. 5.

Legend: N images, T transforms, D features, H x W pixels.

Reported is the mean over transforms and dimensions of z^2, as in the authors' code: about 1 for a typical normal image.
It is the paper's tau on another scale: tau = D / 2 * (anomaly_score + log(2 pi)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.flow import Flow

ROWS_PER_PASS = 4096  # samples that go through the flow together


@dataclass(frozen=True)
class ImageScore:
    """The score of one image.

    Attributes:
        anomaly_score: mean of z^2 over T transforms and D dimensions; larger is more anomalous.
        score_std: standard deviation of the score over the transforms; 0 for one transform, and where features are pooled.
        n_transforms: T.
    """

    anomaly_score: float
    score_std: float
    n_transforms: int


@torch.no_grad()
def score_image(model: DifferNet, image: Tensor, n_transforms: int | None = None) -> ImageScore:
    """Eq. 5 for one image; the result depends on the image, the model and T alone.

    Args:
        model: a fitted model.
        image: uint8 (H, W, 3).
        n_transforms: score with the first so many of the model's transforms; all if None.
    """
    return score_features(model, model.features(image, n_transforms))


@torch.no_grad()
def score_features(model: DifferNet, y: Tensor) -> ImageScore:
    """Eq. 5 for one image whose features, (T, D), are at hand."""
    z, _ = model.latent(y)
    return _score(z, len(y))


@torch.no_grad()
def score_pooled(model: DifferNet, features: Tensor) -> ImageScore:
    """The same to the bit, by a model that pools features, of an image whose pooled ones are at hand.

    Args:
        model: a fitted model.
        features: float32 (1, D), the mean over all of its transforms.
    """
    z, _ = model.flow(features.to(model.flow.shift.device))
    return _score(z, len(model.transforms))


def _score(z: Tensor, n_transforms: int) -> ImageScore:
    per_transform = z.double().square().mean(dim=1)
    std, mean = torch.stack(torch.std_mean(per_transform, correction=0)).tolist()  # one wait for the device
    return ImageScore(mean, std, n_transforms)


@torch.no_grad()
def transform_scores(flow: Flow, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The mean of z^2 of each transform of many images whose features are at hand.

    Args:
        flow: fitted.
        features: float32 (N, T, D).

    Returns:
        float64 (N, T); the mean over T is the `anomaly_score`, up to rounding.
    """
    samples = torch.from_numpy(np.ascontiguousarray(features)).flatten(0, 1)
    passes = [flow(part.to(flow.shift.device))[0].double().square().mean(dim=1).cpu() for part in samples.split(ROWS_PER_PASS)]
    scores: npt.NDArray[np.float64] = torch.cat(passes).view(features.shape[:2]).numpy()
    return scores

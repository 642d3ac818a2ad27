"""Gradient maps, eq. 7: where in the image the loss comes from.

Legend: T rotations, C channels, H x W pixels, d the downsampling of a stored map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.functional import gaussian_blur

from differnet_ray.config import MapConfig
from differnet_ray.model.differnet import DifferNet, exact_convolutions, in_chunks
from differnet_ray.model.flow import nll
from differnet_ray.model.transforms import apply_transforms, rotate_back


def gradient_map(model: DifferNet, image: Tensor, config: MapConfig) -> Tensor:
    """The gradient map of one image, averaged over rotations, each map rotated back.

    A pixel that a rotation pushes out of the image is averaged over the rotations that show it, and zero if none does.

    Args:
        model: a fitted model.
        image: uint8 (H, W, 3).
        config: rotations, blur and size.

    Returns:
        float32 (H / d, W / d): the absolute gradient of the loss of eq. 4 by the normalized pixels, summed over channels,
        per pixel. Divide by a model's `map_unit` to compare images.
    """
    transforms = model.transforms.first(config.n_rotations)
    feature_gradient = pooled_gradient(model, image) if model.pooled else None
    image = image.to(model.positions.device)

    def turned_back(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = transforms.slice(start, stop)
        with torch.no_grad():
            copies = apply_transforms(image, part, model.positions[start:stop])
        x = model.extractor.normalize(copies)
        maps, visible = rotate_back(input_gradient(model, x, config.sigma, feature_gradient), part)
        return maps.sum(dim=0), visible.sum(dim=0)

    parts = list(in_chunks(model.extractor, len(transforms), turned_back))
    total, shown = (torch.stack(sums).sum(dim=0) for sums in zip(*parts, strict=True))
    return avg_pool2d((total / shown.clamp_min(1))[None], config.downsample)[0]


def input_gradient(model: DifferNet, x: Tensor, sigma: float, feature_gradient: Tensor | None = None) -> Tensor:
    """g_x = sum over c of |G * dL/dx_c| for a batch of normalized images, eq. 7.

    Args:
        model: a fitted model.
        x: float32 (T, 3, H, W), normalized.
        sigma: of the Gaussian G, in pixels.
        feature_gradient: of `pooled_gradient`, where the model pools features.

    Returns:
        float32 (T, H, W).
    """
    gradient = pixel_gradient(model, x, feature_gradient)
    radius = min(math.ceil(4 * sigma), x.shape[-1] - 1)
    with exact_convolutions():
        blurred: Tensor = gaussian_blur(gradient, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred.abs().sum(dim=1)


def pixel_gradient(model: DifferNet, x: Tensor, feature_gradient: Tensor | None = None) -> Tensor:
    """dL/dx of the loss of eq. 4 for a batch of normalized images: float32 (T, C, H, W), as x.

    L is the loss of each image; with a feature gradient, T times that of the pooled features, of which each image is one T-th.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad(), exact_convolutions():
        y = model.extractor(x)  # samples do not mix: one backward pass serves them all
        loss = nll(*model.flow(y)).sum() if feature_gradient is None else (y * feature_gradient).sum()
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def pooled_gradient(model: DifferNet, image: Tensor) -> Tensor:
    """dL/dy of an image's pooled features y, uint8 (H, W, 3): float32 (1, D)."""
    y = model.features(image).mean(dim=0, keepdim=True).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(nll(*model.flow(y)).sum(), y)
    return gradient

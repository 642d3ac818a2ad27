"""Activation maps: which cells of the feature maps the loss comes from. They take no pass through the network.

Legend: T transforms, S scales, C channels, n x n cells of a feature map, H x W pixels, d the downsampling of a stored map.

A cell's value is the sum over channels of a * dL/da, a the activations before their pooling and L the loss of eq. 4: by how
much the loss would change, to first order, without the cell (HiResCAM: Draelos and Carin 2020, arXiv 2011.08891). Between a
and L are only a pooling and the flow, so the forward pass of the score is all that the network does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from differnet_ray.config import MapConfig
from differnet_ray.model.cells import Cells
from differnet_ray.model.differnet import Activations, DifferNet
from differnet_ray.model.flow import nll
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.transforms import TransformSet


def map_of(model: DifferNet, image: Tensor, config: MapConfig) -> Tensor:
    """The map of an image that has not just been scored, of the kind that the config names.

    Args:
        model: a fitted model.
        image: uint8 (H, W, 3).
        config: kind and size, rotations and blur.

    Returns:
        float32 (H / d, W / d), of `activation_map` or `gradient_map`.
    """
    if config.map_kind == "gradient":
        return gradient_map(model, image, config)
    return activation_map(model, model.activations(image), config)


def activation_map(model: DifferNet, activations: Activations, config: MapConfig) -> Tensor:
    """The activation map of one image, averaged over the transforms of its score, each map rotated back.

    A pixel that a rotation pushes out of the image is averaged over the rotations that show it, and zero if none does.

    Args:
        model: a fitted model.
        activations: of the image, by `DifferNet.activations`.
        config: its size.

    Returns:
        float32 (H / d, W / d): the contribution to the loss for each part of the image as large as the image, so that the
        mean over the image is about its part of the loss that is linear in a. Below zero where a cell makes the image
        likelier. Divide by a model's `map_unit` to compare images.
    """
    size = model.extractor.config.image_size
    parts, start = [], 0
    for chunk in contributions(model, activations):
        stop = start + len(chunk[0])
        turns, side = model.transforms.slice(start, stop), size // config.downsample
        parts.append(turned_back(chunk, turns, size, side, model.extractor.cells))
        start = stop
    total, shown = (torch.stack(sums).sum(dim=0) for sums in zip(*parts, strict=True))
    return total / shown.clamp_min(1)


def contributions(model: DifferNet, activations: Activations) -> Activations:
    """n^2 times the sum over channels of a * dL/da: chunk by chunk and map by map (B, n, n).

    L is the loss of each copy; where features are pooled T times that of the image, of which each copy is one T-th.
    """
    with torch.enable_grad():
        leaves = [[a.detach().requires_grad_() for a in chunk] for chunk in activations]
        y = model.features_of(leaves)
        loss = len(y) * nll(*model.latent(y)).mean()
        gradients = iter(torch.autograd.grad(loss, [a for chunk in leaves for a in chunk]))
    return [[(a * next(gradients)).sum(dim=1) * a[0, 0].numel() for a in chunk] for chunk in activations]


def turned_back(
    maps: Sequence[Tensor], transforms: TransformSet, size: int, side: int, cells: Sequence[Cells]
) -> tuple[Tensor, Tensor]:
    """Cells of the rotated copies in the frame of their image, bilinear between the centres of cells.

    Args:
        maps: arrays of cells, float32 (T, n, n), of each scale and layer.
        transforms: T transforms.
        size: H, pixels a side of the image.
        side: pixels a side of the result.
        cells: where those of each array lie.

    Returns:
        float32 (side, side): the sum over the copies that show a pixel, and maps; and how many copies show it.
    """
    device = maps[0].device
    angle = torch.tensor(transforms.angles, dtype=torch.float64, device=device)[:, None, None]
    centred = (torch.arange(side, dtype=torch.float64, device=device) + 0.5) * (size / side) - size / 2
    y, x = centred[:, None], centred[None, :]
    turned = torch.stack([torch.cos(angle) * x + torch.sin(angle) * y, torch.cos(angle) * y - torch.sin(angle) * x], dim=-1)
    pixel, visible = turned + size / 2 - 0.5, (turned.abs() <= size / 2).all(dim=-1)
    total = torch.zeros(side, side, device=device)
    for of_map, (first, step) in zip(maps, cells, strict=True):
        grid = 2 * (pixel - first) / step / (of_map.shape[-1] - 1) - 1
        found = grid_sample(of_map[:, None], grid.to(of_map.dtype), padding_mode="border", align_corners=True)[:, 0]
        total += (found * visible).sum(dim=0)
    return total, visible.sum(dim=0)

"""The transforms T_i of eq. 5: rotation, brightness and contrast, applied to whole batches on the device.

Legend: B images, T transforms, H x W pixels (H = W). Images are uint8 RGB (B, H, W, 3); transformed images are float32
(B, 3, H, W) in [0, 1].

A rotation is nearest-neighbour sampling: a gather with precomputed positions, so that all rotations of a fixed set cost
one table. Corners that leave the image are black, as in the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from differnet_ray.config import POSES, TransformConfig
from differnet_ray.errors import ConfigError

GOLDEN = (math.sqrt(5) - 1) / 2  # turns
QUARTER = math.pi / 2
SMALL = math.radians(6)  # the largest rotation of parts that always lie the same way


@dataclass(frozen=True)
class TransformSet:
    """A list of T transforms: the fixed one that is part of a model, or the random one of an image and epoch.

    Attributes:
        angles: counter-clockwise rotations in radians, T floats.
        brightness: factors, T floats.
        contrast: factors, T floats.
    """

    angles: tuple[float, ...]
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.angles)

    def first(self, n: int) -> TransformSet:
        """The first n transforms, which are well spread over the circle if this is a fixed set."""
        return self.slice(0, n)

    def slice(self, start: int, stop: int) -> TransformSet:
        """The transforms from `start` up to, but without, `stop`."""
        return TransformSet(self.angles[start:stop], self.brightness[start:stop], self.contrast[start:stop])


def fixed_transforms(config: TransformConfig) -> TransformSet:
    """The fixed set that scores, or features, are averaged over.

    Pose `any`: angles are multiples of the golden angle, so that every prefix of the set is well spread over the circle, and
    over each quarter of it: an image rotated by 0, 90, 180 or 270 degrees has no black corners and looks unlike all that a
    flow is fitted on, where rotations are random. `quarter`: these four, again and again. `fixed`: upright first, then
    multiples of the golden ratio again, within 6 degrees. Brightness and contrast follow a Halton sequence.

    Args:
        config: pose, T and the ranges of the factors.

    Returns:
        T transforms; the same for the same config, on every machine.

    Raises:
        ConfigError: the pose is not decided.

    Example:
        >>> [round(math.degrees(angle)) for angle in fixed_transforms(TransformConfig(n_transforms=4)).angles]
        [111, 334, 196, 59]
        >>> [round(math.degrees(angle)) for angle in fixed_transforms(TransformConfig(5, "fixed")).angles]
        [0, -5, 3, -2, 6]
    """
    n = np.arange(config.n_transforms)
    factors = 2 * qmc.Halton(d=2, scramble=False).random(config.n_transforms + 1)[1:] - 1  # in (-1, 1), zero first
    if _decided(config) == "any":
        angles = 2 * math.pi * ((n + 0.5) * GOLDEN % 1.0)
    elif config.pose == "quarter":
        angles = QUARTER * (n % 4)
    else:
        angles = SMALL * (2 * ((n * GOLDEN + 0.5) % 1.0) - 1)
    return TransformSet(
        angles=tuple(angles.tolist()),
        brightness=tuple((1 + config.brightness * factors[:, 0]).tolist()),
        contrast=tuple((1 + config.contrast * factors[:, 1]).tolist()),
    )


def random_transforms(config: TransformConfig, n: int, rng: np.random.Generator) -> TransformSet:
    """N transforms for fitting: angles uniform in the range of the pose, factors uniform in theirs (section 4.2).

    Args:
        config: the pose, and the ranges of the factors. `any`: [0, 2 pi); `quarter`: one of four; `fixed`: within 6 degrees.
        n: how many.
        rng: where the randomness comes from; there is no other.

    Raises:
        ConfigError: the pose is not decided.
    """
    draws = rng.uniform(-1.0, 1.0, size=(n, 3))
    if _decided(config) == "any":
        angles = math.pi * (draws[:, 0] + 1)
    elif config.pose == "quarter":
        angles = QUARTER * np.floor(2 * (draws[:, 0] + 1))
    else:
        angles = SMALL * draws[:, 0]
    return TransformSet(
        angles=tuple(angles.tolist()),
        brightness=tuple((1 + config.brightness * draws[:, 1]).tolist()),
        contrast=tuple((1 + config.contrast * draws[:, 2]).tolist()),
    )


def _decided(config: TransformConfig) -> str:
    if config.pose not in POSES:
        raise ConfigError(f"pose = {config.pose!r}: it must be decided before transforms are made: one of {', '.join(POSES)}")
    return config.pose


def sampling_positions(angles: tuple[float, ...], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Where each pixel of a rotated image comes from.

    Args:
        angles: counter-clockwise rotations about the centre of the image, in radians.
        size: H, pixels a side.
        device: where the positions are computed and lie.

    Returns:
        int32 (T, H * W): flat positions in the source image, and H * W where the pixel lies outside it.
    """
    angle = torch.tensor(angles, dtype=torch.float64, device=device)[:, None, None]
    centred = torch.arange(size, dtype=torch.float64, device=device) + 0.5 - size / 2
    y, x = centred[:, None], centred[None, :]
    column = torch.floor(torch.cos(angle) * x - torch.sin(angle) * y + size / 2)
    row = torch.floor(torch.sin(angle) * x + torch.cos(angle) * y + size / 2)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    return torch.where(inside, row * size + column, float(size * size)).int().flatten(1)


def apply_transforms(image: Tensor, transforms: TransformSet, positions: Tensor) -> Tensor:
    """The transformed copies T_i(x) of one image.

    Args:
        image: uint8 (H, W, 3).
        transforms: T transforms.
        positions: int32 (T, H * W), `sampling_positions` of their angles, on the image's device.

    Returns:
        float32 (T, 3, H, W) in [0, 1]; brightness is changed first, then contrast, as
        `torchvision.transforms.functional` does it.
    """
    height, width, _ = image.shape
    planes = torch.nn.functional.pad(image.permute(2, 0, 1).flatten(1), (0, 1))  # one black pixel at H * W
    copies = planes.index_select(1, positions.flatten()).view(3, -1, height, width).transpose(0, 1).float() / 255
    if set(transforms.brightness) != {1.0}:
        copies = (copies * _per_copy(transforms.brightness, copies)).clamp(0, 1)
    if set(transforms.contrast) != {1.0}:
        factor = _per_copy(transforms.contrast, copies)
        mean = rgb_to_grayscale(copies).mean(dim=(1, 2, 3), keepdim=True)
        copies = (factor * copies + (1 - factor) * mean).clamp(0, 1)
    return copies


def rotate_back(maps: Tensor, transforms: TransformSet) -> tuple[Tensor, Tensor]:
    """Undoes the rotations of maps that belong to rotated images.

    Args:
        maps: (T, H, W), one map per transformed image.
        transforms: the T transforms.

    Returns:
        The maps in the frame of the original image, (T, H, W), zero where the rotated image did not show the pixel; and
        bool (T, H, W), true where it did.
    """
    inverse = sampling_positions(tuple(-a for a in transforms.angles), maps.shape[-1], maps.device)
    padded = torch.nn.functional.pad(maps.flatten(1), (0, 1))
    return padded.gather(1, inverse.long()).view_as(maps), (inverse < maps[0].numel()).view_as(maps)


def _per_copy(factors: tuple[float, ...], copies: Tensor) -> Tensor:
    return torch.tensor(factors, dtype=copies.dtype, device=copies.device)[:, None, None, None]

"""Frozen networks that features are taken from: images to feature maps, and each of these to its features.

Legend: B images, L feature maps, C channels of one, n x n cells of one, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import alexnet


class Network(nn.Module):
    """What an extractor asks of a network.

    Attributes:
        layers: the module that has the weights.
    """

    layers: nn.Module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, 3, H, W) to L feature maps (B, C, n, n), the finest first."""
        raise NotImplementedError

    def pool(self, a: Tensor) -> Tensor:
        """A feature map (B, C, n, n) to features (B, C), none of them negative."""
        raise NotImplementedError


class AlexNet(Network):
    """The convolutional part of AlexNet: its feature map is the last convolution, after its ReLU and before its pooling."""

    layers: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # no memory and no global random state for weights that are replaced at once
            self.layers = alexnet(weights=None).features

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map of 256 channels, n = 27 for 448 pixels."""
        return [self.layers[: len(self.layers) - 1](x)]

    def pool(self, a: Tensor) -> Tensor:
        """Globally average-pooled maxima."""
        maxima: Tensor = self.layers[-1](a)
        return maxima.mean(dim=(2, 3))

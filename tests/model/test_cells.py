"""Where the cells of feature maps lie: what the layers say is what the pixels say that a cell depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from differnet_ray.config import ExtractorConfig, FitConfig, FlowConfig, MapConfig, TransformConfig
from differnet_ray.model.activation_map import map_of
from differnet_ray.model.cells import cells_of
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor, load_backbone_weights, with_network
from differnet_ray.model.fitting import FeatureBank, fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.network import AlexNet
from differnet_ray.model.transforms import fixed_transforms

NETWORKS = (
    "resnet18",
    "mobilenetv3_small_050",
    "test_convnext",
    "tf_efficientnet_lite0",
)  # padded evenly, not at all, to one side


def test_alexnet_looks_at_15_and_every_16th_pixel() -> None:
    assert cells_of(AlexNet().to("meta"), 448, 3) == ((15, 16), (30, 32), (60, 64))
    assert cells_of(AlexNet().to("meta"), 252, 1) == ((15, 16),)


def test_layers_that_pad_to_one_side_are_seen_through() -> None:
    """TensorFlow's padding of even sizes puts the odd pixel behind: a cell of stride 2 looks at 1 + 2 i."""
    of = with_network(ExtractorConfig(image_size=128, n_scales=2), "timm:tf_efficientnet_lite0", (1, 4))
    assert Extractor(of, load_backbone_weights("random", of)[0]).cells == ((3, 4), (31, 32), (6, 8), (62, 64))


def test_cells_are_evenly_spread_where_no_layer_has_a_kernel() -> None:
    class Folded(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [nn.functional.pixel_unshuffle(x, 4)]

    assert cells_of(Folded(), 64, 1) == ((1.5, 4),)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_a_cell_lies_around_its_place(name: str) -> None:
    """Centre of the squared gradient of one cell by the pixels, over several random networks and images."""
    size, layer = 256, -2
    shift = []
    for seed in range(2):
        of = with_network(ExtractorConfig(image_size=size, n_scales=1), f"timm:{name}", (layer,))
        extractor = Extractor(of, load_backbone_weights("random", of, seed=seed)[0])
        (first, step), x = extractor.cells[0], torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))
        (a,) = extractor.activations(x.requires_grad_())
        cell = a.shape[-1] // 2
        (gradient,) = torch.autograd.grad(a[:, :, cell, cell].square().sum(), x)
        weight = gradient.square().sum(dim=(0, 1))
        centre = [(weight.sum(dim=1 - axis) * torch.arange(size)).sum() / weight.sum() for axis in (0, 1)]
        shift.append([value.item() - (first + step * cell) for value in centre])
    assert np.abs(np.mean(shift, axis=0)).max() < step / 4


@pytest.mark.parametrize("place", [(24, 24), (88, 32), (48, 80)])
def test_a_planted_square_draws_the_peak_of_the_map_of_a_network_of_timm(place: tuple[int, int]) -> None:
    of = with_network(ExtractorConfig(image_size=128, n_scales=1), "timm:test_resnet", (2, 3))
    extractor = Extractor(of, load_backbone_weights("random", of)[0])
    good = torch.randint(90, 130, (8, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = FitConfig(epochs=1, fresh_epochs=1, transforms_per_image=1)
    transforms = TransformConfig(n_transforms=4, pose="quarter", pooled=True)
    flow = Flow(of.n_features, FlowConfig(n_blocks=0, power=0.25, first_layer="whiten", shrinkage=0.1), seed=0)
    list(fit(flow, FeatureBank(extractor, len(good), lambda positions: good[list(positions)], transforms, config), config))
    net = DifferNet(extractor, flow, fixed_transforms(transforms), pooled=True)
    bad, (row, column) = good[0].clone(), place
    bad[row : row + 16, column : column + 16] = 255
    found = map_of(net, bad, MapConfig(downsample=1))
    peak = np.unravel_index(found.argmax().item(), found.shape)
    assert math.dist(peak, (row + 7.5, column + 7.5)) < 16  # cells of 8 and 16 pixels, random weights

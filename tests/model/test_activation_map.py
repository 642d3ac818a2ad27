"""Activation maps: the loss's first-order change without a cell, where AlexNet looks, and the mean over turned copies."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from differnet_ray.config import ExtractorConfig, FitConfig, FlowConfig, MapConfig, TransformConfig
from differnet_ray.model.activation_map import activation_map, contributions, map_of
from differnet_ray.model.differnet import Activations, DifferNet
from differnet_ray.model.extractor import CHUNK, Extractor
from differnet_ray.model.fitting import FeatureBank, fit
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import score_features, score_image
from differnet_ray.model.transforms import TransformSet, fixed_transforms

QUARTERS = TransformSet(tuple(n * math.pi / 2 for n in range(4)), (1.0,) * 4, (1.0,) * 4)
POOLED = pytest.mark.parametrize("pooled", [False, True])


@pytest.fixture(scope="module")
def two_scales(backbone: dict[str, Tensor]) -> Extractor:
    """128 pixels, whose coarser scale has cells of another size: D = 512."""
    return Extractor(ExtractorConfig(image_size=128, n_scales=2), backbone)


def net_of(extractor: Extractor, transforms: TransformSet, *, pooled: bool = True) -> DifferNet:
    flow = Flow(extractor.config.n_features, FlowConfig(n_blocks=2, hidden=16), seed=0)
    return DifferNet(extractor, flow, transforms, pooled=pooled)


def image_of(size: int) -> Tensor:
    """Noise with a bright square off the centre, uint8 (size, size, 3)."""
    image = torch.randint(90, 130, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    image[size // 8 : size // 3, size // 2 : size // 2 + size // 4] += 90
    return image


def loss(net: DifferNet, activations: Activations) -> float:
    """The sum of the losses of the copies; T times that of an image whose features are pooled."""
    y = net.features_of(activations)
    return len(y) * nll(*net.latent(y)).mean().item()


def test_features_of_activations_are_the_features_to_the_bit(tiny_extractor: Extractor, images: Tensor) -> None:
    net = net_of(tiny_extractor, fixed_transforms(TransformConfig(n_transforms=CHUNK + 4)))
    activations = net.activations(images[0])
    assert [len(chunk[0]) for chunk in activations] == [CHUNK, 4]
    torch.testing.assert_close(net.features_of(activations), net.features(images[0]), rtol=0, atol=0)
    assert score_features(net, net.features_of(activations)) == score_image(net, images[0])
    assert len(net.features_of(net.activations(images[0], 3))) == 3


@POOLED
def test_a_contribution_is_the_finite_difference_of_the_loss_by_the_size_of_a_cell(two_scales: Extractor, pooled: bool) -> None:
    net = deepcopy(net_of(two_scales, fixed_transforms(TransformConfig(n_transforms=2)), pooled=pooled)).double()
    activations = [[a.double() for a in chunk] for chunk in net.activations(image_of(128))]
    found, step, rng = contributions(net, activations), 1e-6, np.random.default_rng(0)
    for s in range(2):
        n = found[0][s].shape[-1]
        for copy, row, column in rng.integers(0, (2, n, n), size=(8, 3)):
            losses = []
            for sign in (1, -1):
                moved = deepcopy(activations)
                moved[0][s][copy, :, row, column] *= 1 + sign * step
                losses.append(loss(net, moved))
            expected = n**2 * (losses[0] - losses[1]) / (2 * step)
            assert found[0][s][copy, row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-7 * n**2)


@POOLED
def test_contributions_add_up_to_the_part_of_the_loss_that_is_linear_in_the_features(
    tiny_extractor: Extractor, images: Tensor, pooled: bool
) -> None:
    net = net_of(tiny_extractor, fixed_transforms(TransformConfig(n_transforms=CHUNK + 4)), pooled=pooled)
    activations = net.activations(images[0])
    y = net.features(images[0]).requires_grad_()
    (gradient,) = torch.autograd.grad(len(y) * nll(*net.latent(y)).mean(), y)
    expected = (y * gradient).sum(dim=1).detach()
    found = torch.cat([chunk[0].mean(dim=(1, 2)) for chunk in contributions(net, activations)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_map_turns_with_its_image_where_the_transforms_are_quarter_turns(two_scales: Extractor, turns: int) -> None:
    net, config = net_of(two_scales, QUARTERS), MapConfig(downsample=4)
    image = image_of(128)
    found = map_of(net, torch.rot90(image, turns, (0, 1)).contiguous(), config)
    expected = torch.rot90(map_of(net, image, config), turns, (0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("place", [(79, 47), (40, 88)])
def test_cells_of_turned_copies_are_put_back_where_they_came_from(two_scales: Extractor, place: tuple[int, int]) -> None:
    """One cell of each copy is active: the one that is nearest to a place of the image, by the rotation's definition."""
    transforms = fixed_transforms(TransformConfig(n_transforms=5))
    net = net_of(two_scales, transforms)
    net.latent = lambda y: ((y + 1).sqrt(), torch.zeros(len(y)))  # type: ignore[method-assign]  # any activity is a loss
    chunk = [torch.zeros_like(a) for a in net.activations(image_of(128))[0]]
    y, x = (value + 0.5 - 64 for value in place)
    for copy, angle in enumerate(transforms.angles):
        row, column = math.cos(angle) * y - math.sin(angle) * x + 64, math.cos(angle) * x + math.sin(angle) * y + 64
        for s, cells in enumerate(chunk):
            cells[copy, :, *(round((value / 2**s - 15) / 16) for value in (row, column))] = 1
    found = activation_map(net, [chunk], MapConfig(downsample=1))
    peak = np.unravel_index(found.argmax().item(), found.shape)
    assert math.dist(peak, place) < 8


def test_a_pixel_is_averaged_over_the_rotations_that_show_it(two_scales: Extractor) -> None:
    transforms = fixed_transforms(TransformConfig(n_transforms=3))
    net, image = net_of(two_scales, transforms, pooled=False), image_of(128)
    config, sums, shown = MapConfig(downsample=4), torch.zeros(32, 32), torch.zeros(32, 32)
    for i in range(3):
        alone = map_of(net_of(two_scales, transforms.slice(i, i + 1), pooled=False), image, config)
        sums, shown = sums + alone, shown + (alone != 0)
    found = map_of(net, image, config)
    torch.testing.assert_close(found, sums / shown.clamp_min(1), rtol=1e-3, atol=1e-3 * found.abs().max().item())


@pytest.mark.parametrize("downsample", [1, 2, 4, 8])
def test_a_map_has_the_size_of_the_config(tiny_net: DifferNet, images: Tensor, downsample: int) -> None:
    found = map_of(tiny_net, images[0], MapConfig(downsample=downsample))
    assert found.shape == (64 // downsample, 64 // downsample)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_a_map_is_the_same_bits_every_time_and_leaves_nothing_behind(tiny_net: DifferNet, images: Tensor) -> None:
    first = map_of(tiny_net, images[0], MapConfig())
    map_of(tiny_net, images[1], MapConfig())
    with torch.no_grad():
        torch.testing.assert_close(map_of(tiny_net, images[0], MapConfig()), first, rtol=0, atol=0)
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in tiny_net.parameters())


def test_the_kind_says_which_map(tiny_net: DifferNet, images: Tensor) -> None:
    config = MapConfig(map_kind="gradient")
    torch.testing.assert_close(map_of(tiny_net, images[0], config), gradient_map(tiny_net, images[0], config), rtol=0, atol=0)


@pytest.mark.parametrize("place", [(24, 24), (88, 32), (48, 80)])
def test_a_planted_square_draws_the_peak_of_the_map(two_scales: Extractor, place: tuple[int, int]) -> None:
    good = torch.randint(90, 130, (8, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = FitConfig(epochs=1, fresh_epochs=1, transforms_per_image=1)
    transforms = TransformConfig(n_transforms=4, pooled=True)
    flow = Flow(512, FlowConfig(n_blocks=0, power=0.25, first_layer="whiten", shrinkage=0.1), seed=0)
    bank = FeatureBank(two_scales, len(good), lambda positions: good[list(positions)], transforms, config)
    list(fit(flow, bank, config))
    net = DifferNet(two_scales, flow, fixed_transforms(transforms), pooled=True)
    bad, (row, column) = good[0].clone(), place
    bad[row : row + 16, column : column + 16] = 255
    found = map_of(net, bad, MapConfig(downsample=1))
    peak = np.unravel_index(found.argmax().item(), found.shape)
    assert math.dist(peak, (row + 7.5, column + 7.5)) < 32  # cells of random weights, and coarse ones

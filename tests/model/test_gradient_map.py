"""Gradient maps: finite differences of the loss, SciPy's blur, and the mean over the rotations that show a pixel."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from differnet_ray.config import FitConfig, FlowConfig, MapConfig, TransformConfig
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import CHUNK, Extractor
from differnet_ray.model.fitting import FeatureBank, fit
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.gradient_map import gradient_map, input_gradient, pixel_gradient, pooled_gradient
from differnet_ray.model.scoring import score_image
from differnet_ray.model.transforms import apply_transforms, fixed_transforms

NO_BLUR = 0.05  # of a pixel: the kernel is 1 at its centre and e^-200 beside it


@pytest.fixture
def double_net(tiny_net: DifferNet) -> DifferNet:
    return deepcopy(tiny_net).double()


@pytest.fixture
def long_net(tiny_extractor: Extractor, tiny_flow: Flow) -> DifferNet:
    """More transforms than fit in one chunk."""
    return DifferNet(tiny_extractor, tiny_flow, fixed_transforms(TransformConfig(n_transforms=CHUNK + 4)))


def noise(n: int) -> Tensor:
    return torch.randn(n, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def signed_gradient(net: DifferNet, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    nll(*net.flow(net.extractor(x))).sum().backward()
    assert x.grad is not None
    return x.grad


def test_without_blur_it_is_the_finite_difference_of_the_loss_summed_over_the_channels(double_net: DifferNet) -> None:
    x, step, rng = noise(1), 1e-6, np.random.default_rng(0)
    found = input_gradient(double_net, x, NO_BLUR)
    assert found.shape == (1, 64, 64)
    for row, column in rng.integers(1, 63, size=(12, 2)):
        expected = 0.0
        for channel in range(3):
            moved = x.repeat(2, 1, 1, 1)
            moved[:, channel, row, column] += torch.tensor([step, -step])
            up, down = nll(*double_net.flow(double_net.extractor(moved))).tolist()
            expected += abs(up - down) / (2 * step)
        assert found[0, row, column].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 3.0])
def test_the_blur_is_scipys_and_comes_before_the_absolute_value(double_net: DifferNet, sigma: float) -> None:
    x = noise(2)
    radius = math.ceil(4 * sigma)  # both mirror about the outermost pixels
    blurred = gaussian_filter(signed_gradient(double_net, x).numpy(), sigma, mode="mirror", radius=radius, axes=(2, 3))
    found = input_gradient(double_net, x, sigma).numpy()
    np.testing.assert_allclose(found, np.abs(blurred).sum(axis=1), rtol=1e-9, atol=1e-9 * found.max())


def test_the_blur_is_an_exact_convolution_too(tiny_net: DifferNet, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []

    def blur(gradient: Tensor, size: list[int], sigma: list[float]) -> Tensor:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return gradient

    monkeypatch.setattr("differnet_ray.model.gradient_map.gaussian_blur", blur)
    input_gradient(tiny_net, noise(1).float(), 3.0)
    assert allowed == [False]


def test_a_blur_wider_than_the_image_is_cut(tiny_net: DifferNet) -> None:
    assert input_gradient(tiny_net, noise(1).float(), 40.0).isfinite().all()


def test_a_pooled_gradient_is_that_of_the_loss_of_the_mean_features(long_net: DifferNet, images: Tensor) -> None:
    net = DifferNet(long_net.extractor, long_net.flow, long_net.transforms, pooled=True)
    x = net.extractor.normalize(apply_transforms(images[0], net.transforms, net.positions)).requires_grad_()
    nll(*net.flow(net.extractor(x).mean(dim=0, keepdim=True))).sum().backward()
    found = pixel_gradient(net, x.detach()[:3], pooled_gradient(net, images[0]))
    assert x.grad is not None
    torch.testing.assert_close(found, len(net.transforms) * x.grad[:3], rtol=1e-3, atol=1e-8)
    config = MapConfig(n_rotations=3, sigma=1.0, downsample=4)
    assert not torch.allclose(gradient_map(net, images[0], config), gradient_map(long_net, images[0], config), rtol=0.01)


def test_images_of_a_batch_do_not_mix(double_net: DifferNet) -> None:
    x = noise(3)
    together = input_gradient(double_net, x, 1.0)
    for i in range(3):
        torch.testing.assert_close(input_gradient(double_net, x[i : i + 1], 1.0)[0], together[i], rtol=1e-9, atol=1e-12)


def literal_map(net: DifferNet, image: Tensor, n_rotations: int, sigma: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean over the rotations that show a pixel, rotation by rotation; and how many do."""
    size = len(image)
    total, shown = np.zeros((size, size)), np.zeros((size, size), dtype=np.int64)
    centre = np.arange(size) + 0.5 - size / 2
    y, x = centre[:, None], centre[None, :]
    for i in range(n_rotations):
        copy = apply_transforms(image, net.transforms.slice(i, i + 1), net.positions[i : i + 1])
        turned = input_gradient(net, net.extractor.normalize(copy), sigma)[0].numpy()
        angle = net.transforms.angles[i]
        column = np.floor(np.cos(angle) * x + np.sin(angle) * y + size / 2).astype(int)
        row = np.floor(-np.sin(angle) * x + np.cos(angle) * y + size / 2).astype(int)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        total[inside] += turned[row[inside], column[inside]]
        shown += inside
    return total / np.maximum(shown, 1), shown


@pytest.mark.parametrize("n_rotations", [1, 5, CHUNK + 3])
def test_each_pixel_is_averaged_over_the_rotations_that_show_it(long_net: DifferNet, images: Tensor, n_rotations: int) -> None:
    found = gradient_map(long_net, images[0], MapConfig(n_rotations=n_rotations, downsample=1)).numpy()
    expected, shown = literal_map(long_net, images[0], n_rotations, 3.0)
    assert shown.max() == n_rotations
    assert (found[shown == 0] == 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("n_rotations", [1, 4, 8])
@pytest.mark.parametrize("downsample", [1, 4])
def test_maps_are_finite_up_to_the_corners_that_no_rotation_shows(
    tiny_net: DifferNet, images: Tensor, n_rotations: int, downsample: int
) -> None:
    found = gradient_map(tiny_net, images[0], MapConfig(n_rotations=n_rotations, downsample=downsample))
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() > 0


@pytest.mark.parametrize("downsample", [1, 2, 4, 8])
def test_a_stored_map_is_the_block_mean_of_the_full_one(tiny_net: DifferNet, images: Tensor, downsample: int) -> None:
    full = gradient_map(tiny_net, images[0], MapConfig(downsample=1)).numpy()
    small = gradient_map(tiny_net, images[0], MapConfig(downsample=downsample))
    assert small.shape == (64 // downsample, 64 // downsample)
    assert small.dtype == torch.float32
    blocks = full.reshape(64 // downsample, downsample, 64 // downsample, downsample).mean(axis=(1, 3))
    np.testing.assert_allclose(small.numpy(), blocks, rtol=1e-4)


def test_a_map_is_the_same_bits_every_time_and_leaves_nothing_behind(tiny_net: DifferNet, images: Tensor) -> None:
    first = gradient_map(tiny_net, images[0], MapConfig())
    gradient_map(tiny_net, images[1], MapConfig())
    with torch.no_grad():
        torch.testing.assert_close(gradient_map(tiny_net, images[0], MapConfig()), first, rtol=0, atol=0)
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in tiny_net.parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_square_raises_the_score_and_draws_the_peak_of_the_map(tiny_extractor: Extractor, seed: int) -> None:
    good = torch.randint(90, 130, (8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    flow = Flow(256, FlowConfig(n_blocks=2, hidden=16, first_layer="standardize"), seed=seed)
    config = FitConfig(epochs=12, fresh_epochs=1, images_per_batch=8, learning_rate=1e-3, max_grad_norm=1.0, seed=seed)
    for _ in fit(
        flow, FeatureBank(tiny_extractor, len(good), lambda positions: good[list(positions)], TransformConfig(), config), config
    ):
        pass
    net = DifferNet(tiny_extractor, flow, fixed_transforms(TransformConfig(n_transforms=8)))
    for row, column in [(20, 20), (44, 24), (32, 40)]:
        bad = good[0].clone()
        bad[row - 4 : row + 4, column - 4 : column + 4] = 255
        assert score_image(net, bad).anomaly_score > 2 * score_image(net, good[0]).anomaly_score
        field = gradient_map(net, bad, MapConfig(downsample=1)).numpy()
        peak = np.unravel_index(field.argmax(), field.shape)
        assert math.dist(peak, (row - 0.5, column - 0.5)) < 4

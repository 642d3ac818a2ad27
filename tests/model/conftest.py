"""Small models for the tests of the numeric room: 64 pixels, one scale, two blocks of width 16, random weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from differnet_ray.config import ExtractorConfig, FlowConfig, TransformConfig
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor, load_backbone_weights
from differnet_ray.model.flow import Flow
from differnet_ray.model.transforms import fixed_transforms

settings.register_profile("shared machine", deadline=None)  # a slow example is no failure where the cores are shared
settings.load_profile("shared machine")

TINY_EXTRACTOR = ExtractorConfig(image_size=64, n_scales=1)
TINY_FLOW = FlowConfig(n_blocks=2, hidden=16)


@pytest.fixture(scope="session")
def backbone() -> dict[str, Tensor]:
    """Random weights of AlexNet's convolutional part."""
    return load_backbone_weights("random")[0]


@pytest.fixture(scope="session")
def tiny_extractor(backbone: dict[str, Tensor]) -> Extractor:
    """64 pixels, one scale: D = 256."""
    return Extractor(TINY_EXTRACTOR, backbone)


@pytest.fixture
def tiny_flow() -> Flow:
    """A fresh flow for the features of `tiny_extractor`, that a test may fit."""
    return Flow(TINY_EXTRACTOR.n_features, TINY_FLOW, seed=0)


@pytest.fixture
def tiny_net(tiny_extractor: Extractor, tiny_flow: Flow) -> DifferNet:
    """Eight transforms, rotations only."""
    return DifferNet(tiny_extractor, tiny_flow, fixed_transforms(TransformConfig(n_transforms=8)))


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Six noisy grey images with a bright stripe each, uint8 (6, 64, 64, 3)."""
    noise = torch.randint(90, 130, (6, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for i, image in enumerate(noise):
        image[8 * i + 4 : 8 * i + 10] += 80
    return noise

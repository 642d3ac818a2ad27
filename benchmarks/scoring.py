"""Scoring one image: the fixed set on tensors in chunks, against the published way: PIL rotations, one copy at a time.

Times are interleaved and the median of several is taken, so that the ratio holds on a machine that others use too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from differnet_ray.config import Recipe, preset
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor, load_backbone_weights
from differnet_ray.model.flow import Flow
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import score_image
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.pipeline.stages import best_device

REPEATS = 5


@dataclass(frozen=True)
class Row:
    """A measured figure: seconds per image, and the published way's seconds divided by it."""

    what: str
    seconds: float
    ratio: float


def measure() -> Iterator[Row]:
    """Measures the presets `demo` and `pooled` for parts in any pose, with random weights: speed does not depend on them."""
    for name in ("demo", "pooled"):
        recipe = preset(name).override(pose="any")
        net = _net(recipe)
        size, n = recipe.extractor.image_size, recipe.transforms.n_transforms
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
        ours, published, maps = _interleaved(
            lambda net=net, image=image: score_image(net, image),
            lambda net=net, image=image: _one_by_one(net, image),
            lambda net=net, image=image, recipe=recipe: gradient_map(net, image, recipe.maps),
        )
        yield Row(f"{name}: score, T = {n}, {size} pixels", ours, published / ours)
        yield Row(f"{name}: gradient map, {recipe.maps.n_rotations} rotations", maps, published / maps)


def _net(recipe: Recipe) -> DifferNet:
    extractor = Extractor(recipe.extractor, load_backbone_weights("random")[0])
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0)
    return DifferNet(extractor, flow, fixed_transforms(recipe.transforms)).requires_grad_(False).to(best_device())


@torch.no_grad()
def _one_by_one(net: DifferNet, image: Tensor) -> float:
    picture = Image.fromarray(image.numpy())
    scores = []
    for angle in net.transforms.angles:
        rotated = np.asarray(picture.rotate(np.degrees(angle)), dtype=np.float32) / 255
        copy = torch.from_numpy(rotated).permute(2, 0, 1)[None].to(net.positions.device)
        z, _ = net.flow(net.extractor(net.extractor.normalize(copy)))
        scores.append(z.square().mean().item())
    return statistics.fmean(scores)


def _interleaved(*calls: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(REPEATS):
        for call, seconds in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in times]

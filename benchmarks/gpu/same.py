"""The step `same`: what the device computes, against the CPU, against itself, and in other chunks.

Legend: N images, T transforms, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.images import Tiles, tiles
from benchmarks.gpu.nets import net, quick_recipe
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import score_image

N_TRANSFORMS = 16  # of the set: each is a sample of its own, and the CPU takes seconds for all 64
CHUNKS = (64, 7, 1)
QUANTILE = 0.95  # of the good images' scores on the CPU: the threshold that decisions are compared at


@dataclass(frozen=True)
class Numbers:
    """What a network makes of N images, on the CPU: features, z, gradient maps, and scores (N,) in float64."""

    features: Tensor
    z: Tensor
    maps: Tensor
    scores: Tensor

    def differences(self, other: Numbers) -> dict[str, float]:
        """Largest difference over the largest value of the other; for scores, the largest relative one."""
        found = {name: _relative(getattr(self, name), getattr(other, name)) for name in ("features", "z", "maps")}
        return found | {"scores": float(((self.scores - other.scores) / other.scores).abs().max())}


def run(setting: Setting) -> None:
    """For the presets `paper` and `pooled`."""
    results, found = Results(setting.out, "same"), tiles(setting)
    n = setting.choose(10, 3)
    chosen = found.sample(n, n)
    good = ~found.is_anomaly[chosen]
    for name in ("paper", "pooled"):
        on_device, on_cpu = net(setting, found, name), net(setting, found, name, device="cpu")
        here = numbers(setting, on_device, found, chosen, name)
        reference = numbers(setting, on_cpu, found, chosen, name)
        threshold = float(np.quantile(reference.scores[torch.from_numpy(good)].numpy(), QUANTILE))
        results.add(
            f"{name}: {setting.device} against cpu, largest relative difference",
            images=len(chosen),
            **here.differences(reference),
            decisions_changed=int(((here.scores > threshold) != (reference.scores > threshold)).sum()),
            largest_score=float(reference.scores.max()),
        )
        again = numbers(setting, on_device, found, chosen, name)
        results.add(f"{name}: the same twice, largest relative difference", **again.differences(here))
        for chunk in CHUNKS:
            on_device.extractor.chunk = chunk
            other = numbers(setting, on_device, found, chosen, name)
            results.add(f"{name}: chunks of {chunk} instead of 16, largest relative difference", **other.differences(here))


def numbers(setting: Setting, model: DifferNet, found: Tiles, chosen: list[int], name: str) -> Numbers:
    """All numbers of some images."""
    n = min(N_TRANSFORMS, len(model.transforms))
    maps = quick_recipe(setting, name).maps
    features, z, gradients, scores = [], [], [], []
    for image in found.read(chosen):
        features.append(model.features(image, n).cpu())
        with torch.no_grad():
            z.append(model(image, n)[0].cpu())
        gradients.append(gradient_map(model, image, maps).cpu())
        scores.append(score_image(model, image, n).anomaly_score)
    return Numbers(torch.stack(features), torch.stack(z), torch.stack(gradients), torch.tensor(scores, dtype=torch.float64))


def _relative(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).abs().max() / reference.abs().max())

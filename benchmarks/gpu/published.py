"""The step `published`: scoring as the authors do it, PIL rotations on the CPU cores and the forward pass on the device.

Legend: T transforms, H x H pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu.images import tiles
from benchmarks.gpu.nets import net
from benchmarks.gpu.setting import Results, Setting
from benchmarks.gpu.speed import rate
from differnet_ray.model.differnet import DifferNet
from differnet_ray.threads import map_ahead


def run(setting: Setting) -> None:
    """On one core, as the authors' loop is, and on all of them, images ahead of the device."""
    results, found = Results(setting.out, "published"), tiles(setting)
    chosen = found.sample(setting.choose(16, 2), setting.choose(16, 2))
    images, model = found.read(chosen), net(setting, found, "paper")
    cores = os.cpu_count() or 1
    for n in dict.fromkeys((1, cores)):
        few = images if n > 1 or setting.small else images[:4]
        figures, _ = rate(setting, "paper", partial(_scores, model, n), few)
        results.add(
            f"PIL rotations on {n} cores, T = {len(model.transforms)}, cuDNN as PyTorch sets it (TF32)",
            images=len(few),
            **figures,
        )


@torch.no_grad()
def _scores(model: DifferNet, cores: int, images: Sequence[Tensor]) -> Tensor:
    """Rotated copies of an image by so many threads, two images ahead; then one pass over all of them."""
    scores = []
    with ThreadPoolExecutor(cores) as pool:

        def copies(image: Tensor) -> Tensor:
            picture = Image.fromarray(image.numpy())
            return torch.stack(list(pool.map(lambda angle: _copy(picture, angle), model.transforms.angles)))

        for batch in map_ahead(copies, images, 2 if cores > 1 else 1):
            x = batch.to(model.positions.device)
            z, _ = model.flow(model.extractor(model.extractor.normalize(x)))
            scores.append(z.double().square().mean().item())
    return torch.tensor(scores, dtype=torch.float64)


def _copy(picture: Image.Image, angle: float) -> Tensor:
    rotated = np.asarray(picture.rotate(math.degrees(angle)), dtype=np.float32) / 255
    return torch.from_numpy(rotated).permute(2, 0, 1)

"""The step `maps`: gradient maps a second, and what precision costs them.

Legend: N images, H x W pixels, d the downsampling of a map.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.images import tiles
from benchmarks.gpu.nets import net, quick_recipe, set_precision
from benchmarks.gpu.precision import FLOAT32, PRECISIONS
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.config import MapConfig
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.gradient_map import gradient_map


def run(setting: Setting) -> None:
    """For the presets `paper` and `pooled`; differences are over the largest value of the float32 maps."""
    results, found = Results(setting.out, "maps"), tiles(setting)
    n = setting.choose(40, 2)
    images = found.read(found.sample(n // 2, n - n // 2))
    for name in ("paper", "pooled"):
        config, reference = quick_recipe(setting, name).maps, torch.empty(0)
        model = net(setting, found, name)
        for precision in (None, *PRECISIONS):  # first as the package has it
            if precision is not None:
                set_precision(setting, model, precision, chunk=config.n_rotations)
            _maps(model, images[:4], config)
            setting.synchronize()
            began = time.perf_counter()
            maps = _maps(model, images, config)
            seconds = (time.perf_counter() - began) / n
            if precision in (None, FLOAT32):
                reference = maps
            results.add(
                f"{name}: {'as the package has it' if precision is None else precision.name}, {config.n_rotations} rotations",
                maps_per_second=1 / seconds,
                ms_per_map=1e3 * seconds,
                largest_difference=float((maps - reference).abs().max() / reference.abs().max()),
                peaks_moved=int((maps.flatten(1).argmax(1) != reference.flatten(1).argmax(1)).sum()),
            )


def _maps(model: DifferNet, images: Sequence[Tensor], config: MapConfig) -> Tensor:
    """On the CPU: (N, H / d, W / d)."""
    return torch.stack([gradient_map(model, image, config).cpu() for image in images])

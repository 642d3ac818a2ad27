"""The step `profile`: where the time of one image, one map and one step of a fit goes, kernel by kernel.

The tables go to `profile.txt` beside the results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.images import tiles
from benchmarks.gpu.nets import net, quick_recipe
from benchmarks.gpu.paper import DeviceBank
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.scoring import score_image

ROWS = 25


def run(setting: Setting) -> None:
    """Three profiles; the device's busy time against the whole says how much of it waits for the host."""
    results, found = Results(setting.out, "profile"), tiles(setting)
    model, image = net(setting, found, "paper"), found.image(0)
    recipe = quick_recipe(setting, "paper")
    config = recipe.override(epochs=1).fit
    features = torch.rand(
        (2 * config.images_per_batch, config.transforms_per_image, recipe.extractor.n_features), device=setting.device
    )
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0).to(setting.device)
    calls: dict[str, Callable[[], object]] = {
        "score of one image": lambda: score_image(model, image),
        "map of one image": lambda: gradient_map(model, image, recipe.maps).cpu(),
        "two steps of a fit": lambda: list(fit(flow.requires_grad_(True), DeviceBank(features, config), config)),
    }
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device == "cuda" else [])]
    for what, call in calls.items():
        call()
        call()
        setting.synchronize()
        with profile(activities=activities) as found_profile:
            call()
            setting.synchronize()
        averages = found_profile.key_averages()
        key = "self_device_time_total" if setting.device == "cuda" else "self_cpu_time_total"
        with (setting.out / "profile.txt").open("a") as file:
            file.write(f"{what}\n{averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=70)}\n\n")
        wanted = DeviceType.CUDA if setting.device == "cuda" else DeviceType.CPU  # operators repeat the time of their kernels
        kernels = [entry for entry in averages if entry.device_type == wanted and getattr(entry, key) > 0]
        spans = found_profile.events()
        whole = max(event.time_range.end for event in spans) - min(event.time_range.start for event in spans)
        busy = sum(getattr(entry, key) for entry in kernels)
        top = sorted(kernels, key=lambda entry: -getattr(entry, key))[:8]
        results.add(
            what,
            ms=whole / 1e3,
            busy_ms=busy / 1e3,
            launches=sum(entry.count for entry in averages if "LaunchKernel" in entry.key),
            copies_to_device=sum(entry.count for entry in averages if "Memcpy HtoD" in entry.key),
            top=[f"{entry.key[:60]} {getattr(entry, key) / 1e3:.3f} ms x{entry.count}" for entry in top],
        )

"""The step `fit`: seconds for the features and for the flow, and several small fits side by side on one device."""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.gpu.images import tiles
from benchmarks.gpu.nets import bank
from benchmarks.gpu.paper import DeviceBank
from benchmarks.gpu.processes import side_by_side
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.config import Recipe
from differnet_ray.model.fitting import FlowFit, fit
from differnet_ray.model.flow import Flow

BESIDE = (1, 2, 4, 8)


def run(setting: Setting) -> None:
    """Each measurement in a process of its own; the fits side by side begin together."""
    side_by_side([partial(_features, setting)])
    side_by_side([partial(_steps, setting)])
    results = Results(setting.out, "fit")
    for name in ("paper", "pooled"):
        for n in BESIDE[: setting.choose(4, 2)]:
            start = time.monotonic() + setting.choose(8, 1)  # by then all have loaded what they need
            done = [found for found in side_by_side([partial(_small_fit, setting, name, start)] * n) if found is not None]
            seconds = max(end for _, end in done) - min(begin for begin, _ in done)
            results.add(
                f"{name}: {n} small fits side by side", fits=len(done), seconds=seconds, fits_per_minute=60 * n / seconds
            )


def _features(setting: Setting) -> None:
    """Of the package's feature bank, from images in main memory."""
    results, found, n = Results(setting.out, "fit"), tiles(setting), setting.choose(64, 4)
    for name in ("paper", "pooled"):
        recipe = setting.recipe(name)
        recipe = recipe.override(fresh_epochs=16) if recipe.flow.n_blocks and not setting.small else recipe
        bank(setting, found, recipe, 2).epoch(0)
        began = time.monotonic()
        bank(setting, found, recipe, n).epoch(0)
        seconds = time.monotonic() - began
        copies = recipe.transforms.n_transforms if recipe.transforms.pooled else 4 * min(16, recipe.fit.fresh_epochs)
        results.add(f"{name}: features", images=n, copies=copies, seconds=seconds, copies_per_second=n * copies / seconds)


def _steps(setting: Setting) -> None:
    """Of the published flow and optimiser, with the features on the device."""
    results, recipe = Results(setting.out, "fit"), setting.recipe().override(epochs=4)
    n, t = setting.choose(480, 48), recipe.fit.transforms_per_image
    features = torch.rand((n, t, recipe.extractor.n_features), device=setting.device)
    for matmul in ("highest", "high"):
        for fused in dict.fromkeys((setting.device == "cuda", False)):
            torch.set_float32_matmul_precision(matmul)
            flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0).to(setting.device)
            flow_fit = FlowFit(flow, DeviceBank(features, recipe.fit), recipe.fit)
            for group in flow_fit._optimizer.param_groups:
                group["fused"] = fused or None
            began = 0.0
            for _ in flow_fit:
                setting.synchronize()
                began = began or time.monotonic()  # the first epoch warms up
            steps = (recipe.fit.epochs - 1) * -(-n // recipe.fit.images_per_batch)
            ms = 1e3 * (time.monotonic() - began) / steps
            results.add(f"paper: a step of the flow, {matmul}{', fused Adam' if fused else ''}", steps=steps, ms=ms)


def _small_fit(setting: Setting, name: str, start: float) -> tuple[float, float]:
    """A fit of 48 images, features and flow; when it began and ended, by the clock of `time.monotonic`."""
    found, recipe, n = tiles(setting), _small_recipe(setting, name), setting.choose(48, 6)
    bank(setting, found, recipe, 1).epoch(0)  # the device and its libraries are loaded before the clock runs
    time.sleep(max(0.0, start - time.monotonic()))
    began = time.monotonic()
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0).to(setting.device)
    for _ in fit(flow, bank(setting, found, recipe, n), recipe.fit):
        pass
    setting.synchronize()
    return began, time.monotonic()


def _small_recipe(setting: Setting, name: str) -> Recipe:
    recipe = setting.recipe(name)
    return recipe.override(epochs=16, fresh_epochs=4) if recipe.flow.n_blocks and not setting.small else recipe

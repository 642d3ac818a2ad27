"""The steps `features` and `tile-features`: all features that the paper's recipe needs at full size, computed once.

Legend: N images, B random transforms of each (epochs times transforms per image), T fixed transforms, D features.

Files in the scratch folder, float32:

    train-random.npy    (N, B, D), of the training images of the published split
    test-fixed.npy      (N, T, D), of its test images
    good-random.npy     (N, B, D), of its good test images, which folds by tile are fitted on too
    train-fixed.npy     (N, T, D), of its training images, which folds by tile hold out
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.gpu.images import Tiles, tiles
from benchmarks.gpu.precision import BY_NAME, PreciseExtractor, operations
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.transforms import TransformSet, fixed_transforms, random_transforms, sampling_positions

PRECISION, CHUNK = "tf32", 128
BANK_STREAM = 3  # of the random numbers of an image's bank, as in `experiments/features.py`
CHECKED = 4  # images whose features are also computed in float32 as the package has it


def run(setting: Setting) -> None:
    """What the published split needs."""
    _check(setting)
    found = tiles(setting)
    _write(setting, found, "train-random", range(found.n_train))
    _write(setting, found, "test-fixed", range(found.n_train, len(found.names)))


def run_tiles(setting: Setting) -> None:
    """What the split by tile needs beside it."""
    found = tiles(setting)
    test = range(found.n_train, len(found.names))
    _write(setting, found, "good-random", [i for i in test if not found.is_anomaly[i]])
    _write(setting, found, "train-fixed", range(found.n_train))


def _transforms(setting: Setting, kind: str, position: int) -> TransformSet:
    recipe = setting.recipe()
    if kind == "fixed":
        return fixed_transforms(recipe.transforms)
    n = recipe.fit.epochs * recipe.fit.transforms_per_image
    return random_transforms(recipe.transforms, n, np.random.default_rng([position, BANK_STREAM]))


def _extractor(setting: Setting) -> Extractor:
    extractor = PreciseExtractor(setting.recipe().extractor, setting.weights(), BY_NAME[PRECISION])
    extractor.chunk = CHUNK
    return extractor.to(setting.device)


def _write(setting: Setting, found: Tiles, name: str, positions: range | list[int]) -> None:
    """Computes a file; it gets its name when it is complete."""
    path, part = setting.work / f"{name}.npy", setting.work / f"{name}.part.npy"
    results = Results(setting.out, "features")
    if path.is_file():
        results.add(f"{name}: there already")
        return
    began, kind, extractor = time.monotonic(), name.rpartition("-")[2], _extractor(setting)
    t = len(_transforms(setting, kind, 0))
    size, d = setting.recipe().extractor.image_size, setting.recipe().extractor.n_features
    fixed = sampling_positions(_transforms(setting, "fixed", 0).angles, size, setting.device) if kind == "fixed" else None
    array = np.lib.format.open_memmap(part, "w+", np.float32, (len(positions), t, d))
    for row, position in enumerate(positions):
        transforms = _transforms(setting, kind, position)
        array[row] = transformed_features(extractor, found.image(position), transforms, fixed).cpu().numpy()
        if setting.seconds_left < 2:
            results.add(f"{name}: cut off", images=row + 1, of=len(positions), seconds=time.monotonic() - began)
            return
    array.flush()
    part.rename(path)
    seconds, copies = time.monotonic() - began, len(positions) * t
    rate = operations(setting.recipe())[0] * copies / seconds
    results.add(
        f"{name}, {PRECISION}, chunks of {CHUNK}",
        images=len(positions),
        copies=copies,
        seconds=seconds,
        copies_per_second=copies / seconds,
        tflops=rate / 1e12,
        share_of_bfloat16_peak=rate / setting.peak("bfloat16"),
        finite=bool(np.isfinite(array).all()),
    )


def _check(setting: Setting) -> None:
    found, recipe = tiles(setting), setting.recipe()
    exact = Extractor(recipe.extractor, setting.weights()).to(setting.device)
    fast, largest, mean = _extractor(setting), 0.0, 0.0
    for position in range(CHECKED):
        transforms = _transforms(setting, "random", position).first(16)
        a, b = (transformed_features(each, found.image(position), transforms) for each in (fast, exact))
        largest = max(largest, float((a - b).abs().max() / b.abs().max()))
        mean = max(mean, float(torch.linalg.norm(a - b) / torch.linalg.norm(b)))
    Results(setting.out, "features").add(
        f"{PRECISION} against float32", images=CHECKED, largest_relative=largest, relative_norm=mean
    )

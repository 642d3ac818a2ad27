"""The step `speed`: images a second from decoded images in main memory, the transfer included, and what precision costs.

Legend: T transforms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.images import Tiles, tiles
from benchmarks.gpu.nets import net, quick_recipe, set_precision
from benchmarks.gpu.precision import FLOAT32, PRECISIONS, operations
from benchmarks.gpu.setting import Results, Setting
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.metrics import auroc
from differnet_ray.model.scoring import score_image
from differnet_ray.threads import map_ahead

GOOD, DEFECTIVE = 60, 100  # test images that are scored
QUANTILE = 0.95  # of the good images' scores in float32: the threshold that decisions are compared at
CHUNKS = (32, 64, 128)
CHUNK = 64
IN_FLIGHT = (1, 2, 4, 8)
WARM = 8  # images


def run(setting: Setting) -> None:
    """Presets, precisions, chunks, and images in flight, in this order."""
    results, found = Results(setting.out, "speed"), tiles(setting)
    chosen = found.sample(setting.choose(GOOD, 3), setting.choose(DEFECTIVE, 4))
    images, is_anomaly = found.read(chosen), found.is_anomaly[chosen]
    for name in ("paper", "pooled", "demo"):
        _preset(setting, results, name, images)
    for name in ("paper", "pooled"):
        _precisions(setting, results, found, name, images, is_anomaly)
    model = net(setting, found, "paper")
    for chunk in CHUNKS:
        model.extractor.chunk = chunk
        figures, _ = rate(setting, "paper", partial(score_all, model), images)
        results.add(f"paper: chunks of {chunk}", **figures)
    model.extractor.chunk = 16
    few = images[:: setting.choose(3, 1)]
    alone = score_all(model, few)
    for own_streams in (False, True):
        for n in IN_FLIGHT:
            figures, scores = _in_flight(setting, model, few, n, own_streams=own_streams)
            what = f"paper: {n} images in flight, {'a stream each' if own_streams else 'one stream'}"
            results.add(what, **figures, scores_the_same=bool((scores == alone).all()))


def rate(
    setting: Setting, name: str, call: Callable[[Sequence[Tensor]], Tensor], images: Sequence[Tensor]
) -> tuple[dict[str, float], Tensor]:
    """Images a second of a function that scores images, after it was tried on a few, and what share of the peaks that is.

    Returns:
        The figures, and the scores.
    """
    call(images[:WARM])
    setting.synchronize()
    began = time.perf_counter()
    scores = call(images)
    setting.synchronize()
    seconds = (time.perf_counter() - began) / len(images)
    recipe = quick_recipe(setting, name)
    extractor, flow = operations(recipe)
    t = recipe.transforms.n_transforms
    done = (extractor * t + flow * (1 if recipe.transforms.pooled else t)) / seconds
    figures = {
        "images_per_second": 1 / seconds,
        "ms_per_image": 1e3 * seconds,
        "tflops": done / 1e12,
        **{f"share_of_{peak}_peak": done / setting.peak(peak) for peak in ("float32", "bfloat16")},
    }
    return figures, scores


def score_all(model: DifferNet, images: Sequence[Tensor]) -> Tensor:
    """Scores of images in main memory, one after another: float64 (N,)."""
    return torch.tensor([score_image(model, image).anomaly_score for image in images], dtype=torch.float64)


def compared(scores: Tensor, reference: Tensor, is_anomaly: np.ndarray) -> dict[str, float]:
    """How scores (N,) differ from others of the same images."""
    threshold = float(np.quantile(reference.numpy()[~is_anomaly], QUANTILE))
    finite = bool(torch.isfinite(scores).all())
    return {
        "largest_score_difference": float(((scores - reference) / reference).abs().max()),
        "decisions_changed": int(((scores > threshold) != (reference > threshold)).sum()),
        "auroc": auroc(scores.numpy(), is_anomaly) if finite else float("nan"),
    }


def _preset(setting: Setting, results: Results, name: str, images: Sequence[Tensor]) -> None:
    size = setting.recipe(name).extractor.image_size
    found = tiles(setting, size)
    model = net(setting, found, name)
    images = images if images[0].shape[0] == size else found.read(range(len(images)))
    figures, _ = rate(setting, name, partial(score_all, model), images)
    results.add(f"{name}, T = {len(model.transforms)}, {size} pixels, as the package has it", **figures)


def _precisions(
    setting: Setting, results: Results, found: Tiles, name: str, images: Sequence[Tensor], is_anomaly: np.ndarray
) -> None:
    model = net(setting, found, name)
    reference = torch.empty(0)
    for precision in PRECISIONS:
        set_precision(setting, model, precision, CHUNK)
        figures, scores = rate(setting, name, partial(score_all, model), images)
        if precision is FLOAT32:
            reference = scores
        figures |= compared(scores, reference, is_anomaly)
        results.add(f"{name}: {precision.name}, chunks of {CHUNK}", images=len(images), **figures)


def _in_flight(
    setting: Setting, model: DifferNet, images: Sequence[Tensor], n: int, *, own_streams: bool
) -> tuple[dict[str, float], Tensor]:
    streams = threading.local()

    @contextmanager
    def stream() -> Iterator[None]:
        if setting.device != "cuda" or not own_streams:
            yield
            return
        if not hasattr(streams, "own"):
            streams.own = torch.cuda.Stream()
        with torch.cuda.stream(streams.own):
            yield

    def score(image: Tensor) -> float:
        with stream():
            return score_image(model, image).anomaly_score

    def scores(some: Sequence[Tensor]) -> Tensor:
        return torch.tensor(list(map_ahead(score, some, n)), dtype=torch.float64)

    return rate(setting, "paper", scores, images)

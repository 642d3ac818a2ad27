"""The steps `graphs` and `compile`: scoring as CUDA graphs, images in flight as graphs on streams, and by torch.compile.

Legend: T transforms, H x H pixels.

The rotations alone, without brightness and contrast: their factors are copied from the host for each chunk, which a graph
cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.images import tiles
from benchmarks.gpu.nets import net, set_precision
from benchmarks.gpu.precision import BY_NAME, PreciseExtractor
from benchmarks.gpu.setting import Results, Setting
from benchmarks.gpu.speed import IN_FLIGHT, rate, score_all
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.transforms import apply_transforms

NAMES = ("float32, as the package", "float32, any algorithm", "tf32, any algorithm", "bfloat16, any algorithm")
COMPILED = ("float32, as the package", "bfloat16, any algorithm")
WARM = 3


class Slot:
    """One image in flight: a stream, a place for the image on the device and its score, and the graph between them."""

    def __init__(self, score: Callable[[Tensor], Tensor], size: int) -> None:
        self.stream = torch.cuda.Stream()
        self.host = torch.empty((size, size, 3), dtype=torch.uint8, pin_memory=True)
        self.image = torch.zeros((size, size, 3), dtype=torch.uint8, device="cuda")
        self.result = torch.empty((), dtype=torch.float64, pin_memory=True)
        self.busy = False
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM):
                score(self.image)
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.score = score(self.image)

    def start(self, image: Tensor) -> None:
        """Scores an image in main memory, without waiting for it."""
        self.host.copy_(image)
        with torch.cuda.stream(self.stream):
            self.image.copy_(self.host, non_blocking=True)
            self.graph.replay()
            self.result.copy_(self.score, non_blocking=True)
        self.busy = True

    def finish(self) -> float:
        """The score, once it is there."""
        self.stream.synchronize()
        self.busy = False
        return self.result.item()


def run(setting: Setting) -> None:
    """Graphs of the package's own forward pass, in some precisions, with 1 to 8 images in flight."""
    results, found = Results(setting.out, "graphs"), tiles(setting)
    chosen = found.sample(setting.choose(60, 2), setting.choose(60, 2))
    images = found.read(chosen)
    model = _rotations_only(net(setting, found, "paper"))
    for name in NAMES:
        set_precision(setting, model, BY_NAME[name], chunk=len(model.transforms))
        figures, eager = rate(setting, "paper", partial(score_all, model), images)
        results.add(f"{name}: no graph", **figures)
        if setting.device != "cuda":
            results.add(f"{name}: graphs need CUDA")
            continue
        for n in IN_FLIGHT:
            slots = [Slot(lambda image: _score(model(image)[0]), images[0].shape[0]) for _ in range(n)]
            figures, scores = rate(setting, "paper", partial(_replayed, slots), images)
            difference = float(((scores - eager) / eager).abs().max())
            results.add(f"{name}: graphs, {n} in flight", **figures, largest_score_difference=difference)
            del slots


def run_compiled(setting: Setting) -> None:
    """The whole way from pixels to the score by torch.compile, as it is and in a graph; the first call compiles."""
    results, found = Results(setting.out, "compile"), tiles(setting)
    chosen = found.sample(setting.choose(60, 2), setting.choose(60, 2))
    images = found.read(chosen)
    model = _rotations_only(net(setting, found, "paper"))
    for name in COMPILED[: setting.choose(2, 1)]:
        set_precision(setting, model, BY_NAME[name], chunk=len(model.transforms))
        eager = score_all(model, images)
        torch.compiler.reset()
        score = torch.compile(_plain(model))
        with torch.no_grad(), BY_NAME[name].convolutions():

            def scores(some: Sequence[Tensor], score: Callable[[Tensor], Tensor] = score) -> Tensor:
                return torch.stack([score(image.to(setting.device)) for image in some]).cpu()

            figures, found_scores = rate(setting, "paper", scores, images)
            difference = float(((found_scores - eager) / eager).abs().max())
            results.add(f"{name}: compiled", **figures, largest_score_difference=difference)
            if setting.device == "cuda":
                slots = [Slot(score, images[0].shape[0]) for _ in range(2)]
                figures, _ = rate(setting, "paper", partial(_replayed, slots), images)
                results.add(f"{name}: compiled, graphs, 2 in flight", **figures)


def _rotations_only(model: DifferNet) -> DifferNet:
    ones = (1.0,) * len(model.transforms)
    model.transforms = replace(model.transforms, brightness=ones, contrast=ones)
    return model


def _plain(model: DifferNet) -> Callable[[Tensor], Tensor]:
    """Pixels (H, H, 3) on the device to the score, all copies in one pass."""
    extractor = model.extractor
    if not isinstance(extractor, PreciseExtractor):
        raise TypeError(f"an extractor of a precision is needed, found {type(extractor).__name__}")

    def score(image: Tensor) -> Tensor:
        copies = apply_transforms(image, model.transforms, model.positions)
        return _score(model.flow(extractor.pooled(extractor.normalize(copies)))[0])

    return score


def _score(z: Tensor) -> Tensor:
    return z.double().square().mean()


def _replayed(slots: Sequence[Slot], images: Sequence[Tensor]) -> Tensor:
    scores: list[float] = []
    for i, image in enumerate(images):
        slot = slots[i % len(slots)]
        if slot.busy:
            scores.append(slot.finish())
        slot.start(image)
    order = [slots[(len(images) + i) % len(slots)] for i in range(len(slots))]
    scores += [slot.finish() for slot in order if slot.busy]
    return torch.tensor(scores, dtype=torch.float64)

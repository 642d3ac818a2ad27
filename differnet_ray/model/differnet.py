"""DifferNet = frozen extractor + flow + fixed transform set: the one noun that the other modules handle.

Legend: T transforms, D features, H x W pixels.

An image is its own batch: its T transformed copies go through the network together, in chunks that depend on nothing but
T. So the score of an image cannot depend on which other images it was scored with.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import torch
from torch import Tensor, nn

from differnet_ray.model.extractor import Extractor
from differnet_ray.model.flow import Flow
from differnet_ray.model.transforms import TransformSet, apply_transforms, sampling_positions

T = TypeVar("T")
Activations = list[list[Tensor]]
"""Of an image, chunk by chunk of its T copies: arrays of each scale and layer, as `Extractor.activations`."""
logger = logging.getLogger(__name__)


class DifferNet(nn.Module):
    """A fitted (or to be fitted) model of one category.

    Args:
        extractor: f_ex, frozen; may be shared by many models.
        flow: f_NF.
        transforms: the fixed set that scores are averaged over.
        pooled: features are averaged over the set before the flow, instead of scores after it.
    """

    positions: Tensor

    def __init__(self, extractor: Extractor, flow: Flow, transforms: TransformSet, *, pooled: bool = False) -> None:
        super().__init__()
        self.extractor, self.flow, self.transforms, self.pooled = extractor, flow, transforms, pooled
        positions = sampling_positions(transforms.angles, extractor.config.image_size)
        self.register_buffer("positions", positions, persistent=False)

    def features(self, image: Tensor, n_transforms: int | None = None) -> Tensor:
        """Y of the first n transforms of an image.

        Args:
            image: uint8 (H, W, 3), on any device.
            n_transforms: how many of the fixed set; all of them if None.

        Returns:
            float32 (T, D) on the model's device, without gradient.

        Raises:
            ValueError: the model does not have so many transforms.
        """
        return transformed_features(self.extractor, image, *self._first(n_transforms))

    def activations(self, image: Tensor, n_transforms: int | None = None) -> Activations:
        """What `features` are pooled from, by `features_of`; arguments and errors as there."""
        return of_transformed(self.extractor, image, *self._first(n_transforms), self.extractor.activations)

    def features_of(self, activations: Activations) -> Tensor:
        """The `features` of an image, to the bit, from its activations."""
        return torch.cat([self.extractor.pool(chunk) for chunk in activations])

    def latent(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent z and log det of the features of one image, (T, D).

        Returns:
            (T, D) and (T,); (1, D) and (1,) where features are pooled.
        """
        z, log_det = self.flow(y.mean(dim=0, keepdim=True) if self.pooled else y)
        return z, log_det

    def forward(self, image: Tensor, n_transforms: int | None = None) -> tuple[Tensor, Tensor]:
        """`latent` of the features of an image, uint8 (H, W, 3), under its first n transforms."""
        return self.latent(self.features(image, n_transforms))

    def _first(self, n_transforms: int | None) -> tuple[TransformSet, Tensor]:
        n = len(self.transforms) if n_transforms is None else n_transforms
        if not 1 <= n <= len(self.transforms):
            raise ValueError(f"n_transforms = {n}: the model has {len(self.transforms)} transforms")
        return self.transforms.first(n), self.positions[:n]


class _ExactConvolutions:
    """The flags of cuDNN belong to the process: the first of several threads sets them, the last puts back what was set."""

    def __init__(self) -> None:
        self._lock, self._inside, self._flags = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                self._flags.enter_context(exact)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._flags.close()


_EXACT = _ExactConvolutions()


def exact_convolutions() -> AbstractContextManager[None]:
    """Convolutions in full float32 by deterministic algorithms, so that a GPU scores like a CPU to rounding.

    Threads may be in it side by side: it holds until the last has left.
    """
    return _EXACT


def transformed_features(
    extractor: Extractor, image: Tensor, transforms: TransformSet, positions: Tensor | None = None
) -> Tensor:
    """Features of the transformed copies of one image; arguments as of `of_transformed`.

    Returns:
        float32 (T, D).
    """
    return torch.cat(of_transformed(extractor, image, transforms, positions, extractor))


@torch.no_grad()
def of_transformed(
    extractor: Extractor, image: Tensor, transforms: TransformSet, positions: Tensor | None, work: Callable[[Tensor], T]
) -> list[T]:
    """What some work on its normalized images finds in the transformed copies of one image, by chunk.

    Args:
        extractor: f_ex.
        image: uint8 (H, W, 3) with the extractor's H.
        transforms: T transforms.
        positions: int32 (T, H * W), their sampling positions on the extractor's device; None: computed here.
        work: takes normalized images, float32 (B, 3, H, W).
    """
    device = extractor.mean.device
    image = image.to(device)

    def found(start: int, stop: int) -> T:
        part = transforms.slice(start, stop)
        where = sampling_positions(part.angles, len(image), device) if positions is None else positions[start:stop]
        return work(extractor.normalize(apply_transforms(image, part, where)))

    with exact_convolutions():
        return list(in_chunks(extractor, len(transforms), found))


def in_chunks(extractor: Extractor, n: int, work: Callable[[int, int], T]) -> Iterator[T]:
    """The results of work(start, stop) on n copies, `extractor.chunk` at a time.

    Where the memory of a GPU does not suffice the chunk is halved, for good, and the log says so: scores may then differ
    from those of larger chunks by rounding.

    Raises:
        torch.OutOfMemoryError: not even one copy fits.
    """
    start = 0
    while start < n:
        stop = min(start + extractor.chunk, n)
        try:
            result = work(start, stop)
        except torch.OutOfMemoryError:
            if extractor.chunk == 1:
                raise
        else:
            yield result
            start = stop
            continue
        torch.cuda.empty_cache()  # here, where the traceback no longer holds what did not fit
        extractor.chunk //= 2
        logger.warning("out of memory on %s: %d copies at a time from now on", extractor.mean.device, extractor.chunk)

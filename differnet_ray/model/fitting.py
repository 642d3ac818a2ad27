"""Fitting the flow by maximum likelihood on features of randomly transformed defect-free images (section 4.2).

Legend: N training images, t transforms per image and epoch, D features, H x W pixels, E epochs of a block.

The extractor is frozen, so a feature never changes: the random transforms of image i in epoch e are the (e mod F)-th
drawn from (seed, i), with F = `fresh_epochs`. Features are computed in blocks of epochs, when an epoch first needs them, and
kept. F = epochs is the published recipe, a smaller F trades fresh rotations for time. Where features are pooled, every
epoch has the same: one sample an image, the mean over the fixed transforms.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.config import FitConfig, TransformConfig
from differnet_ray.errors import FitError
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.transforms import fixed_transforms, random_transforms
from differnet_ray.threads import map_ahead

FIRST_LAYER_EPOCHS = 8  # epochs of the bank that a fixed first layer is found from
EPOCHS_PER_BLOCK = 16  # images are read once for so many epochs
ROWS_PER_PASS = 4096  # samples that the loss of images not fitted on is computed of at a time

ReadImages = Callable[[Sequence[int]], Iterable[Tensor]]
"""The images of some positions, in their order: uint8 (H, W, 3)."""


@dataclass(frozen=True)
class EpochStats:
    """What one epoch did.

    Attributes:
        epoch: counted from 1.
        loss: mean of eq. 4 / D over the samples of the epoch, as the flow was when it met them.
        largest_loss: the largest mean of a batch: a spike that the mean of the epoch hides.
        grad_norm: largest norm of the gradient in the epoch, before clipping.
        validation_loss: of the images that decide when to stop, after the epoch; None where there are none.
    """

    epoch: int
    loss: float
    largest_loss: float
    grad_norm: float
    validation_loss: float | None = None


class Bank(Protocol):
    """Where a fit takes its features from."""

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D)."""


@dataclass(frozen=True)
class Block:
    """Features of E epochs, which are filled in image by image and may outlive the process.

    Attributes:
        features: float32 (E, N, t, D).
        checksums: uint32 (N,): CRC-32 of each image's features; 0 where they are not there yet.
    """

    features: npt.NDArray[np.float32]
    checksums: npt.NDArray[np.uint32]


def block_in_memory(block: int, shape: tuple[int, int, int, int]) -> Block:
    """An empty block that lives as long as its bank; where to find the block of that number, shape (E, N, t, D)."""
    return Block(np.empty(shape, np.float32), np.zeros(shape[1], np.uint32))


class FeatureBank:
    """Features of the training images under the random transforms of each epoch.

    Args:
        extractor: f_ex.
        n_images: N.
        read: reads images by position, 0 to N - 1.
        transforms: the ranges of the random transforms.
        config: seed, t, epochs and fresh epochs.
        block: where the block of a number lies; 4 E N t D bytes each.
        memory: bytes; a bank that is not larger is held in main memory, another stays where its blocks lie.
        threads: images whose features are computed at the same time; changes no result.
        on_image: called after each image of each block, with how many of how many are done.
    """

    def __init__(
        self,
        extractor: Extractor,
        n_images: int,
        read: ReadImages,
        transforms: TransformConfig,
        config: FitConfig,
        *,
        block: Callable[[int, tuple[int, int, int, int]], Block] = block_in_memory,
        memory: int = 0,
        threads: int = 1,
        on_image: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.extractor, self.n_images, self.read = extractor, n_images, read
        self.transforms, self.config = transforms, config
        self.block, self.threads, self.on_image = block, threads, on_image
        self.n_epochs = 1 if transforms.pooled else min(config.fresh_epochs, config.epochs)
        self.samples = 1 if transforms.pooled else config.transforms_per_image
        self.held = 4 * self.n_epochs * n_images * self.samples * extractor.config.n_features <= memory
        self._fixed = fixed_transforms(transforms)
        self._blocks: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def n_steps(self) -> int:
        """Images times blocks."""
        return self.n_images * math.ceil(self.n_epochs / EPOCHS_PER_BLOCK)

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D), or (N, 1, D) if pooled, in main memory."""
        number, row = divmod(epoch % self.n_epochs, EPOCHS_PER_BLOCK)
        if number not in self._blocks:
            self._blocks[number] = self._fill(number)
        return torch.from_numpy(np.array(self._blocks[number][row]))

    def _fill(self, number: int) -> npt.NDArray[np.float32]:
        epochs = range(number * EPOCHS_PER_BLOCK, min((number + 1) * EPOCHS_PER_BLOCK, self.n_epochs))
        block = self.block(number, (len(epochs), self.n_images, self.samples, self.extractor.config.n_features))
        stored = block.checksums.tolist()
        missing = [i for i in range(self.n_images) if not stored[i] or stored[i] != _checksum(block.features[:, i])]
        images = zip(missing, self.read(missing), strict=True)
        found = map_ahead(lambda image: self._features(*image, epochs), images, self.threads)
        for done, (position, features) in enumerate(zip(missing, found, strict=True), self.n_images - len(missing) + 1):
            block.features[:, position] = features
            block.checksums[position] = _checksum(features)  # after the features: a kill in between costs this image only
            self.on_image(number * self.n_images + done, self.n_steps)
        return np.array(block.features) if self.held else block.features

    def _features(self, position: int, image: Tensor, epochs: range) -> npt.NDArray[np.float32]:
        """Of one image in some epochs: (E, t, D)."""
        if self.transforms.pooled:
            return transformed_features(self.extractor, image, self._fixed).mean(dim=0).cpu().numpy()[None, None]
        t = self.samples
        drawn = random_transforms(self.transforms, t * epochs.stop, np.random.default_rng([self.config.seed, position, 0]))
        found = transformed_features(self.extractor, image, drawn.slice(t * epochs.start, t * epochs.stop))
        return found.cpu().numpy().reshape(len(epochs), t, -1)


class BankSubset:
    """Some of the images of a bank, with the very features that they have in it.

    Args:
        bank: the whole.
        positions: of the images in it.
    """

    def __init__(self, bank: Bank, positions: Sequence[int]) -> None:
        self.bank, self.rows = bank, torch.tensor(positions)

    def epoch(self, epoch: int) -> Tensor:
        """As the bank's, of the chosen images."""
        return self.bank.epoch(epoch)[self.rows]


class FlowFit:
    """The fit of a flow in place: an iterator of its epochs whose state can be stored and continued.

    A batch is `images_per_batch` images times t transforms; the order of the images is drawn from (seed, epoch). A fit that
    was restored from a state goes on as if it had never been interrupted, to the bit.

    Args:
        flow: on the device where it is to be fitted.
        bank: the features.
        config: optimiser, epochs, batch, seed and patience.
        validation: good images that are not fitted on and decide when to stop, where the config has a patience.
    """

    def __init__(self, flow: Flow, bank: Bank, config: FitConfig, validation: Bank | None = None) -> None:
        self.flow, self.bank, self.config, self.validation = flow, bank, config, validation
        self.stats: list[EpochStats] = []
        self._best: dict[str, Tensor] = {}
        parameters: list[Tensor] = list(flow.parameters()) or [torch.zeros(0)]  # fixed layers alone have none
        self._optimizer = torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True if parameters[0].is_cuda else None,  # one pass over weights and moments instead of a dozen
        )

    def __iter__(self) -> Iterator[EpochStats]:
        """The epochs that are left; after the last the flow is frozen, as its best epoch left it where there is a patience.

        Raises:
            FitError: the loss or its gradient is not finite; the flow is then of no use.
        """
        if not self.stats and self.flow.config.first_layer != "none":
            n_first = min(self.config.epochs, self.config.fresh_epochs, FIRST_LAYER_EPOCHS)
            first = torch.cat([self.bank.epoch(e) for e in range(n_first)])
            self.flow.fit_first_layer(first.flatten(0, 1).to(self.flow.shift.device))
        while not self.done:
            self.stats.append(self._epoch(len(self.stats)))
            if self.validation is not None and self._best_epoch == self.stats[-1].epoch:
                self._best = {name: tensor.clone() for name, tensor in self.flow.state_dict().items()}
            yield self.stats[-1]
        if self._best:
            self.flow.load_state_dict(self._best)
        self.flow.requires_grad_(False)

    @property
    def done(self) -> bool:
        """Whether the last epoch is reached, or so many in a row did not lower the loss of the validation images."""
        n_epochs = self.config.epochs if self.flow.config.n_blocks else 1  # fixed layers: nothing to fit
        patience = self.config.patience if self.validation is not None else None
        return len(self.stats) >= n_epochs or (patience is not None and len(self.stats) - self._best_epoch >= patience)

    @property
    def _best_epoch(self) -> int:
        losses = [math.inf if stats.validation_loss is None else stats.validation_loss for stats in self.stats]
        return int(np.argmin(losses)) + 1 if losses else 0

    def state(self) -> dict[str, Tensor]:
        """All that the fit needs beside `stats` to go on."""
        moments = self._optimizer.state_dict()["state"]
        return (
            {f"flow.{name}": tensor for name, tensor in self.flow.state_dict().items()}
            | {f"best.{name}": tensor for name, tensor in self._best.items()}
            | {f"adam.{i}.{key}": tensor for i, values in moments.items() for key, tensor in values.items()}
        )

    def restore(self, state: Mapping[str, Tensor], stats: Sequence[EpochStats]) -> None:
        """Goes back to a state and the epochs that led there; tensors may lie on any device."""
        self.stats = list(stats)
        self.flow.load_state_dict(_part(state, "flow."))
        self._best = {name: tensor.to(self.flow.shift.device) for name, tensor in _part(state, "best.").items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(state, "adam.").items():
            parameter, key = name.split(".")
            moments.setdefault(int(parameter), {})[key] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})

    def _epoch(self, epoch: int) -> EpochStats:
        device, config = self.flow.shift.device, self.config
        features = self.bank.epoch(epoch).to(device)
        if self.flow.config.n_blocks == 0:
            only = _mean_loss(self.flow, features)
            return EpochStats(1, only, only, 0.0)
        order = torch.from_numpy(np.random.default_rng([config.seed, epoch, 1]).permutation(len(features)))
        batches = order.to(device).split(config.images_per_batch)
        batch_losses, batch_norms = [], []
        for chosen in batches:  # nothing here waits for the device
            loss = nll(*self.flow(features[chosen].flatten(0, 1))).mean()
            self._optimizer.zero_grad()
            loss.backward()
            batch_norms.append(torch.nn.utils.clip_grad_norm_(self.flow.parameters(), config.max_grad_norm or math.inf))
            batch_losses.append(loss.detach())
            self._optimizer.step()
        losses, norms = torch.stack(batch_losses).tolist(), torch.stack(batch_norms).tolist()
        for loss, norm in zip(losses, norms, strict=True):
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise FitError(
                    f"the loss became {loss}, its gradient {norm}, in epoch {epoch + 1} of {config.epochs} "
                    f"(learning rate {config.learning_rate}): a smaller clamp_alpha or learning rate keeps them finite"
                )
        mean = float(np.average(losses, weights=[len(chosen) for chosen in batches]))
        validation = None if self.validation is None else _mean_loss(self.flow, self.validation.epoch(0).to(device))
        return EpochStats(epoch + 1, mean, max(losses), max(norms), validation)


def fit(flow: Flow, bank: Bank, config: FitConfig) -> Iterator[EpochStats]:
    """Fits the flow in place, one epoch per step of the iterator, as `FlowFit` does."""
    return iter(FlowFit(flow, bank, config))


@torch.no_grad()
def _mean_loss(flow: Flow, features: Tensor) -> float:
    samples = features.flatten(0, 1)
    return torch.cat([nll(*flow(part)) for part in samples.split(ROWS_PER_PASS)]).mean().item()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _checksum(features: npt.NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(features).data) or 1

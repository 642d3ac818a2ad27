"""Fitting the flow by maximum likelihood on features of randomly transformed defect-free images (section 4.2).

Legend: N training images, t transforms per image and epoch, D features, H x W pixels.

The extractor is frozen, so a feature never changes: the random transforms of epoch e are drawn from (seed, e mod F) with
F = `fresh_epochs`, their features are computed when an epoch first needs them, and kept if a later epoch needs them
again. F = epochs is the published recipe, a smaller F trades fresh rotations for time. Where features are pooled, every
epoch has the same: one sample an image, the mean over the fixed transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from differnet_ray.config import FitConfig, TransformConfig
from differnet_ray.errors import FitError
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.transforms import fixed_transforms, random_transforms, sampling_positions

FIRST_LAYER_EPOCHS = 8  # epochs of the bank that a fixed first layer is found from


@dataclass(frozen=True)
class EpochStats:
    """What one epoch did.

    Attributes:
        epoch: counted from 1.
        loss: mean of eq. 4 / D over the samples of the epoch, as the flow was when it met them.
        largest_loss: the largest mean of a batch: a spike that the mean of the epoch hides.
        grad_norm: largest norm of the gradient in the epoch, before clipping.
    """

    epoch: int
    loss: float
    largest_loss: float
    grad_norm: float


class Bank(Protocol):
    """Where a fit takes its features from."""

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D)."""


class FeatureBank:
    """Features of the training images under the random transforms of each epoch.

    Args:
        extractor: f_ex.
        images: uint8 (N, H, W, 3).
        transforms: the ranges of the random transforms.
        config: seed, t, epochs and fresh epochs.
        on_image: called after each image whose features were computed, with how many of the epoch are done.
        keep_all: keep every fresh epoch (4 N t D bytes each), for several fits that share the bank.
    """

    def __init__(
        self,
        extractor: Extractor,
        images: Tensor,
        transforms: TransformConfig,
        config: FitConfig,
        on_image: Callable[[int], None] = lambda done: None,
        *,
        keep_all: bool = False,
    ) -> None:
        self.extractor, self.images, self.transforms, self.config = extractor, images, transforms, config
        self.on_image = on_image
        self.keep_all = keep_all
        self._kept: dict[int, Tensor] = {}

    def epoch(self, epoch: int) -> Tensor:
        """Features of an epoch, counted from 0: float32 (N, t, D), or (N, 1, D) if pooled, on the extractor's device."""
        fresh = 0 if self.transforms.pooled else epoch % self.config.fresh_epochs
        if fresh in self._kept:
            return self._kept[fresh]
        features = self._extract(fresh)
        if self.keep_all or self.transforms.pooled or fresh + self.config.fresh_epochs < self.config.epochs:
            self._kept[fresh] = features
        return features

    def _extract(self, epoch: int) -> Tensor:
        rng = np.random.default_rng([self.config.seed, epoch, 0])
        device, size, n = self.extractor.mean.device, self.images.shape[1], self.config.transforms_per_image
        features = []
        fixed = fixed_transforms(self.transforms)
        for image in self.images:
            transforms = fixed if self.transforms.pooled else random_transforms(self.transforms, n, rng)
            positions = sampling_positions(transforms.angles, size, device)
            found = transformed_features(self.extractor, image, transforms, positions)
            features.append(found.mean(dim=0, keepdim=True) if self.transforms.pooled else found)
            self.on_image(len(features))
        return torch.stack(features)


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


def fit(flow: Flow, bank: Bank, config: FitConfig) -> Iterator[EpochStats]:
    """Fits the flow in place, one epoch per step of the iterator; the caller decides what to do with the epochs.

    A batch is `images_per_batch` images times t transforms; the order of the images is drawn from (seed, epoch).

    Args:
        flow: on the device where it is to be fitted.
        bank: the features.
        config: optimiser, epochs, batch and seed.

    Raises:
        FitError: the loss or its gradient is not finite; the flow is then of no use.
    """
    device = flow.shift.device
    first: list[Tensor] = []
    if flow.config.first_layer != "none":
        n_first = min(config.epochs, config.fresh_epochs, FIRST_LAYER_EPOCHS)
        first = [bank.epoch(e) for e in range(n_first)]
        flow.fit_first_layer(torch.cat(first).flatten(0, 1).to(device))
    if flow.config.n_blocks == 0:  # the fixed layers are all there is: nothing to fit
        only = nll(*flow(first[0].to(device).flatten(0, 1))).mean().item()
        yield EpochStats(1, only, only, 0.0)
        return
    optimizer = torch.optim.Adam(
        flow.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    for epoch in range(config.epochs):
        features = (first[epoch] if epoch < len(first) else bank.epoch(epoch)).to(device)
        order = torch.from_numpy(np.random.default_rng([config.seed, epoch, 1]).permutation(len(features)))
        batch_losses: list[float] = []
        largest_norm = 0.0
        for chosen in order.to(device).split(config.images_per_batch):
            loss = nll(*flow(features[chosen].flatten(0, 1))).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), config.max_grad_norm or math.inf).item()
            batch_losses.append(loss.item())
            if not math.isfinite(batch_losses[-1]) or not math.isfinite(norm):
                raise FitError(
                    f"the loss became {batch_losses[-1]}, its gradient {norm}, in epoch {epoch + 1} of {config.epochs} "
                    f"(learning rate {config.learning_rate}): a smaller clamp_alpha or learning rate keeps them finite"
                )
            optimizer.step()
            largest_norm = max(largest_norm, norm)
        sizes = [len(chosen) for chosen in order.split(config.images_per_batch)]
        yield EpochStats(epoch + 1, float(np.average(batch_losses, weights=sizes)), max(batch_losses), largest_norm)
    flow.requires_grad_(False)


def split_holdout(n: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Splits n >= 2 good images into those to fit on and those held out for calibration, at least one of each.

    Returns:
        Two sorted lists of positions, drawn from the seed.
    """
    order = np.random.default_rng([seed, 2]).permutation(n)
    held_out = min(max(1, round(fraction * n)), n - 1)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())

"""Fitting: reproducible to the bit, loss falls, features are computed once, and a fit that runs away says so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from differnet_ray.config import FitConfig, FlowConfig, TransformConfig
from differnet_ray.errors import FitError
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import (
    EPOCHS_PER_BLOCK,
    BankSubset,
    Block,
    EpochStats,
    FeatureBank,
    FlowFit,
    block_in_memory,
    fit,
)
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.transforms import fixed_transforms

CONFIG = FitConfig(epochs=8, fresh_epochs=2, images_per_batch=4, transforms_per_image=2, learning_rate=1e-2, max_grad_norm=1.0)
FLOW = FlowConfig(n_blocks=2, hidden=16, first_layer="standardize")


def bank_of(extractor: Extractor, images: Tensor, transforms: TransformConfig, config: FitConfig, **how: Any) -> FeatureBank:
    """A bank of images that lie in memory."""
    return FeatureBank(extractor, len(images), lambda positions: images[list(positions)], transforms, config, **how)


@pytest.fixture
def bank(tiny_extractor: Extractor, images: Tensor) -> FeatureBank:
    return bank_of(tiny_extractor, images, TransformConfig(), CONFIG)


def fitted(bank: FeatureBank, config: FitConfig, flow_seed: int = 0) -> tuple[Flow, list[EpochStats]]:
    flow = Flow(256, FLOW, seed=flow_seed)
    return flow, list(fit(flow, bank, config))


def weights(flow: Flow) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in flow.parameters()])


def test_the_loss_falls_and_every_epoch_is_told(bank: FeatureBank) -> None:
    _, epochs = fitted(bank, CONFIG)
    assert [stats.epoch for stats in epochs] == list(range(1, 9))
    for first, last in ((0, 6), (1, 7)):  # of the two fresh epochs, which the bank repeats
        assert epochs[last].loss < epochs[first].loss - 0.05
    assert all(math.isfinite(stats.grad_norm) and stats.grad_norm > 0 for stats in epochs)


def test_the_fitted_flow_finds_its_images_more_likely_than_the_first_did(bank: FeatureBank) -> None:
    flow, _ = fitted(bank, CONFIG)
    start = Flow(256, FLOW, seed=0)
    start.fit_first_layer(torch.cat([bank.epoch(0), bank.epoch(1)]).flatten(0, 1))
    y = bank.epoch(1).flatten(0, 1)
    assert flow.log_prob(y).mean() > start.log_prob(y).mean() + 10


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_extractor: Extractor, images: Tensor) -> None:
    def run(seed: int, flow_seed: int = 0) -> tuple[Tensor, list[EpochStats]]:
        config = replace(CONFIG, seed=seed)
        flow, epochs = fitted(bank_of(tiny_extractor, images, TransformConfig(), config), config, flow_seed)
        return weights(flow), epochs

    first, epochs = run(seed=0)
    again, epochs_again = run(seed=0)
    assert torch.equal(first, again)
    assert epochs == epochs_again
    assert not torch.equal(first, run(seed=1)[0])
    assert not torch.equal(first, run(seed=0, flow_seed=1)[0])


def test_fitting_neither_uses_nor_changes_the_global_random_states(bank: FeatureBank) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
        first, _ = fitted(bank, CONFIG)
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]
        torch.manual_seed(2)
        assert torch.equal(weights(fitted(bank, CONFIG)[0]), weights(first))


def test_the_order_of_the_images_changes_from_epoch_to_epoch(tiny_extractor: Extractor, images: Tensor) -> None:
    class Recorder(Flow):
        def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(y.detach().clone())
            return super().forward(y)

    seen: list[Tensor] = []
    config = replace(CONFIG, epochs=3, fresh_epochs=1)
    bank = bank_of(tiny_extractor, images, TransformConfig(), config)
    list(fit(Recorder(256, FLOW, seed=0), bank, config))
    assert [len(batch) for batch in seen] == [8, 4] * 3  # six images in batches of four, two transforms each
    epochs = [torch.cat(seen[i : i + 2]) for i in (0, 2, 4)]
    assert all(torch.equal(e.sort(dim=0).values, epochs[0].sort(dim=0).values) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_the_loss_told_is_the_mean_over_all_samples_of_the_epoch(bank: FeatureBank) -> None:
    config = replace(CONFIG, epochs=1, learning_rate=1e-12)  # the flow stays as it is; the last batch is a short one
    flow, (stats,) = fitted(bank, config)
    assert stats.loss == pytest.approx(nll(*flow(bank.epoch(0).flatten(0, 1))).mean().item(), rel=1e-5)


def test_no_first_layer_is_set_where_none_is_asked_for(bank: FeatureBank) -> None:
    flow = Flow(256, replace(FLOW, first_layer="none"), seed=0)
    next(fit(flow, bank, CONFIG))
    assert (flow.shift == 0).all()
    assert torch.equal(flow.matrix, torch.eye(256))


@pytest.mark.parametrize("first_layer", ["standardize", "whiten"])
def test_the_first_layer_is_found_from_all_fresh_epochs(bank: FeatureBank, first_layer: str) -> None:
    flow, expected = (Flow(256, replace(FLOW, first_layer=first_layer), seed=0) for _ in range(2))
    next(fit(flow, bank, CONFIG))
    expected.fit_first_layer(torch.cat([bank.epoch(0), bank.epoch(1)]).flatten(0, 1))
    torch.testing.assert_close(flow.shift, expected.shift)
    torch.testing.assert_close(flow.matrix @ flow.matrix.T, expected.matrix @ expected.matrix.T)


def test_a_flow_without_blocks_is_fitted_by_its_first_layer_in_one_epoch(bank: FeatureBank) -> None:
    flow = Flow(256, FlowConfig(n_blocks=0, first_layer="whiten", power=0.5), seed=0)
    (stats,) = fit(flow, bank, CONFIG)
    assert stats.loss == stats.largest_loss == pytest.approx(nll(*flow(bank.epoch(0).flatten(0, 1))).mean().item(), rel=1e-6)
    assert flow(bank.epoch(0).flatten(0, 1))[0].square().mean() < 1.01


def test_a_fitted_flow_asks_for_no_more_gradients(bank: FeatureBank) -> None:
    flow, _ = fitted(bank, replace(CONFIG, epochs=1))
    assert not any(parameter.requires_grad for parameter in flow.parameters())


def steep_flow() -> Flow:
    """Large weights on raw features: the norm of the gradient is well above one."""
    flow = Flow(256, replace(FLOW, first_layer="none"), seed=0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(2)
    return flow


@pytest.mark.parametrize("share", [None, 0.25])
def test_gradients_are_clipped_to_the_largest_norm_where_it_is_set(bank: FeatureBank, share: float | None) -> None:
    # With eps far above the gradients Adam's first step is lr / eps times the (clipped) gradient.
    config = replace(
        CONFIG, epochs=1, images_per_batch=6, weight_decay=0.0, learning_rate=1e5, eps=1e5, betas=(0.0, 0.0), max_grad_norm=None
    )
    (stats,) = fit(steep_flow(), bank, config)
    assert stats.grad_norm > 2
    largest = None if share is None else share * stats.grad_norm
    flow = steep_flow()
    (clipped,) = fit(flow, bank, replace(config, max_grad_norm=largest))
    step = torch.linalg.vector_norm(weights(flow) - weights(steep_flow())).item()
    assert step == pytest.approx((share or 1) * stats.grad_norm, rel=1e-2)
    assert clipped.grad_norm == pytest.approx(stats.grad_norm, rel=1e-6)  # told as it was before clipping


def test_the_gradient_norm_and_the_loss_told_beside_the_mean_are_the_largest_of_the_epoch(bank: FeatureBank) -> None:
    batches: list[Tensor] = []

    class Recorder(Flow):
        def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
            batches.append(y)
            return super().forward(y)

    still = replace(CONFIG, seed=1, epochs=1, images_per_batch=1, learning_rate=1e-12)  # the flow stays as it is
    flow = Recorder(256, FLOW, seed=0)
    (stats,) = fit(flow, bank, still)
    flow.requires_grad_(True)
    norms, losses = [], []
    for batch in list(batches):
        losses.append(nll(*flow(batch)).mean())
        gradients = torch.autograd.grad(losses[-1], list(flow.parameters()))
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    assert len(norms) == 6
    assert max(norms) > 1.01 * norms[-1]
    assert stats.grad_norm == pytest.approx(max(norms), rel=1e-4)
    assert stats.largest_loss == pytest.approx(max(losses).item(), rel=1e-4)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_the_steps_are_those_of_adam_as_it_is_written_down(bank: FeatureBank, max_grad_norm: float | None) -> None:
    # Kingma and Ba (2015), algorithm 1, with weight decay as part of the gradient; one batch an epoch.
    config = replace(CONFIG, epochs=6, images_per_batch=6, eps=1e-4, weight_decay=0.05, max_grad_norm=max_grad_norm)
    (beta_1, beta_2), rate = config.betas, config.learning_rate
    flow = Flow(256, FLOW, seed=0)
    flow.fit_first_layer(torch.cat([bank.epoch(0), bank.epoch(1)]).flatten(0, 1))
    parameters = list(flow.parameters())
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for t in range(1, 7):
        gradients = torch.autograd.grad(nll(*flow(bank.epoch(t - 1).flatten(0, 1))).mean(), parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        scale = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / norm)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
                g = g * scale + config.weight_decay * p
                m.copy_(beta_1 * m + (1 - beta_1) * g)
                v.copy_(beta_2 * v + (1 - beta_2) * g**2)
                p -= rate * (m / (1 - beta_1**t)) / ((v / (1 - beta_2**t)).sqrt() + config.eps)
    found = weights(fitted(bank, config)[0])
    torch.testing.assert_close(found, weights(flow), rtol=1e-3, atol=1e-5)
    assert (found - weights(Flow(256, FLOW, seed=0))).abs().max() > rate


def test_a_loss_that_is_not_finite_ends_the_fit_with_its_epoch_and_learning_rate(bank: FeatureBank) -> None:
    config = replace(CONFIG, learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(FitError, match=r"the loss became .*(nan|inf).* in epoch \d of 8 \(learning rate 1e\+30\)"):
        fitted(bank, config)


def test_a_fit_waits_for_its_device_once_an_epoch(bank: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: read.append(tensor.numel()) or tolist(tensor))
    flow_fit = fit(Flow(256, FLOW, seed=0), bank, replace(CONFIG, images_per_batch=1))
    next(flow_fit)
    assert read[-2:] == [6, 6]  # the losses and the norms of all batches


def test_epochs_repeat_after_the_fresh_ones_and_differ_within(tiny_extractor: Extractor, images: Tensor) -> None:
    config = replace(CONFIG, epochs=7, fresh_epochs=3)
    bank = bank_of(tiny_extractor, images[:3], TransformConfig(brightness=0.1), config)
    features = [bank.epoch(e) for e in range(7)]
    assert features[0].shape == (3, 2, 256)
    assert features[0].dtype == torch.float32
    for e in range(7):
        for other in range(e):
            assert torch.equal(features[e], features[other]) == (e % 3 == other % 3)
    again = bank_of(tiny_extractor, images[:3], TransformConfig(brightness=0.1), config)
    assert torch.equal(again.epoch(5), features[5])  # whatever epochs were asked for before
    other = bank_of(tiny_extractor, images[:3], TransformConfig(brightness=0.1), replace(config, seed=1))
    assert not torch.equal(other.epoch(5), features[5])
    assert not torch.equal(features[0][0], features[0][1])
    assert not torch.equal(features[0][:, 0], features[0][:, 1])


@pytest.mark.parametrize(("epochs", "fresh_epochs", "blocks"), [(4, 1, 1), (4, 9, 1), (17, 99, 2), (40, 33, 3)])
def test_images_are_read_once_for_a_block_of_epochs(
    tiny_extractor: Extractor, images: Tensor, epochs: int, fresh_epochs: int, blocks: int
) -> None:
    done: list[int] = []
    config = replace(CONFIG, epochs=epochs, fresh_epochs=fresh_epochs, transforms_per_image=1)
    bank = bank_of(tiny_extractor, images[:2], TransformConfig(), config, on_image=lambda n, total: done.append(n))
    for epoch in range(2 * epochs):
        bank.epoch(epoch)
        seen = min(epoch + 1, bank.n_epochs)
        assert done == list(range(1, 2 * math.ceil(seen / EPOCHS_PER_BLOCK) + 1))
    assert done == list(range(1, bank.n_steps + 1))
    assert bank.n_steps == 2 * blocks


@pytest.mark.parametrize("pooled", [False, True])
def test_features_depend_on_no_thread_and_no_other_image(tiny_extractor: Extractor, images: Tensor, pooled: bool) -> None:
    transforms, config = TransformConfig(n_transforms=5, pooled=pooled), replace(CONFIG, epochs=18, fresh_epochs=18)
    expected = bank_of(tiny_extractor, images, transforms, config)
    threaded = bank_of(tiny_extractor, images, transforms, config, threads=3)
    fewer = bank_of(tiny_extractor, images[:3], transforms, config)
    for epoch in (0, 17):
        assert torch.equal(threaded.epoch(epoch), expected.epoch(epoch))
        assert torch.equal(fewer.epoch(epoch), expected.epoch(epoch)[:3])


def test_a_block_that_outlived_its_bank_is_filled_up_and_a_damaged_image_is_computed_again(
    tiny_extractor: Extractor, images: Tensor
) -> None:
    blocks: dict[int, Block] = {}

    def block(number: int, shape: tuple[int, int, int, int]) -> Block:
        return blocks.setdefault(number, block_in_memory(number, shape))

    read: list[int] = []

    def read_some(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            if position == 4 and not read[4:]:
                raise KeyboardInterrupt  # a kill in the middle
            read.append(position)
            yield images[position]

    def bank() -> FeatureBank:
        return FeatureBank(tiny_extractor, len(images), read_some, TransformConfig(), CONFIG, block=block)

    with pytest.raises(KeyboardInterrupt):
        bank().epoch(0)
    blocks[0].features[1, 2, 0, 7] += 1
    read.append(-1)
    assert torch.equal(bank().epoch(1), bank_of(tiny_extractor, images, TransformConfig(), CONFIG).epoch(1))
    assert read == [0, 1, 2, 3, -1, 2, 4, 5]
    assert torch.equal(bank().epoch(0), bank_of(tiny_extractor, images, TransformConfig(), CONFIG).epoch(0))
    assert len(read) == 8


def test_a_pooled_bank_holds_what_the_model_will_score_once_for_all_epochs(tiny_extractor: Extractor, images: Tensor) -> None:
    config, calls = TransformConfig(n_transforms=5, pooled=True), []
    bank = bank_of(tiny_extractor, images[:3], config, CONFIG, on_image=lambda n, total: calls.append(n))
    net = DifferNet(tiny_extractor, Flow(256, FLOW, seed=0), fixed_transforms(config), pooled=True)
    expected = torch.stack([net.features(image).mean(dim=0, keepdim=True) for image in images[:3]])
    assert all(torch.equal(bank.epoch(epoch), expected) for epoch in range(3))
    assert calls == [1, 2, 3]


@pytest.mark.parametrize(("epochs", "fresh_epochs"), [(3, 1), (4, 2), (6, 3)])
def test_a_fit_computes_no_features_twice(tiny_extractor: Extractor, images: Tensor, epochs: int, fresh_epochs: int) -> None:
    calls: list[int] = []
    config = replace(CONFIG, epochs=epochs, fresh_epochs=fresh_epochs)
    fitted(bank_of(tiny_extractor, images[:2], TransformConfig(), config, on_image=lambda n, total: calls.append(n)), config)
    assert calls == [1, 2]


@pytest.mark.parametrize(("epochs", "fresh_epochs"), [(4, 2), (5, 3), (3, 3)])
def test_a_subset_has_the_features_of_its_bank_and_computes_none(
    tiny_extractor: Extractor, images: Tensor, epochs: int, fresh_epochs: int
) -> None:
    calls: list[int] = []
    config = replace(CONFIG, epochs=epochs, fresh_epochs=fresh_epochs)
    bank = bank_of(tiny_extractor, images[:4], TransformConfig(), config, on_image=lambda n, total: calls.append(n))
    for positions in ([3, 1], [0, 1, 2]):
        part = BankSubset(bank, positions)
        for epoch in range(epochs):
            assert torch.equal(part.epoch(epoch), bank.epoch(epoch)[positions])
    fitted(bank, config)
    assert calls == [1, 2, 3, 4]


@pytest.mark.parametrize(("interrupted", "patience"), [(1, None), (5, None), (8, None), (3, 3)])
def test_a_fit_that_goes_on_from_a_stored_state_is_the_same_to_the_bit(
    bank: FeatureBank, interrupted: int, patience: int | None
) -> None:
    config = replace(CONFIG, patience=patience)
    train, validation = BankSubset(bank, [0, 1, 3, 4]), BankSubset(bank, [2, 5]) if patience else None
    whole = FlowFit(Flow(256, FLOW, seed=0), train, config, validation)
    list(whole)
    first = FlowFit(Flow(256, FLOW, seed=0), train, config, validation)
    for stats in first:
        if stats.epoch == interrupted:
            state, so_far = {name: tensor.clone() for name, tensor in first.state().items()}, list(first.stats)
            break
    second = FlowFit(Flow(256, FLOW, seed=9), train, config, validation)
    second.restore(state, so_far)
    assert [stats.epoch for stats in second] == list(range(interrupted + 1, len(whole.stats) + 1))
    assert second.stats == whole.stats
    assert all(torch.equal(a, b) for a, b in zip(second.state().values(), whole.state().values(), strict=True))


def test_a_flow_of_fixed_layers_is_restored_too(bank: FeatureBank) -> None:
    fixed = FlowConfig(n_blocks=0, first_layer="whiten", power=0.5)
    whole, second = (FlowFit(Flow(256, fixed, seed=0), bank, CONFIG) for _ in range(2))
    list(whole)
    second.restore(whole.state(), whole.stats)
    assert list(second) == []
    assert torch.equal(second.flow.matrix, whole.flow.matrix)


def test_a_fit_stops_when_images_not_fitted_on_no_longer_gain_and_keeps_its_best_epoch(bank: FeatureBank) -> None:
    config = replace(CONFIG, epochs=200, learning_rate=3e-2, patience=4)
    validation = BankSubset(bank, [5])
    run = FlowFit(Flow(256, FLOW, seed=0), BankSubset(bank, [0, 1, 2, 3, 4]), config, validation)
    losses = [stats.validation_loss for stats in run]
    assert len(losses) < 200
    assert int(np.argmin(losses)) == len(losses) - 1 - 4  # four epochs in a row were no better
    with torch.no_grad():
        kept = nll(*run.flow(validation.epoch(0).flatten(0, 1))).mean().item()
    assert kept == pytest.approx(min(losses), rel=1e-6)
    assert not any(parameter.requires_grad for parameter in run.flow.parameters())

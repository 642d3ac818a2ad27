"""Scores: eq. 5 as a literal loop, and the same bits for an image whatever it is scored with."""

from __future__ import annotations

import logging
import math
import threading
from random import Random

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from differnet_ray.config import TransformConfig
from differnet_ray.model.differnet import DifferNet, exact_convolutions, transformed_features
from differnet_ray.model.extractor import CHUNK, Extractor
from differnet_ray.model.flow import Flow
from differnet_ray.model.scoring import score_image, score_pooled
from differnet_ray.model.transforms import apply_transforms, fixed_transforms, sampling_positions


@pytest.fixture
def long_net(tiny_extractor: Extractor, tiny_flow: Flow) -> DifferNet:
    """More transforms than fit in one chunk."""
    config = TransformConfig(n_transforms=CHUNK + 4, brightness=0.2, contrast=0.2)
    return DifferNet(tiny_extractor, tiny_flow, fixed_transforms(config))


def literal_latents(net: DifferNet, image: Tensor) -> Tensor:
    """z of the transformed copies, one pass each."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    latents = []
    for i in range(len(net.transforms)):
        one = net.transforms.slice(i, i + 1)
        copy = apply_transforms(image, one, sampling_positions(one.angles, len(image)))
        normalized = (copy - mean[:, None, None]) / std[:, None, None]
        latents.append(net.flow(net.extractor(normalized))[0][0].detach())
    return torch.stack(latents)


def test_score_is_the_mean_over_single_transforms_and_dimensions_of_z_squared(long_net: DifferNet, images: Tensor) -> None:
    for image in images[:2]:
        per_transform = [np.mean(z.double().numpy() ** 2) for z in literal_latents(long_net, image)]
        for n in (1, 2, CHUNK, CHUNK + 1, None):
            score, first = score_image(long_net, image, n), per_transform[:n]
            assert score.n_transforms == len(first)
            assert score.anomaly_score == pytest.approx(np.mean(first), rel=1e-5)
            assert score.score_std == pytest.approx(np.std(first), rel=1e-3, abs=1e-9)
    assert score.score_std > 0


def test_score_is_the_papers_tau_on_another_scale(tiny_net: DifferNet, images: Tensor) -> None:
    for image in images[:3]:
        z, _ = tiny_net(image)
        tau = -stats.norm.logpdf(z.detach().double().numpy()).sum(axis=1).mean()  # eq. 5
        score = score_image(tiny_net, image).anomaly_score
        assert z.shape[1] / 2 * (score + math.log(2 * math.pi)) == pytest.approx(tau, rel=1e-9)


def test_one_transform_has_no_spread(tiny_net: DifferNet, images: Tensor) -> None:
    assert score_image(tiny_net, images[0], 1).score_std == 0


def test_a_pooled_score_is_that_of_the_mean_features(long_net: DifferNet, images: Tensor) -> None:
    pooled = DifferNet(long_net.extractor, long_net.flow, long_net.transforms, pooled=True)
    for n in (1, 3, None):
        z, _ = long_net.flow(long_net.features(images[0], n).mean(dim=0, keepdim=True))
        score = score_image(pooled, images[0], n)
        assert score.anomaly_score == pytest.approx(z.double().square().mean().item(), rel=1e-6)
        assert score.score_std == 0
        assert score.n_transforms == (n or len(long_net.transforms))


def test_an_image_has_the_same_score_in_every_company_and_order(long_net: DifferNet, images: Tensor) -> None:
    alone = [score_image(long_net, image) for image in images]
    assert len({score.anomaly_score for score in alone}) == len(images)
    for seed in range(3):
        order = Random(seed).sample(range(len(images)), len(images))
        for i in order:
            assert score_image(long_net, images[i].clone()) == alone[i]


def test_a_model_restored_from_its_state_gives_the_same_score(
    tiny_net: DifferNet, backbone: dict[str, Tensor], images: Tensor
) -> None:
    flow = Flow(tiny_net.flow.n_features, tiny_net.flow.config, seed=None)
    flow.load_state_dict(tiny_net.flow.state_dict())
    restored = DifferNet(Extractor(tiny_net.extractor.config, backbone), flow, fixed_transforms(TransformConfig(8)))
    assert score_image(restored, images[0]) == score_image(tiny_net, images[0])


def test_features_of_the_first_transforms_begin_those_of_all(long_net: DifferNet, images: Tensor) -> None:
    features = long_net.features(images[0])
    assert features.shape == (CHUNK + 4, 256)
    assert features.dtype == torch.float32
    for n in (1, CHUNK, CHUNK + 2):
        assert long_net.features(images[0], n).shape == (n, 256)
        torch.testing.assert_close(long_net.features(images[0], n), features[:n], rtol=1e-4, atol=1e-5)


def test_chunks_are_joined_in_order(long_net: DifferNet, images: Tensor) -> None:
    singles = [
        transformed_features(long_net.extractor, images[0], long_net.transforms.slice(i, i + 1), long_net.positions[i : i + 1])
        for i in range(len(long_net.transforms))
    ]
    torch.testing.assert_close(long_net.features(images[0]), torch.cat(singles), rtol=1e-4, atol=1e-5)


def test_features_and_scores_carry_no_gradient_and_leave_the_image_as_it_was(tiny_net: DifferNet, images: Tensor) -> None:
    before = images[0].clone()
    assert not tiny_net.features(images[0]).requires_grad
    score_image(tiny_net, images[0])
    assert torch.equal(images[0], before)
    assert all(parameter.grad is None for parameter in tiny_net.parameters())


def test_sampling_positions_are_not_stored_with_the_weights(tiny_net: DifferNet) -> None:
    assert not any("positions" in key for key in tiny_net.state_dict())


def test_exact_convolutions_turn_tf32_off_and_put_back_what_was_set() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with exact_convolutions():
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False)
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before


def test_exact_convolutions_hold_until_the_last_of_several_threads_has_left() -> None:
    cudnn = torch.backends.cudnn
    before, left = cudnn.allow_tf32, threading.Event()

    def first() -> None:
        with exact_convolutions():
            entered.wait()
        left.set()

    entered = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    with exact_convolutions():
        entered.set()
        assert left.wait(timeout=60)
        assert (cudnn.deterministic, cudnn.allow_tf32) == (True, False)
    thread.join()
    assert cudnn.allow_tf32 == before


def test_a_chunk_that_does_not_fit_in_memory_is_halved_for_good_and_the_log_says_so(
    long_net: DifferNet, images: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="differnet_ray")
    model, expected = long_net, score_image(long_net, images[0]).anomaly_score
    layers = model.extractor.forward
    largest: list[int] = []

    def forward(x: Tensor) -> Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("no room for so many copies")
        largest.append(len(x))
        return layers(x)

    monkeypatch.setattr(model.extractor, "forward", forward)
    monkeypatch.setattr(model.extractor, "chunk", CHUNK)
    assert score_image(model, images[0]).anomaly_score == pytest.approx(expected, rel=1e-6)
    assert (max(largest), model.extractor.chunk) == (4, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cpu: 8 copies at a time from now on",
        "out of memory on cpu: 4 copies at a time from now on",
    ]
    monkeypatch.setattr(model.extractor, "chunk", 1)
    monkeypatch.setattr(model.extractor, "forward", lambda x: forward(x.expand(9, -1, -1, -1)))
    with pytest.raises(torch.OutOfMemoryError):
        score_image(model, images[0])


def test_pooled_features_at_hand_score_as_their_image_does_to_the_bit(
    tiny_extractor: Extractor, tiny_flow: Flow, images: Tensor
) -> None:
    config = TransformConfig(n_transforms=5, pooled=True)
    net = DifferNet(tiny_extractor, tiny_flow, fixed_transforms(config), pooled=True)
    for image in images[:3]:
        features = transformed_features(tiny_extractor, image, net.transforms).mean(dim=0, keepdim=True)
        assert score_pooled(net, features) == score_image(net, image)

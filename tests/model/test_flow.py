"""The flow: invertible, with the log determinant that autograd finds, and equal to the paper's equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from FrEIA.modules import PermuteRandom
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from differnet_ray.config import FIRST_LAYERS, PRESETS, FlowConfig
from differnet_ray.model.flow import FixedPermutation, Flow, nll, soft_clamp

Floats = NDArray[np.float64]

SIZES = [(2, 1), (5, 2), (8, 3), (16, 2), (33, 4)]  # D, K
cases = pytest.mark.parametrize(
    ("n_features", "n_blocks", "first_layer"), [(d, k, layer) for d, k in SIZES for layer in FIRST_LAYERS]
)


def bent_flow(n_features: int, n_blocks: int, first_layer: str, alpha: float = 3.0) -> Flow:
    """A flow in float64 with weights large enough that the clamp bends."""
    config = FlowConfig(n_blocks=n_blocks, hidden=16, clamp_alpha=alpha, first_layer=first_layer)
    flow = Flow(n_features, config, seed=n_features).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.4)
    if first_layer != "none":
        flow.fit_first_layer(correlated(80, n_features))
    return flow


def correlated(n: int, n_features: int) -> Tensor:
    """Features of different means and deviations, each correlated with its neighbour."""
    y = samples(n, n_features, seed=9)
    y = y + 0.7 * y.roll(1, dims=1)
    return y * torch.linspace(0.5, 4, n_features, dtype=torch.float64) + torch.arange(n_features) / 10


def samples(n: int, n_features: int, seed: int = 5) -> Tensor:
    return torch.randn(n, n_features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@cases
def test_forward_then_inverse_returns_the_features(n_features: int, n_blocks: int, first_layer: str) -> None:
    flow, y = bent_flow(n_features, n_blocks, first_layer), samples(20, n_features)
    z, log_det = flow(y)
    back, log_det_back = flow.inverse(z)
    assert (z - y).abs().mean() > 0.1
    torch.testing.assert_close(back, y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [0.25, 0.5])
@pytest.mark.parametrize("first_layer", FIRST_LAYERS)
def test_a_power_layer_is_inverted_and_counted_in_log_det(power: float, first_layer: str) -> None:
    flow = Flow(6, FlowConfig(n_blocks=2, hidden=16, first_layer=first_layer, power=power), seed=0).double()
    y = samples(50, 6).square()
    y[0, :3] = 0.0  # features of a ReLU network
    if first_layer != "none":
        flow.fit_first_layer(y)
    z, log_det = flow(y)
    back, log_det_back = flow.inverse(z)
    torch.testing.assert_close(back, y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-6, atol=1e-6)
    for row, expected in zip(y[1:4], log_det[1:4], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first_layer", ["whiten", "whiten_covariance"])
def test_a_flow_without_blocks_is_the_normal_density_of_its_features(first_layer: str) -> None:
    y = correlated(4000, 5)
    flow = Flow(5, FlowConfig(n_blocks=0, first_layer=first_layer, shrinkage=1e-9), seed=0).double()
    flow.fit_first_layer(y)
    expected = stats.multivariate_normal(y.mean(0).numpy(), np.cov(y.numpy().T, bias=True)).logpdf(y[:20].numpy())
    torch.testing.assert_close(flow.log_prob(y[:20]), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow.inverse(flow(y[:20])[0])[0], y[:20], rtol=1e-9, atol=1e-9)


def test_whitening_comes_after_the_power() -> None:
    y = correlated(400, 6).exp()
    flow = Flow(6, FlowConfig(n_blocks=1, hidden=4, first_layer="whiten", power=0.5, shrinkage=1e-9), seed=0).double()
    flow.fit_first_layer(y)
    x = ((y + 1e-4).sqrt() - flow.shift) @ flow.matrix
    torch.testing.assert_close(x.T @ x / 400, torch.eye(6, dtype=torch.float64), rtol=1e-5, atol=1e-5)


@cases
def test_inverse_then_forward_returns_the_latent_variables(n_features: int, n_blocks: int, first_layer: str) -> None:
    flow, z = bent_flow(n_features, n_blocks, first_layer), samples(20, n_features)
    torch.testing.assert_close(flow(flow.inverse(z)[0])[0], z, rtol=1e-9, atol=1e-9)


@cases
def test_log_det_is_that_of_the_autograd_jacobian(n_features: int, n_blocks: int, first_layer: str) -> None:
    flow = bent_flow(n_features, n_blocks, first_layer)
    for y in samples(3, n_features):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], y)
        torch.testing.assert_close(flow(y[None])[1][0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)


def literal_flow(state: dict[str, Floats], y: Floats, n_blocks: int, alpha: float) -> tuple[Floats, float]:
    """Equations 1 and 2 of the paper for one sample y, in its notation."""

    def network(name: str, half: Floats) -> tuple[Floats, Floats]:  # three hidden layers with ReLU, then [s, t]
        h = half
        for layer in (0, 2, 4):
            h = np.maximum(state[f"{name}.{layer}.weight"] @ h + state[f"{name}.{layer}.bias"], 0)
        s, t = np.split(state[f"{name}.6.weight"] @ h + state[f"{name}.6.bias"], 2)
        return 2 * alpha / np.pi * np.arctan(s / alpha), t  # eq. 2

    y = (y - state["shift"]) @ state["matrix"]
    log_det = np.linalg.slogdet(state["matrix"]).logabsdet
    for k in range(n_blocks):
        block = f"blocks.module_list.{2 * k + 1}"
        permuted = y[state[f"blocks.module_list.{2 * k}.order"].astype(int)]
        half = round(len(y) / 2)
        y_2, y_1 = permuted[:half], permuted[half:]
        s_1, t_1 = network(f"{block}.subnet2", y_1)
        y_2 = y_2 * np.exp(s_1) + t_1  # eq. 1, first line
        s_2, t_2 = network(f"{block}.subnet1", y_2)
        y_1 = y_1 * np.exp(s_2) + t_2  # eq. 1, second line
        y, log_det = np.concatenate([y_2, y_1]), log_det + s_1.sum() + s_2.sum()
    return y, log_det


@cases
@pytest.mark.parametrize("alpha", [0.7, 3.0])
def test_equals_a_literal_transcription_of_equations_1_and_2(
    n_features: int, n_blocks: int, first_layer: str, alpha: float
) -> None:
    flow, y = bent_flow(n_features, n_blocks, first_layer, alpha), samples(4, n_features)
    state = {key: value.numpy() for key, value in flow.state_dict().items()}
    z, log_det = flow(y)
    for i in range(len(y)):
        expected_z, expected_log_det = literal_flow(state, y[i].numpy(), n_blocks, alpha)
        np.testing.assert_allclose(z[i].detach().numpy(), expected_z, rtol=1e-9, atol=1e-9)
        assert log_det[i].item() == pytest.approx(expected_log_det, rel=1e-9, abs=1e-9)


@given(st.floats(-1e9, 1e9), st.floats(0.1, 10))
def test_soft_clamp_is_odd_and_bounded_by_alpha(h: float, alpha: float) -> None:
    s = soft_clamp(torch.tensor(h, dtype=torch.float64), alpha).item()
    assert abs(s) <= alpha
    assert abs(s) <= abs(h) * 2 / math.pi * (1 + 1e-12) + 1e-300  # the smallest numbers are rounded in steps
    assert soft_clamp(torch.tensor(-h, dtype=torch.float64), alpha).item() == -s


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_soft_clamp_has_slope_two_over_pi_at_zero_reaches_half_at_alpha_and_tends_to_alpha(alpha: float) -> None:
    h = torch.tensor([0.0, alpha, 1e12], dtype=torch.float64, requires_grad=True)
    s = soft_clamp(h, alpha)
    (slope,) = torch.autograd.grad(s.sum(), h)
    assert slope[0].item() == pytest.approx(2 / math.pi)
    assert s.tolist() == pytest.approx([0, alpha / 2, alpha])


def permuting_flow(n_features: int, first_layer: str = "none") -> Flow:
    """All subnets give zero: only the first layer and the permutations are left."""
    flow = Flow(n_features, FlowConfig(n_blocks=3, hidden=4, first_layer=first_layer), seed=0).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    return flow


def test_log_prob_of_a_flow_that_only_permutes_is_the_standard_normal_density() -> None:
    y = samples(10, 6)
    expected = stats.norm.logpdf(y.numpy()).sum(axis=1)
    np.testing.assert_allclose(permuting_flow(6).log_prob(y).detach().numpy(), expected, rtol=1e-12)


def test_log_prob_of_a_standardised_flow_that_only_permutes_is_the_normal_density_of_the_features() -> None:
    flow, y = permuting_flow(6, "standardize"), samples(40, 6) * torch.arange(1, 7) + 3
    flow.fit_first_layer(y)
    expected = stats.norm.logpdf(y.numpy(), y.numpy().mean(axis=0), y.numpy().std(axis=0)).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(y).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("first_layer", FIRST_LAYERS)
def test_density_integrates_to_one(first_layer: str) -> None:
    flow = bent_flow(2, 2, first_layer, alpha=1.0)
    with torch.no_grad():
        turn = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
        rim = flow.inverse(7 * torch.stack([turn.cos(), turn.sin()], dim=1))[0]  # its inside holds all but e^-24.5
        axes = [torch.linspace(low, high, 400, dtype=torch.float64) for low, high in zip(*rim.aminmax(dim=0), strict=True)]
        density = flow.log_prob(torch.cartesian_prod(*axes)).exp()
    assert density.sum().item() * math.prod((axis[1] - axis[0]).item() for axis in axes) == pytest.approx(1, abs=1e-3)


@cases
def test_log_prob_is_the_normal_density_of_z_plus_log_det(n_features: int, n_blocks: int, first_layer: str) -> None:
    flow, y = bent_flow(n_features, n_blocks, first_layer), samples(6, n_features)
    z, log_det = (part.detach().numpy() for part in flow(y))
    expected = stats.multivariate_normal(np.zeros(n_features)).logpdf(z) + log_det
    np.testing.assert_allclose(flow.log_prob(y).detach().numpy(), expected, rtol=1e-9)


def test_nll_is_minus_log_prob_per_feature_without_its_constant() -> None:
    flow, y = bent_flow(8, 3, "standardize"), samples(6, 8)
    torch.testing.assert_close(nll(*flow(y)), -flow.log_prob(y) / 8 - math.log(2 * math.pi) / 2)


def test_nll_of_standard_normal_latents_is_one_half() -> None:
    z = samples(400, 300)
    assert nll(z, torch.zeros(400, dtype=torch.float64)).mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("first_layer", FIRST_LAYERS[1:])
def test_the_first_layer_centres_features_and_leaves_dead_ones_finite(first_layer: str) -> None:
    flow, y = permuting_flow(6, first_layer), correlated(60, 6)
    y[:, 4] = 1.25
    flow.fit_first_layer(y)
    z, log_det = flow(y)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert log_det.isfinite().all()
    torch.testing.assert_close(flow.inverse(z)[0], y, rtol=1e-9, atol=1e-9)


def test_standardised_features_have_unit_deviation_except_for_dead_ones() -> None:
    flow, y = permuting_flow(6, "standardize"), correlated(60, 6)
    y[:, 4] = 1.25
    flow.fit_first_layer(y)
    assert flow(y)[0].std(dim=0, correction=0).sort().values.tolist() == pytest.approx([0, 1, 1, 1, 1, 1], abs=1e-12)


def test_whitened_features_are_uncorrelated_under_the_shrunk_covariance() -> None:
    flow, y = permuting_flow(6, "whiten"), correlated(60, 6)
    flow.fit_first_layer(y)
    covariance = np.cov(flow(y)[0].detach().numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    assert (np.diag(covariance) > 0.5).all()
    assert (np.diag(covariance) < 1 / (1 - FlowConfig().shrinkage)).all()

    scale = np.diag(y.numpy().std(axis=0))
    shrunk = scale @ ((1 - FlowConfig().shrinkage) * np.corrcoef(y.numpy().T) + FlowConfig().shrinkage * np.eye(6)) @ scale
    matrix = flow.matrix.numpy()  # known up to a rotation: what counts is the Mahalanobis distance
    np.testing.assert_allclose(matrix @ matrix.T, np.linalg.inv(shrunk), rtol=1e-9, atol=1e-12)


def test_features_whitened_at_their_own_scale_count_by_their_shrunk_covariance() -> None:
    flow, y = permuting_flow(6, "whiten_covariance"), correlated(60, 6)
    flow.fit_first_layer(y)
    covariance, share = np.cov(y.numpy().T, bias=True), FlowConfig().shrinkage
    shrunk = (1 - share) * covariance + share * np.diag(covariance).mean() * np.eye(6)
    matrix = flow.matrix.numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.linalg.inv(shrunk), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, None])
def test_construction_leaves_the_global_random_states_alone(seed: int | None) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    Flow(6, FlowConfig(n_blocks=2, hidden=8), seed=seed)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_the_seed_alone_decides_the_weights() -> None:
    def state(global_seed: int, seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            return Flow(6, FlowConfig(n_blocks=2, hidden=8), seed=seed).state_dict()

    first, again, other = state(1, 0), state(2, 0), state(1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith(("weight", "bias")))


def test_initial_weights_are_those_that_linear_layers_draw_by_themselves() -> None:
    flow = Flow(6, FlowConfig(n_blocks=2, hidden=8), seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = [nn.Linear(a, b) for _ in range(4) for a, b in [(3, 8), (8, 8), (8, 8), (8, 6)]]
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(flow.parameters(), expected, strict=True))


def test_a_flow_without_seed_equals_the_one_whose_state_it_loads() -> None:
    config, y = FlowConfig(n_blocks=3, hidden=8, first_layer="whiten"), samples(5, 7).float()
    fitted, loaded = Flow(7, config, seed=2), Flow(7, config, seed=None)
    fitted.fit_first_layer(correlated(30, 7).float())
    loaded.load_state_dict(fitted.state_dict())
    for a, b in zip(fitted(y) + fitted.inverse(y), loaded(y) + loaded.inverse(y), strict=True):
        assert torch.equal(a, b)


def test_permutations_are_those_of_freia_and_differ_from_block_to_block() -> None:
    flow, y = Flow(64, FlowConfig(n_blocks=8, hidden=4), seed=0), samples(3, 64)
    ours = [module for module in flow.modules() if isinstance(module, FixedPermutation)]
    for seed, permutation in enumerate(ours):
        theirs = PermuteRandom([(64,)], seed=seed)
        assert torch.equal(permutation([y])[0][0], theirs([y])[0][0])
        assert torch.equal(permutation([y], rev=True)[0][0], theirs([y], rev=True)[0][0])
    assert len({tuple(permutation.order.tolist()) for permutation in ours}) == 8


def test_the_paper_sized_flow_has_172_million_parameters() -> None:
    flow = Flow(PRESETS["paper"].extractor.n_features, PRESETS["paper"].flow, seed=None)  # reserved, never written to
    subnet = (384 * 2048 + 2048) + 2 * (2048 * 2048 + 2048) + (2048 * 768 + 768)
    assert sum(parameter.numel() for parameter in flow.parameters()) == 8 * 2 * subnet == 172_077_056

"""The normalizing flow f_NF: K affine coupling blocks between fixed permutations (section 3.1).

Legend: B samples, D features, K blocks, alpha the clamp of eq. 2. y are features, z latent variables.

The blocks are FrEIA's `GLOWCouplingBlock`. In its words the paper's eq. 1 reads: `x2` is y_1, `x1` is y_2, `subnet2`
computes [s_1, t_1] and `subnet1` computes [s_2, t_2]; the permutation in front makes the naming of the halves free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, InvertibleModule
from torch import Tensor, nn

from differnet_ray.config import FlowConfig

OFFSET = 1e-4  # added to features before they are raised to a power, whose slope at zero is infinite
SMALLEST_STD = 1e-3  # of the median deviation: below it, a feature counts as one that never varies


def soft_clamp(h: Tensor, alpha: float) -> Tensor:
    """Eq. 2: (2 alpha / pi) arctan(h / alpha), which lies in (-alpha, alpha) and has slope 2 / pi at zero.

    FrEIA's own "ATAN" clamp leaves out the division by alpha.
    """
    return (2 * alpha / math.pi) * torch.atan(h / alpha)


class FixedPermutation(InvertibleModule):  # type: ignore[misc]
    """Permutes the features in a random but fixed way, kept with the weights.

    FrEIA's `PermuteRandom` seeds NumPy's global generator; this one draws the same permutations without touching it.
    """

    order: Tensor

    def __init__(self, dims_in: list[tuple[int]], seed: int) -> None:
        super().__init__(dims_in)
        order = np.random.RandomState(seed).permutation(dims_in[0][0])
        self.register_buffer("order", torch.from_numpy(order))

    def forward(
        self, x: list[Tensor], c: Iterable[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], float]:
        """x[0] (B, D) with its features in the fixed order; `rev` undoes it."""
        order = torch.argsort(self.order) if rev else self.order
        return (x[0].index_select(1, order),), 0.0  # [:, order] is the same, but sorts the order in its backward pass

    def output_dims(self, input_dims: list[tuple[int]]) -> list[tuple[int]]:
        """As the input's."""
        return input_dims


class Flow(nn.Module):
    """f_NF: y -> z with its log determinant, and back.

    Where the config has a power below 1, features must not be negative (pooled activations are not).

    Args:
        n_features: D.
        config: blocks, width, clamp, and what fixed first layer there is.
        seed: of the initial weights, drawn without PyTorch's global generator; None leaves them unset, for a state to be
            loaded.
    """

    shift: Tensor
    matrix: Tensor
    matrix_log_det: Tensor

    def __init__(self, n_features: int, config: FlowConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config, self.n_features = config, n_features
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.blocks = SequenceINN(n_features)
        for k in range(config.n_blocks):
            self.blocks.append(FixedPermutation, seed=k)
            self.blocks.append(
                GLOWCouplingBlock,
                subnet_constructor=partial(_subnet, hidden=config.hidden, generator=generator),
                clamp=1.0,  # alpha is inside soft_clamp
                clamp_activation=partial(soft_clamp, alpha=config.clamp_alpha),
            )
        # The first layer y -> (y^power - shift) @ matrix is part of the flow, so that log_prob stays a density of y.
        self.register_buffer("shift", torch.zeros(n_features))
        self.register_buffer("matrix", torch.eye(n_features))
        self.register_buffer("matrix_log_det", torch.zeros(()))

    def fit_first_layer(self, y: Tensor) -> None:
        """Sets the fixed first layer from training features, as `first_layer` of the config says.

        `standardize` divides by the deviation of each feature; `whiten` goes on to make them uncorrelated (PCA
        whitening), with a covariance shrunk towards a multiple of the identity as Ledoit and Wolf (2004) do, by the share
        `shrinkage`. `whiten_covariance` whitens without dividing first, so that features that hardly vary count for little
        (in Kessy, Lewin and Strimmer 2018, PCA and not PCA-cor whitening).

        Args:
            y: (M, D); features that never vary are left at their scale.
        """
        y = self._raised(y.double())
        shift, std = y.mean(dim=0), y.std(dim=0, correction=0)
        matrix = torch.diag(1 / torch.where(std > SMALLEST_STD * std.median(), std, torch.ones_like(std)))
        if self.config.first_layer == "whiten_covariance":
            matrix = torch.eye(len(std), dtype=y.dtype, device=y.device)
        if self.config.first_layer != "standardize":
            x = (y - shift) @ matrix
            covariance = x.T @ x / len(x)
            scale = covariance.diagonal().mean()
            share, identity = self.config.shrinkage, torch.eye(len(shift), dtype=y.dtype, device=y.device)
            covariance = (1 - share) * covariance + share * scale * identity
            variances, directions = torch.linalg.eigh(covariance)
            matrix = matrix @ (directions / variances.sqrt())
        self.shift.copy_(shift)
        self.matrix.copy_(matrix)
        self.matrix_log_det.copy_(torch.linalg.slogdet(matrix).logabsdet)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps y (B, D) to z (B, D) and log |det dz/dy| (B,)."""
        z, log_det = self.blocks((self._raised(y) - self.shift) @ self.matrix)
        return z, log_det + self.matrix_log_det + self._raised_log_det(y)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Maps z (B, D) back to y (B, D) and log |det dy/dz| (B,)."""
        x, log_det = self.blocks(z, rev=True)
        y = torch.linalg.solve(self.matrix, x, left=False) + self.shift
        if self.config.power != 1:
            y = y ** (1 / self.config.power) - OFFSET
        return y, log_det - self.matrix_log_det - self._raised_log_det(y)

    def _raised(self, y: Tensor) -> Tensor:
        """(y + OFFSET)^power of features >= 0; y itself where the power is 1."""
        return y if self.config.power == 1 else (y + OFFSET) ** self.config.power

    def _raised_log_det(self, y: Tensor) -> Tensor | float:
        power = self.config.power
        return 0.0 if power == 1 else (math.log(power) + (power - 1) * torch.log(y + OFFSET)).sum(dim=1)

    def log_prob(self, y: Tensor) -> Tensor:
        """The density log p_Y(y), eq. 4, first line: (B, D) -> (B,)."""
        z, log_det = self(y)
        log_prob: Tensor = -0.5 * z.square().sum(dim=1) - 0.5 * self.n_features * math.log(2 * math.pi) + log_det
        return log_prob


def nll(z: Tensor, log_det: Tensor) -> Tensor:
    """The loss of eq. 4 per sample, divided by D as in the authors' code: (B, D), (B,) -> (B,).

    It leaves out the constant log(2 pi) / 2: a standard normal z under the identity gives about 0.5.
    """
    loss: Tensor = (0.5 * z.square().sum(dim=1) - log_det) / z.shape[1]
    return loss


def _subnet(n_in: int, n_out: int, *, hidden: int, generator: torch.Generator | None) -> nn.Sequential:
    """[s, t] of one half: three hidden layers with ReLU (section 4.2), initialised as `nn.Linear` does by itself."""
    widths = [n_in, hidden, hidden, hidden, n_out]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, a, b)
        if generator is not None:
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5), generator=generator)
            nn.init.uniform_(linear.bias, -1 / math.sqrt(a), 1 / math.sqrt(a), generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])

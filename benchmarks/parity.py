"""Where paper and authors' code differ or leave a choice: each measured on the magnetic tiles with the real weights.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.parity

Every tenth training and test image, T = 8, flows of 8 blocks 256 wide. What is compared is scored on the
same images, so differences count, not levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmarks import tiles
from differnet_ray.config import Recipe
from differnet_ray.experiments.run_cell import StoredBank
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import exact_convolutions
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.metrics import auroc
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import (
    TransformSet,
    apply_transforms,
    fixed_transforms,
    random_transforms,
    sampling_positions,
)

EVERY, T, FIT_T, DRAWS = 10, 8, 8, 3
Floats = npt.NDArray[np.float32]
Rotate = Callable[[Tensor, TransformSet], Tensor]


def nearest(image: Tensor, transforms: TransformSet) -> Tensor:
    """Ours: uint8 (H, W, 3) to float32 (T, 3, H, W) in [0, 1]."""
    return apply_transforms(image, transforms, sampling_positions(transforms.angles, image.shape[0]))


def pil(image: Tensor, transforms: TransformSet) -> Tensor:
    """The authors': `PIL.Image.rotate`, nearest; brightness and contrast as ours."""
    picture = Image.fromarray(image.numpy())
    rotated = [torch.from_numpy(np.array(picture.rotate(math.degrees(angle)))) for angle in transforms.angles]
    return torch.cat([_illuminated(copy, transforms, i) for i, copy in enumerate(rotated)])


def bilinear(image: Tensor, transforms: TransformSet) -> Tensor:
    """Bilinear sampling, corners black."""
    planes = image.permute(2, 0, 1)[None].float()
    copies = []
    for i, angle in enumerate(transforms.angles):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
        grid = affine_grid(turn[None], list(planes.shape), align_corners=False)
        copy = grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        copies.append(_illuminated(copy[0].permute(1, 2, 0).round().byte(), transforms, i))
    return torch.cat(copies)


def _illuminated(copy: Tensor, transforms: TransformSet, i: int) -> Tensor:
    upright = TransformSet((0.0,), transforms.brightness[i : i + 1], transforms.contrast[i : i + 1])
    return nearest(copy, upright)


@torch.no_grad()
def features(extractor: Extractor, images: Tensor, rotate: Rotate, sets: list[TransformSet]) -> Floats:
    """Features (N, T, D) of images, each under its set of transforms."""
    with exact_convolutions():
        found = [
            extractor(extractor.normalize(rotate(image, transforms).to(extractor.mean.device))).cpu()
            for image, transforms in zip(images, sets, strict=True)
        ]
    return torch.stack(found).numpy()


def main() -> None:
    """Measures and prints Markdown."""
    recipe = tiles.recipe().override(n_transforms=T, hidden=256, first_layer="standardize", epochs=32, max_grad_norm=1.0)
    extractor = tiles.extractor(recipe)
    train, _ = tiles.images("train", EVERY)
    test, kinds = tiles.images("test", EVERY)
    is_anomaly = kinds != GOOD
    rng = np.random.default_rng(0)
    fit_sets = [random_transforms(recipe.transforms, FIT_T, rng) for _ in train]
    fixed = [fixed_transforms(recipe.transforms)] * len(test)
    random = [random_transforms(recipe.transforms, DRAWS * T, rng) for _ in test]
    a, b = nearest(train[0], fit_sets[0]), pil(train[0], fit_sets[0])
    print(f"tensor against PIL, nearest: {((a - b).abs() > 1 / 512).any(dim=1).float().mean():.4%} of the pixels differ\n")
    print(f"{len(train)} training, {len(test)} test images ({is_anomaly.sum()} defects), T = {T}\n")
    print("| rotation | AUROC of z² | AUROC of the NLL | correlation of scores with ours |\n|---|---|---|---|")
    flow = _fit(recipe, features(extractor, train, nearest, fit_sets))
    ours, likelihood = _scores(flow, features(extractor, test, nearest, fixed))
    other = _fit(recipe, features(extractor, train, bilinear, fit_sets))
    rows = {
        "nearest on tensors (ours)": (ours, likelihood),
        "nearest by PIL, same flow": _scores(flow, features(extractor, test, pil, fixed)),
        "bilinear, fitted and scored": _scores(other, features(extractor, test, bilinear, fixed)),
    }
    for name, (scores, likelihood) in rows.items():
        correlation = np.corrcoef(np.log(scores), np.log(ours))[0, 1]
        print(
            f"| {name} | {auroc(scores, is_anomaly):.4f} | {auroc(likelihood, is_anomaly):.4f} | {correlation:.4f} |",
            flush=True,
        )
    per_transform = transform_scores(flow, features(extractor, test, nearest, random))
    drawn = per_transform.reshape(len(test), DRAWS, T).mean(axis=2).T
    aurocs = [auroc(scores, is_anomaly) for scores in drawn]
    spread = (drawn.std(axis=0, ddof=1) / drawn.mean(axis=0)).mean()
    print(
        f"\nT = {T} random transforms, drawn again at each of {DRAWS} scorings: AUROC {np.mean(aurocs):.4f} ± "
        f"{np.std(aurocs, ddof=1):.4f}, {min(aurocs):.4f} to {max(aurocs):.4f}; a score changes by {spread:.1%}. "
        f"The fixed set: {auroc(ours, is_anomaly):.4f}, and a score does not change."
    )


def _fit(recipe: Recipe, train: Floats) -> Flow:
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0)
    for _ in fit(flow, StoredBank(torch.from_numpy(train), recipe.fit), recipe.fit):
        pass
    return flow


def _scores(flow: Flow, found: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The mean over transforms of z^2 and of the NLL, each (N,)."""
    n, t, d = found.shape
    with torch.no_grad():
        _, log_det = flow(torch.from_numpy(found).view(n * t, d))
    squares = transform_scores(flow, found)
    return squares.mean(axis=1), (squares / 2 - log_det.double().view(n, t).numpy() / d).mean(axis=1)


if __name__ == "__main__":
    main()

"""Which transforms help parts that lie the same way, and parts in any pose; whether good images alone tell which they are.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.poses OUTPUT

Real AlexNet weights. The tiles, which always lie the same way, are split five times by tile as in `leakage`, all defects are
tested. `turned` is made: the demo's boards, each turned at random on a plain, unevenly lit ground. The other three
are the demo's. Features are kept in OUTPUT, image by image: run again, it goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from benchmarks import tiles
from benchmarks.leakage import FOLDS, numbers_of, tiles_of
from benchmarks.pooling import fitted, mean
from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import defects, list_images
from differnet_ray.cli.demo.archive import CATEGORIES, make_archive
from differnet_ray.config import POSES, Recipe, TransformConfig, preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.metrics import GOOD, auroc
from differnet_ray.model.pose import find_pose
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import fixed_transforms, sampling_positions
from differnet_ray.storage.files import read_bytes

LARGEST = {"any": 32, "quarter": 4, "fixed": 8}  # T
TURNED = "turned"
GROUND, SIDE = (46, 48, 52), 912  # a board of 720 x 540 fits in it at every angle
Split = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Positions of the images to fit on, and of those to test."""


class Images:
    """The images of a category: good ones to fit on, then those to test."""

    def __init__(self, name: str, folder: str) -> None:
        self.name, listing = name, list_images([folder])
        rows = pa.concat_tables([images_of(listing, name, split) for split in ("train", "test")])
        self.uris: list[str] = rows["uri"].to_pylist()
        self.kinds = np.array(defects(rows))
        self.n_train = images_of(listing, name, "train").num_rows

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        """Uint8 (448, 448, 3) each."""
        return [torch.from_numpy(decode(read_bytes(self.uris[i]), size=448).pixels) for i in positions]

    def splits(self) -> list[Split]:
        """The tiles: five, by tile. Others: the one that they were made with."""
        if self.name != TILES:
            return [(np.arange(self.n_train), np.arange(self.n_train, len(self.uris)))]
        good, defective = np.flatnonzero(self.kinds == GOOD), np.flatnonzero(self.kinds != GOOD)
        tile = tiles_of(numbers_of([self.uris[i] for i in good]))
        order = np.random.default_rng(0).permutation(tile.max() + 1)
        held_out = [np.isin(tile, order[i::FOLDS]) for i in range(FOLDS)]
        return [(good[~unseen], np.concatenate([good[unseen], defective])) for unseen in held_out]


def main(output: str) -> None:
    """Prints Markdown."""
    torch.set_num_threads(1)
    extractor = tiles.extractor(preset("pooled"))
    _make(Path(output) / "images")
    sets = [Images(TILES, str(tiles.data_folder() / "mtd"))]
    sets += [Images(name, f"{output}/images") for name in (TURNED, *CATEGORIES)]
    features = {
        (each.name, pose): _features(Path(output) / f"{each.name}-{pose}.npy", each, pose, extractor)
        for each in sets
        for pose in POSES
    }
    for layer in ("whiten", "whiten_covariance"):
        recipe = preset("pooled").override(first_layer=layer)
        print(f"\n| {layer} | {' | '.join(each.name for each in sets)} |\n|---|{'---|' * len(sets)}")
        for pose in POSES:
            for n in (n for n in (1, 2, 4, 8, 16, 32) if n <= LARGEST[pose]):
                cells = [_cell(recipe, features[each.name, pose][:, :n], each) for each in sets]
                print(f"| {pose}, T = {n} | {' | '.join(cells)} |", flush=True)
    print()
    for each in sets:
        for seed in range(3):
            found = find_pose(extractor, each.read, each.n_train, TransformConfig(32), seed=seed)
            print(f"- {each.name}, seed {seed}: {found.statement}", flush=True)


def _cell(recipe: Recipe, features: Floats, images: Images) -> str:
    found = []
    for train, test in images.splits():
        scores = transform_scores(fitted(recipe, mean(features[train])), mean(features[test]))[:, 0]
        found.append(auroc(scores, images.kinds[test] != GOOD))
    spread = f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
    return f"{np.mean(found):.3f}{spread}"


def _features(path: Path, images: Images, pose: str, extractor: Extractor) -> Floats:
    """Float32 (N, T, D), computed where they are not there yet."""
    transforms = fixed_transforms(TransformConfig(LARGEST[pose], pose))
    shape = len(images.uris), len(transforms), extractor.config.n_features
    stored = np.lib.format.open_memmap(path, mode="r+" if path.exists() else "w+", dtype=np.float32, shape=shape)
    positions = sampling_positions(transforms.angles, extractor.config.image_size)
    for i in np.flatnonzero(~stored[:, -1].any(axis=1)).tolist():
        (image,) = images.read([i])
        stored[i] = transformed_features(extractor, image, transforms, positions).numpy()
    return np.array(stored)


def _make(folder: Path) -> None:
    """The demo's archive, 120 images to fit on and 60 good and 60 defective ones to test of each product; boards turned."""
    if (folder / TURNED).exists():
        return
    make_archive(folder, n_train=120, n_test_good=60, n_test_defect=20)
    for i, path in enumerate(sorted((folder / "board").glob("*/*/*.jpg"))):
        target = folder / TURNED / path.relative_to(folder / "board").with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        _turned(Image.open(path), np.random.default_rng(i)).save(target)


def _turned(board: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A board at a random angle; light and noise do not turn with it."""
    part = board.convert("RGBA").rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
    scene = Image.new("RGB", (SIDE, SIDE), GROUND)
    scene.paste(part, ((SIDE - part.width) // 2, (SIDE - part.height) // 2), part)
    axis = np.linspace(-1, 1, SIDE)
    light = 1 + 0.10 * axis[None, :, None] + 0.05 * axis[:, None, None]
    pixels = np.asarray(scene, np.float32) * light + rng.normal(0, 2, (SIDE, SIDE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((448, 448), Image.Resampling.BILINEAR)


if __name__ == "__main__":
    main(sys.argv[1])

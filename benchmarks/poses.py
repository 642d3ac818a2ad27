"""Which transforms help parts that lie the same way, and parts in any pose; whether good images alone tell which they are.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.poses OUTPUT

Real AlexNet weights. The tiles, which always lie the same way, are split five times by tile as in `leakage`; half of the
unseen tiles and of the defects chooses, the other half is reported. `turned` is made: 240 of the demo's boards, each at a
random angle on a plain, unevenly lit ground. The other three are the demo's products as they are, 120 images each. Features
are kept in OUTPUT, image by image: run again, it goes on where it was. Those of made images are computed in bfloat16, five
times as fast on a CPU that has it; it moves pooled features by 1 %.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from benchmarks import tiles
from benchmarks.pooling import fitted, mean
from benchmarks.tile_split import Integers, held_out, numbers_of, tiles_of
from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import defects, list_images
from differnet_ray.cli.demo.archive import make_archive
from differnet_ray.config import Recipe, TransformConfig, preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import of_transformed
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.metrics import auroc
from differnet_ray.model.pose import MOST_IMAGES, share_of_turns
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import fixed_transforms, sampling_positions
from differnet_ray.storage.files import read_bytes

TURNED, UPRIGHT = "turned", ("board", "fabric", "washer")
LARGEST = {TURNED: 32} | dict.fromkeys(UPRIGHT, 8)  # T of pose any; of the tiles `leakage` has it
ROWS = [("quarter", 1), ("quarter", 4), ("fixed", 4), *(("any", n) for n in (8, 16, 32))]  # quarter, T = 1: upright
LAYERS, SHRINKAGES = ("whiten", "whiten_covariance"), (0.03, 0.1, 0.3)
GROUND, SIDE = (46, 48, 52), 912  # a board of 720 x 540 fits in it at every angle
DRAWS = 100


class Images:
    """The images of a category: good ones to fit on, then those to test."""

    def __init__(self, name: str, folder: str, *, every: int = 1) -> None:
        self.name, listing = name, list_images([folder])
        splits = [images_of(listing, name, split) for split in ("train", "test")]
        splits = [rows.take(list(range(0, rows.num_rows, every))) for rows in splits]
        rows = pa.concat_tables(splits)
        self.uris: list[str] = rows["uri"].to_pylist()
        self.kinds = np.array(defects(rows))
        self.n_train = splits[0].num_rows

    def read(self, position: int) -> Tensor:
        """Uint8 (448, 448, 3)."""
        return torch.from_numpy(decode(read_bytes(self.uris[position]), size=448).pixels)

    @property
    def given(self) -> tuple[Integers, list[Integers]]:
        """The split that they come with; that of the tiles has the same tiles on both sides."""
        return np.arange(self.n_train), [np.arange(self.n_train, len(self.uris))]

    def splits(self) -> Iterator[tuple[Integers, list[Integers]]]:
        """Positions to fit on, and those to test: all, and of the tiles the half that chooses and the one that is reported."""
        if self.name != TILES:
            yield self.given
            return
        good, defective = np.flatnonzero(self.kinds == GOOD), np.flatnonzero(self.kinds != GOOD)
        tile = tiles_of(numbers_of(self.uris[i] for i in good))
        for fold in held_out(tile)["by tile"]:
            halves = [np.concatenate([good[fold][tile[fold] % 2 == i], defective[i::2]]) for i in range(2)]
            yield np.delete(good, fold), [np.concatenate(halves), *halves]


def main(output: str) -> None:
    """Prints Markdown."""
    torch.set_num_threads(1)
    extractor = tiles.extractor(preset("pooled"))
    folder = Path(output) / "images"
    _make(folder)
    of_tiles = Images(TILES, str(tiles.data_folder() / "mtd"))
    sets = [of_tiles, Images(TURNED, str(folder)), *(Images(name, str(folder), every=2) for name in UPRIGHT)]
    features = {
        (each.name, pose): _features(Path(output), each, pose, n, extractor)
        for each in sets
        for pose, n in {"quarter": 4, "fixed": 4, "any": LARGEST.get(each.name, 0)}.items()
        if n
    }
    _decisions(sets, features)
    for layer in LAYERS:
        for shrinkage in SHRINKAGES:
            _table(preset("pooled").override(first_layer=layer, shrinkage=shrinkage), sets, features)


def _decisions(sets: Sequence[Images], features: dict[tuple[str, str], Floats]) -> None:
    print(f"| good images, {DRAWS} draws | {' | '.join(each.name for each in sets)} |\n|---|{'---|' * len(sets)}")
    for n in (10, 20, MOST_IMAGES):
        cells = []
        for each in sets:
            good = features[each.name, "quarter"][: each.n_train]
            drawn = [np.random.default_rng(seed).permutation(len(good))[:n] for seed in range(DRAWS)]
            shares = [share_of_turns(good[positions]) for positions in drawn]
            cells.append(f"{np.mean(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})")
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


def _table(recipe: Recipe, sets: Sequence[Images], features: dict[tuple[str, str], Floats]) -> None:
    print(f"\n| {recipe.flow.first_layer}, {recipe.flow.shrinkage} | {' | '.join(each.name for each in sets)} |")
    print(f"|---|{'---|' * len(sets)}")
    for pose, n in ROWS:
        cells = []
        for each in sets:
            found = features.get((each.name, pose))
            cells.append(_cell(recipe, found[:, :n], each) if found is not None and found.shape[1] >= n else "")
        print(f"| {pose}, T = {n} | {' | '.join(cells)} |", flush=True)


def _cell(recipe: Recipe, features: Floats, images: Images) -> str:
    """AUROC; of the tiles mean and deviation over the folds, the means of the two halves, and that of the split that leaks."""

    def areas(train: Integers, tests: list[Integers]) -> list[float]:
        scores = transform_scores(fitted(recipe, mean(features[train])), mean(features))[:, 0]
        return [auroc(scores[test], images.kinds[test] != GOOD) for test in tests]

    found = [areas(*split) for split in images.splits()]
    means = np.mean(found, axis=0)
    if images.name != TILES:
        return f"{means[0]:.3f}"
    leaking = areas(*images.given)[0]
    return f"{means[0]:.3f} ± {np.std(found, axis=0, ddof=1)[0]:.3f} ({means[1]:.3f}, {means[2]:.3f}; {leaking:.3f})"


def _features(folder: Path, images: Images, pose: str, n: int, extractor: Extractor) -> Floats:
    """Float32 (N, T, D), computed where they are not there yet."""
    transforms, path = fixed_transforms(TransformConfig(n, pose)), folder / f"{images.name}-{pose}.npy"
    shape = len(images.uris), n, extractor.config.n_features
    stored = np.lib.format.open_memmap(path, mode="r+" if path.exists() else "w+", dtype=np.float32, shape=shape)
    positions = sampling_positions(transforms.angles, extractor.config.image_size)
    work = extractor if images.name == TILES else _in_bfloat16(extractor)
    for i in np.flatnonzero(~stored[:, -1].any(axis=1)).tolist():
        stored[i] = torch.cat(of_transformed(extractor, images.read(i), transforms, positions, work)).numpy()
    return np.array(stored)


def _in_bfloat16(extractor: Extractor) -> Callable[[Tensor], Tensor]:
    layers = copy.deepcopy(extractor.layers).to(torch.bfloat16)

    def features(images: Tensor) -> Tensor:
        scales = [images[..., :: 2**s, :: 2**s].to(torch.bfloat16, memory_format=torch.channels_last) for s in range(3)]
        return torch.cat([layers(scale).float().mean(dim=(2, 3)) for scale in scales], dim=1)

    return features


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

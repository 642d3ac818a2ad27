"""The magnetic tiles as pixels: decoded once by all cores and kept; at the reduced size, drawn where there are none.

Legend: N images, H x H pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu.setting import Results, Setting
from differnet_ray.archives.images import decode
from differnet_ray.model.metrics import GOOD
from differnet_ray.threads import map_ahead

CATEGORY = "mtd/magnetic_tile"
SMALL_TILES, EXPOSURES, SMALL_DEFECTS = 8, 3, 4


@dataclass(frozen=True)
class Tiles:
    """The images in the order of their URIs, training images first.

    Attributes:
        pixels: uint8 (N, H, H, 3), on disk until they are read.
        names: file names.
        kinds: of defect; `good` is none.
        n_train: so many of the first are the training images of the published split, the rest its test images.
    """

    pixels: npt.NDArray[np.uint8]
    names: list[str]
    kinds: npt.NDArray[np.str_]
    n_train: int

    def image(self, position: int) -> Tensor:
        """Pixels (H, H, 3) in main memory."""
        return torch.from_numpy(np.array(self.pixels[position]))

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        """Several images: what a feature bank reads with."""
        return [self.image(position) for position in positions]

    @property
    def is_anomaly(self) -> npt.NDArray[np.bool_]:
        """(N,), true for defects."""
        return np.asarray(self.kinds != GOOD)

    def sample(self, good: int, defective: int) -> list[int]:
        """Positions of so many good and defective test images, evenly spread over each."""
        test = np.arange(len(self.names)) >= self.n_train
        found = []
        for n, of in ((good, test & ~self.is_anomaly), (defective, test & self.is_anomaly)):
            among = np.flatnonzero(of)
            found += among[np.linspace(0, len(among) - 1, min(n, len(among))).astype(int)].tolist()
        return found


def tiles(setting: Setting, size: int | None = None) -> Tiles:
    """The tiles at a size in pixels (that of the preset `paper` if None), decoded if they are not there yet."""
    size = size or setting.recipe().extractor.image_size
    pixels, names = setting.work / f"tiles-{size}.npy", setting.work / f"tiles-{size}.json"
    if not names.is_file():
        files = _files(setting)
        decoded = map_ahead(lambda path: decode(path.read_bytes(), size=size).pixels, files, os.cpu_count() or 1)
        array = np.lib.format.open_memmap(pixels, "w+", np.uint8, (len(files), size, size, 3))
        for row, image in zip(array, decoded, strict=True):
            row[:] = image
        array.flush()
        names.write_text(json.dumps([str(path) for path in files]))  # last: now they are there
    paths = [Path(path) for path in json.loads(names.read_text())]
    kinds = np.array([path.parent.name for path in paths])
    n_train = sum(path.parent.parent.name == "train" for path in paths)
    return Tiles(np.load(pixels, mmap_mode="r"), [path.name for path in paths], kinds, n_train)


def run(setting: Setting) -> None:
    """The step `decode`."""
    found = tiles(setting)
    Results(setting.out, "decode").add(
        "images", n=len(found.names), train=found.n_train, defects=int(found.is_anomaly.sum()), pixels=found.pixels.shape[1]
    )


def _files(setting: Setting) -> list[Path]:
    root = setting.data / CATEGORY
    if setting.small and not root.is_dir():
        root = setting.work / CATEGORY
        _draw(root)
    train = sorted(root.glob("train/good/*"))
    test = sorted(root.glob("test/*/*"))
    if not train or not test:
        raise FileNotFoundError(
            f"{root} holds no train/good/* or no test/*/*: unpack data.tar.gz, or name the folder with --data"
        )
    if not setting.small:
        return train + test
    by_kind = [[path for path in test if path.parent.name == kind] for kind in sorted({path.parent.name for path in test})]
    return train[: SMALL_TILES * EXPOSURES] + [path for paths in by_kind for path in paths[:SMALL_DEFECTS]]


def _draw(root: Path) -> None:
    """Tiles of noise, each at some exposures, one of them a test image; and as many with a bright square as there are kinds."""
    rng = np.random.default_rng(0)
    for tile in range(SMALL_TILES):
        plain = rng.normal(120, 20, (80, 72))
        for exposure in range(EXPOSURES + 1):
            split = "train" if exposure < EXPOSURES else "test"
            _save(
                root / split / "good" / f"exp{exposure + 1}_num_{1000 * tile + 3 * exposure}.jpg",
                plain * (0.8 + 0.1 * exposure),
            )
    for i in range(SMALL_DEFECTS):
        for kind in ("blowhole", "crack"):
            marked = rng.normal(120, 20, (80, 72))
            marked[20:44, 20:44] = 235
            _save(root / "test" / kind / f"exp1_num_{90000 + 1000 * i}.jpg", marked)


def _save(path: Path, grey: npt.NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(path, quality=95)

"""The magnetic tiles of DIFFERNET_TEST_DATA with the real AlexNet weights: what the quality figures are measured on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import Listing, defects, list_images
from differnet_ray.config import Recipe, preset
from differnet_ray.experiments.cells import train_kind
from differnet_ray.experiments.features import FeatureStore, Floats, images_of, parts_of
from differnet_ray.experiments.published import TILES
from differnet_ray.model.extractor import Extractor, load_backbone_weights, weights_digest
from differnet_ray.pipeline.stages import best_device
from differnet_ray.storage.files import read_bytes
from differnet_ray.storage.locations import canonical

WEIGHTS = "weights/alexnet-imagenet1k-v1-features.safetensors"


def data_folder() -> Path:
    """The folder of weights and tiles; ends the program where there is none."""
    folder = Path(os.environ.get("DIFFERNET_TEST_DATA", ""))
    if not (folder / WEIGHTS).is_file():
        sys.exit("DIFFERNET_TEST_DATA must name the folder that holds weights/ and mtd/")
    return folder


def listing() -> Listing:
    """All images of the tiles."""
    return list_images([str(data_folder() / "mtd")])


def recipe() -> Recipe:
    """The published one for the tiles: brightness and contrast 0.15."""
    return preset("paper").override(brightness=0.15, contrast=0.15)


def extractor(of: Recipe) -> Extractor:
    """With the real weights, on the best device."""
    return Extractor(of.extractor, load_backbone_weights(str(data_folder() / WEIGHTS))[0]).to(best_device())


def images(split: str, every: int) -> tuple[Tensor, npt.NDArray[np.str_]]:
    """Every so many-th image of a split, uint8 (N, 448, 448, 3), with its kind."""
    rows = images_of(listing(), TILES, split)
    rows = rows.take(list(range(0, rows.num_rows, every)))
    pixels = [torch.from_numpy(decode(read_bytes(uri), size=448).pixels) for uri in rows["uri"].to_pylist()]
    return torch.stack(pixels), np.array(defects(rows))


def stored_recipe() -> Recipe:
    """The sizes that the studies on stored features are run at: T = 32, 32 random transforms of each training image."""
    return recipe().override(n_transforms=32, fresh_epochs=8)


def stored_features(output: str, of: Recipe | None = None) -> tuple[Floats, Floats, npt.NDArray[np.str_]]:
    """Features that a fit takes (N, t, D), those of the test images (M, T, D) and kinds, from the output of `reproduce`."""
    of = of or stored_recipe()
    weights, _ = load_backbone_weights(str(data_folder() / WEIGHTS))
    store = FeatureStore.at(canonical(output), of, weights_digest(weights))
    kinds = {"train": train_kind(of, transformed=True), "test": "fixed"}
    parts = {split: parts_of(listing(), TILES, split, kind) for split, kind in kinds.items()}
    missing = [part for part in [*parts["train"], *parts["test"]] if not store.has(part)]
    if missing:
        options = "--preset pooled" if of.transforms.pooled else "--preset paper --fresh-epochs 8"
        sys.exit(
            f"{output} lacks {len(missing)} parts of the features: run `differnet-ray reproduce --experiment table2 {options} "
            f"--transforms 32 --data {data_folder()}/mtd --output {output}` first"
        )
    test, usable = store.read(parts["test"])
    return store.read(parts["train"])[0], test, np.array(defects(images_of(listing(), TILES, "test")))[usable]

"""Features of a labelled data set, computed once and shared by everything that an experiment fits on them.

Legend: N images, B transforms of an image's bank, T transforms at scoring, D features.

A part is the features of some images of one category under the transforms of one kind:

    bankB   B random transforms of each training image: the feature bank of `model/fitting.py`, laid down
    still   the image itself, of training and test images: the ablation's rows without transforms
    fixed   the T transforms of the fixed set, of test images, and of training images where features are pooled

    OUTPUT/features/DIGEST/CATEGORY-IMAGES/PART.safetensors      features (n, t, D) float32, and which images are usable

A part is written whole, so an interrupted experiment goes on where it was. DIGEST names all that decides a feature apart
from the images, IMAGES is the digest of the category's listing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.numpy import load, save

from differnet_ray.archives.fetch import decoded_images
from differnet_ray.archives.manifest import Listing, select
from differnet_ray.config import Recipe
from differnet_ray.errors import DifferNetError, ImageError, StorageError
from differnet_ray.experiments.cells import BANK
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.transforms import TransformSet, fixed_transforms, random_transforms
from differnet_ray.pipeline.loaded_models import as_tensors
from differnet_ray.storage.files import exists, read_bytes, write_bytes
from differnet_ray.storage.locations import join, name_of
from differnet_ray.store.stored_model import Arrays

CODE_VERSION = 2  # grows when a change of the code changes a feature: what was stored before is then not used again
IMAGES_PER_PART = 16
BANK_STREAM = 3  # of the random numbers of an image's bank
STILL = TransformSet((0.0,), (1.0,), (1.0,))
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """The features of the images `start` to `stop` of a split of a category, under the transforms of a kind."""

    category: str
    images: str
    split: str
    kind: str
    start: int
    stop: int

    @property
    def file(self) -> str:
        """Its path below the folder of the features."""
        return f"{quote(self.category, safe='')}-{self.images}/{self.split}-{self.kind}-{self.start:06d}.safetensors"


@dataclass(frozen=True)
class FeatureStore:
    """Where the features of a data set lie, as plain values.

    Attributes:
        folder: canonical URI; its name differs wherever a feature would.
        recipe: of the images, the extractor and the transforms.
    """

    folder: str
    recipe: Recipe

    @staticmethod
    def at(output: str, recipe: Recipe, backbone_digest: str) -> FeatureStore:
        """The store for a recipe and a backbone below the canonical URI of an experiment's output."""
        what = {
            "code": CODE_VERSION,
            "backbone": backbone_digest,
            "images": asdict(recipe.images),
            "extractor": asdict(recipe.extractor),
            "transforms": asdict(replace(recipe.transforms, pooled=False)),  # pooled or not, a feature is the same
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        return FeatureStore(join(output, "features", digest), recipe)

    @property
    def name(self) -> str:
        """The digest of all that decides a feature apart from the images."""
        return name_of(self.folder)

    def has(self, part: Part) -> bool:
        """Whether a part was written."""
        return exists(join(self.folder, part.file))

    def extract(self, part: Part, rows: pa.Table, weights: Arrays, device: str) -> None:
        """Computes and writes a part.

        Args:
            part: which.
            rows: manifest rows of its images.
            weights: of the backbone.
            device: such as `cpu` or `cuda`.

        Raises:
            StorageError: an image cannot be fetched, or the part not be written. (One that cannot be decoded is left out.)
        """
        extractor = Extractor(self.recipe.extractor, as_tensors(weights)).to(device)
        usable, features = [], []
        images = decoded_images(rows, [self.recipe.image_form] * rows.num_rows)
        for position, image in enumerate(images, part.start):
            if isinstance(image, ImageError) and image.status == "missing":
                raise StorageError(f"an image was listed, but is no longer there: run the same command again ({image})")
            if isinstance(image, StorageError):
                raise image
            usable.append(not isinstance(image, DifferNetError))
            if not isinstance(image, DifferNetError):
                transforms = self._transforms(part.kind, position)
                pixels = torch.from_numpy(image.pixels)
                features.append(transformed_features(extractor, pixels, transforms).cpu().numpy())
        stacked = np.stack(features) if features else np.empty((0, 0, self.recipe.extractor.n_features), np.float32)
        write_bytes(join(self.folder, part.file), save({"features": stacked, "usable": np.array(usable, np.uint8)}))

    def read(self, parts: Sequence[Part]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Reads parts.

        Returns:
            Features (N, t, D) of the usable images of the parts, in order, and bool (M,): which of all their images are.
        """
        found = [load(read_bytes(join(self.folder, part.file))) for part in parts]
        features = [part["features"] for part in found if len(part["features"])] or [found[0]["features"]]
        return np.concatenate(features), np.concatenate([part["usable"] for part in found]).astype(bool)

    def _transforms(self, kind: str, position: int) -> TransformSet:
        if kind == "still":
            return STILL
        if kind == "fixed":
            return fixed_transforms(self.recipe.transforms)
        rng = np.random.default_rng([position, BANK_STREAM])
        return random_transforms(self.recipe.transforms, int(kind.removeprefix(BANK)), rng)


def parts_of(listing: Listing, category: str, split: str, kind: str) -> list[Part]:
    """The parts that hold a kind of features of a split of a category."""
    images = select(listing, categories=[category]).digest()[:16]
    n = images_of(listing, category, split).num_rows
    starts = range(0, n, IMAGES_PER_PART)
    return [Part(category, images, split, kind, start, min(start + IMAGES_PER_PART, n)) for start in starts]


def images_of(listing: Listing, category: str, split: str) -> pa.Table:
    """Manifest rows of the good training images, or of all test images, of a category."""
    return select(listing, categories=[category], split=split, defect=GOOD if split == "train" else None).table


def all_parts(listing: Listing, kinds: Sequence[tuple[str, str]]) -> Iterator[Part]:
    """The parts of all categories for pairs of split and kind."""
    for category in listing.categories:
        for split, kind in kinds:
            yield from parts_of(listing, category, split, kind)

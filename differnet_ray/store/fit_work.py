"""What a fit leaves behind while it works, so that the same command goes on where a killed one was.

    MODELS/_fit/CATEGORY-FINGERPRINT/images.json              what its images are like; written once
    MODELS/_fit/CATEGORY-FINGERPRINT/pose.json                what decided the pose, where it was not given; written once
    MODELS/_fit/CATEGORY-FINGERPRINT/groups.json              the group of each image; written once
    MODELS/_fit/CATEGORY-FINGERPRINT/checkpoint.safetensors   the last checkpoint; replaced whole
    SCRATCH/CATEGORY-FINGERPRINT/{BLOCK,checksums-BLOCK}.npy  blocks of feature banks, on a disk of the worker

FINGERPRINT stands for all that decides the model, so that a changed thing never goes on from another's work. The model
store is shared by all nodes; the scratch folder need not be: what another node lacks it computes again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from differnet_ray.errors import StorageError
from differnet_ray.storage.files import delete, read_bytes, write_bytes
from differnet_ray.storage.locations import join

WORK_FOLDER, META = "_fit", "meta"


def default_scratch() -> str:
    """A folder of this user below the one for temporary files."""
    return str(Path(tempfile.gettempdir()) / f"differnet-ray-{os.getuid()}")


class FitWork:
    """The work in progress of one category.

    Args:
        models: canonical URI of the model store.
        category: its name.
        fingerprint: of all that decides the model.
        scratch: local folder for feature banks.
    """

    def __init__(self, models: str, category: str, fingerprint: str, scratch: str) -> None:
        self.uri = join(models, WORK_FOLDER, f"{category}-{fingerprint[:16]}")
        self._blocks = Path(scratch) / f"{quote(category, safe='')[:100]}-{fingerprint[:16]}"

    def images(self) -> dict[str, Any] | None:
        """What its images are like: the fields of `FitImages`; None if that has not been found out yet."""
        found = self._values("images.json")
        return found and {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}

    def save_images(self, images: Mapping[str, Any]) -> None:
        """Notes what its images are like."""
        write_bytes(join(self.uri, "images.json"), json.dumps(images).encode())

    def groups(self) -> list[int] | None:
        """The group of each usable image; None if that has not been found out yet."""
        found: list[int] | None = self._values("groups.json")
        return found

    def save_groups(self, groups: Sequence[int]) -> None:
        """Notes the groups."""
        write_bytes(join(self.uri, "groups.json"), json.dumps(list(groups)).encode())

    def pose(self) -> dict[str, Any] | None:
        """What decided the pose, as it was saved; None if that has not been found out yet."""
        found: dict[str, Any] | None = self._values("pose.json")
        return found

    def save_pose(self, found: Mapping[str, Any]) -> None:
        """Notes what decided the pose."""
        write_bytes(join(self.uri, "pose.json"), json.dumps(found).encode())

    def checkpoint(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """Arrays and values of the last checkpoint; None if there is none that can be read."""
        try:
            arrays = load(read_bytes(join(self.uri, "checkpoint.safetensors")))
            return arrays, json.loads(arrays.pop(META).tobytes())
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None

    def save_checkpoint(self, arrays: Mapping[str, npt.NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Replaces the checkpoint."""
        meta = np.frombuffer(json.dumps(values).encode(), np.uint8)
        stored = {name: np.asarray(array, order="C") for name, array in {**arrays, META: meta}.items()}
        write_bytes(join(self.uri, "checkpoint.safetensors"), save(stored))

    def block(self, name: str, shape: tuple[int, int, int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32]]:
        """Features and checksums of a block of the bank, mapped to files; zero where they are new or of another shape.

        Raises:
            StorageError: the scratch folder cannot be written, or is full.
        """
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
            checksums = _mapped(self._blocks / f"checksums-{name}.npy", shape[1:2], np.uint32)
            return _mapped(self._blocks / f"{name}.npy", shape, np.float32), checksums
        except OSError as error:
            size = 4 * np.prod(shape, dtype=np.int64) / 2**30
            raise StorageError(
                f"cannot keep {size:.1f} GiB of features in {self._blocks}: {error}; free the disk or name another folder "
                "with --scratch"
            ) from error

    def _values(self, name: str) -> Any:
        try:
            return json.loads(read_bytes(join(self.uri, name)))
        except (FileNotFoundError, ValueError):
            return None

    def delete(self) -> None:
        """Removes all of it."""
        delete(self.uri)
        shutil.rmtree(self._blocks, ignore_errors=True)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r+")
        reusable = array.shape == shape and array.dtype == dtype
    except (FileNotFoundError, ValueError):  # ValueError: a kill cut its header off
        reusable = False
    if not reusable:
        array = np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype)
    with path.open("r+b") as file:  # all of its space now: a mapped page that finds no room later kills the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array

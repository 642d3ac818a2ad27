"""The model store: versioned models of all categories, complete before they are visible, checked when they are read.

    MODELS/backbones/NAME-DIGEST.safetensors     the frozen extractor, stored once
    MODELS/CATEGORY/VERSION/model.json           all that scoring needs, and where it came from; written last
    MODELS/CATEGORY/VERSION/flow.safetensors
    MODELS/CATEGORY/VERSION/calibration.parquet  scores of the good images that calibrate
    MODELS/CATEGORY/VERSION/card.md, curves.png  the same for people
    MODELS/CATEGORY/latest.json                  names the version in use; replaced atomically

What belongs to a version is written once and never over another's; `promote` names another version as the one in use.
Arrays are NumPy here; `pipeline/stages.py` turns them into tensors. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from differnet_ray.config import Recipe
from differnet_ray.errors import ConfigError, ModelStoreError
from differnet_ray.storage.files import exists, list_folders, read_bytes, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.card import card
from differnet_ray.store.stored_model import Arrays, Backbone, Decision, Lineage, StoredModel
from differnet_ray.tables import CALIBRATION, check_category, conform

SCHEMA_VERSION = 1
BACKBONES, LATEST, MODEL, FLOW, CALIBRATION_FILE, CARD, CURVES = (
    "backbones",
    "latest.json",
    "model.json",
    "flow.safetensors",
    "calibration.parquet",
    "card.md",
    "curves.png",
)
ADDED: dict[str, Any] = {"fingerprint": "", "resumed": [], "notes": [], "peak_memory": 0}
ADDED |= dict.fromkeys(("test", "n_groups", "separation", "calibrated"))


class ModelStore:
    """The models below a canonical URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def categories(self) -> list[str]:
        """Categories with a model in use, sorted."""
        names = [n for n in list_folders(self.uri) if n != BACKBONES and not n.startswith((".", "_"))]
        return [name for name in names if exists(join(self.uri, name, LATEST))]

    def versions(self, category: str) -> list[str]:
        """Complete versions of a category, oldest first."""
        folders = list_folders(join(self.uri, category))
        return [version for version in folders if exists(join(self.uri, category, version, MODEL))]

    def latest(self, category: str) -> str:
        """The version of a category in use.

        Raises:
            ModelStoreError: there is none.
        """
        check_category(category)
        try:
            return str(json.loads(read_bytes(join(self.uri, category, LATEST)))["version"])
        except FileNotFoundError as error:
            known = ", ".join(self.categories()) or "none"
            raise ModelStoreError(f"no model of category {category!r} in {self.uri}; it has: {known}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelStoreError(f"{join(self.uri, category, LATEST)} is damaged: expected JSON with a version") from error

    def record(self, category: str, version: str | None = None) -> dict[str, Any]:
        """The content of model.json, of the version in use if none is named.

        Raises:
            ModelStoreError: there is no such version, or its record is damaged.
        """
        check_category(category)  # a name from outside must not lead out of the store
        version = self.latest(category) if version is None else version
        if not re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", version):
            raise ModelStoreError(f"{version!r} is not a version: expected YYYYMMDDTHHMMSSZ-DIGEST8, as `models list` shows")
        uri = join(self.uri, category, version, MODEL)
        try:
            record: dict[str, Any] = json.loads(read_bytes(uri))
        except FileNotFoundError as error:
            known = ", ".join(self.versions(category)) or "none"
            raise ModelStoreError(f"no version {version!r} of category {category!r}; there are: {known}") from error
        except ValueError as error:
            raise ModelStoreError(f"{uri} is damaged: not JSON ({error})") from error
        if not isinstance(record, dict) or record.get("version") != version:
            raise ModelStoreError(f"{uri} is damaged: expected a JSON object with version {version!r}")
        if record.get("schema_version") != SCHEMA_VERSION:
            raise ModelStoreError(f"{uri} has schema version {record.get('schema_version')!r}, expected {SCHEMA_VERSION}")
        return record

    def load(self, category: str, version: str | None = None) -> StoredModel:
        """A model with all its arrays, digests checked.

        Raises:
            ModelStoreError: it is missing, incomplete or damaged; names the file.
        """
        record = self.record(category, version)
        folder = join(self.uri, category, record["version"])
        try:
            backbone = Backbone(**record["backbone"])
            weights_uri = join(self.uri, BACKBONES, backbone.file)
            files = {name: _checked(join(folder, name), record["files"][name]) for name in (FLOW, CALIBRATION_FILE)}
            weights = _arrays(weights_uri, _checked(weights_uri, record["files"][backbone.file]))
            model = StoredModel(
                category=category,
                recipe=Recipe.from_dict(record["recipe"]),
                transforms={key: tuple(value) for key, value in record["transforms"].items()},
                backbone=backbone,
                decision=Decision(**{"n_groups": record["decision"]["n_images"]} | record["decision"]),
                lineage=_lineage(record["lineage"]),
                flow=_arrays(join(folder, FLOW), files[FLOW]),
                weights=weights,
                calibration=pq.read_table(io.BytesIO(files[CALIBRATION_FILE])),
                version=record["version"],
                digest=record["digest"],
            )
        except (KeyError, TypeError, AttributeError, ConfigError, pa.ArrowException) as error:
            raise ModelStoreError(f"{join(folder, MODEL)} is damaged: {type(error).__name__}: {error}") from error
        if _digest(record) != record["digest"]:
            raise ModelStoreError(f"{join(folder, MODEL)} is damaged: its content does not have the digest that it states")
        return model

    def calibration(self, category: str, version: str | None = None) -> pa.Table:
        """The scores of unseen good images that a model's thresholds were found on: `tables.CALIBRATION`.

        Raises:
            ModelStoreError: it is missing or damaged.
        """
        record = self.record(category, version)
        uri = join(self.uri, category, record["version"], CALIBRATION_FILE)
        try:
            return pq.read_table(io.BytesIO(_checked(uri, record["files"][CALIBRATION_FILE])))
        except (KeyError, TypeError, pa.ArrowException) as error:
            raise ModelStoreError(f"{uri} is damaged: {type(error).__name__}: {error}") from error

    def publish(self, model: StoredModel) -> str:
        """Stores a model whole, then makes it the one in use.

        Returns:
            Its version, `YYYYMMDDTHHMMSSZ-DIGEST8`.

        Raises:
            StorageError: something could not be written; what was in use stays in use.
            ModelStoreError: other content has the version already.
        """
        check_category(model.category)
        sink = io.BytesIO()
        pq.write_table(conform(model.calibration, CALIBRATION.schema), sink)
        files = {FLOW: save(_contiguous(model.flow)), CALIBRATION_FILE: sink.getvalue()}
        weights = save(_contiguous(model.weights))
        now = datetime.now(UTC)
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "category": model.category,
            "created_at": now.isoformat(timespec="seconds"),
            "recipe": model.recipe.to_dict(),
            "transforms": model.transforms,
            "backbone": asdict(model.backbone),
            "decision": asdict(model.decision),
            "lineage": asdict(model.lineage),
            "curves": CURVES if model.curves else None,
            "files": {name: _sha256(data) for name, data in files.items()} | {model.backbone.file: _sha256(weights)},
        }
        record["digest"] = _digest(record)
        version = f"{now:%Y%m%dT%H%M%SZ}-{record['digest'][:8]}"
        record["version"] = version
        folder = join(self.uri, model.category, version)
        _keep_backbone(join(self.uri, BACKBONES, model.backbone.file), weights)
        for name, data in files.items():
            if not _create(join(folder, name), data) and _sha256(read_bytes(join(folder, name))) != record["files"][name]:
                raise ModelStoreError(f"{join(folder, name)} is there already, with other content; remove {folder}, fit again")
        if model.curves:
            _create(join(folder, CURVES), model.curves)
        _create(join(folder, CARD), card(record).encode())
        if (
            not _create(join(folder, MODEL), _json(record))
            and _digest(self.record(model.category, version)) != record["digest"]
        ):
            raise ModelStoreError(f"{join(folder, MODEL)} is there already, of another digest: fit again")
        self._use(model.category, version)
        return version

    def promote(self, category: str, version: str) -> None:
        """Makes a version the one in use, after its digests have been checked.

        Raises:
            ModelStoreError: it is missing, incomplete or damaged; what was in use stays in use.
        """
        self.load(category, version)
        self._use(category, version)

    def find(self, category: str, fingerprint: str) -> dict[str, Any] | None:
        """The record of a model of this fingerprint: the one in use, else the newest; None where there is none.

        Its files are not read: a damaged one is found when it is loaded.
        """
        check_category(category)
        in_use = ""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # none, or damaged; `latest` would list all others
            in_use = json.loads(read_bytes(join(self.uri, category, LATEST)))["version"]
        for version in sorted(self.versions(category), key=lambda version: (version == in_use, version), reverse=True):
            with suppress(ModelStoreError, KeyError, TypeError):  # damaged, or older than fingerprints
                record = self.record(category, version)
                if record["lineage"]["fingerprint"] == fingerprint:
                    return record
        return None

    def _use(self, category: str, version: str) -> None:
        write_bytes(join(self.uri, category, LATEST), _json({"version": version}))


def same_scores(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records give every image the same score: they differ in how scores are decided, and mapped, at most."""
    kinds = [
        (
            {
                name: part
                for name, part in vars(Recipe.from_dict(record["recipe"])).items()
                if name not in ("calibration", "maps")
            },
            record["transforms"],
            record["backbone"],
            record["files"][FLOW],
        )
        for record in (one, other)
    ]
    return kinds[0] == kinds[1]


def _create(uri: str, data: bytes) -> bool:
    """Writes a file of a version; false where another fit of the same second and digest was first."""
    try:
        write_bytes(uri, data, create_only=True)
    except FileExistsError:
        return False
    return True


def _keep_backbone(uri: str, weights: bytes) -> None:
    if not exists(uri):
        with suppress(FileExistsError):  # another fit was first
            write_bytes(uri, weights, create_only=True)
    if _sha256(read_bytes(uri)) != _sha256(weights):  # it is damaged
        write_bytes(uri, weights)


def _lineage(values: Mapping[str, Any]) -> Lineage:
    """Lineage of a record; the oldest ones lack the fields of `ADDED`."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (ADDED | dict(values)).items()
    }
    return Lineage(**fields)


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of all in a record that decides scores and decisions; times, paths and library versions do not."""
    decisive = {key: record[key] for key in ("recipe", "transforms", "backbone", "decision", "files")}
    return _sha256(json.dumps(decisive, sort_keys=True).encode())


def _checked(uri: str, expected: str) -> bytes:
    try:
        data = read_bytes(uri)
    except FileNotFoundError as error:
        raise ModelStoreError(f"{uri} is missing: the model is incomplete") from error
    if _sha256(data) != expected:
        raise ModelStoreError(
            f"{uri} is damaged: its SHA-256 is not the one in model.json; restore it, or fit again with --no-resume"
        )
    return data


def _arrays(uri: str, data: bytes) -> Arrays:
    try:
        return load(data)
    except SafetensorError as error:
        raise ModelStoreError(f"{uri} is damaged: not a safetensors file ({error})") from error


def _contiguous(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()

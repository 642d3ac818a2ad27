"""What is damaged, missing or half written in the model store is found and named; what was in use stays in use."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stored_models import PARTS, a_model, assert_same, folder, stored

from differnet_ray.config import Recipe
from differnet_ray.errors import DifferNetError, ModelStoreError, StorageError
from differnet_ray.storage import files as storage
from differnet_ray.storage.locations import canonical
from differnet_ray.store import model_store
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone


def edit(path: Path, **changes: Any) -> None:
    """Changes top-level entries of a JSON file; those set to None are removed."""
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}, indent=2))


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("part", ["flow.safetensors", "calibration.parquet", "backbone"])
def test_a_flipped_bit_is_found_and_the_file_is_named(part: str, where: float, store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), part)
    data = bytearray(path.read_bytes())
    data[round(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path} is damaged")):
        store.load("screw")


@pytest.mark.parametrize("part", ["flow.safetensors", "calibration.parquet", "backbone"])
@pytest.mark.parametrize("keep", [0, 1, 0.5])
def test_a_truncated_file_is_found_and_named(part: str, keep: float, store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), part)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else -1])
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path} is damaged")):
        store.load("screw")


@pytest.mark.parametrize("part", ["flow.safetensors", "calibration.parquet", "backbone"])
def test_a_missing_file_is_named(part: str, store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), part)
    path.unlink()
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path} is missing: the model is incomplete")):
        store.load("screw")


def test_no_flipped_bit_of_the_record_changes_what_is_scored(store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "model.json")
    original = path.read_bytes()
    for at in range(0, len(original), 17):
        data = bytearray(original)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        try:
            loaded = store.load("screw")
        except ModelStoreError:
            continue
        assert_same(loaded, a_model(), lineage=False)  # what does not decide scores has no digest


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": asdict(replace(a_model().decision, threshold=2.0000001))},
        {"transforms": {**a_model().transforms, "angles": [0.0, 0.1, 0.3]}},
        {"recipe": Recipe().override(epochs=3).to_dict()},
        {"recipe": {"flow": {"hidden": -1}}},
        {"recipe": {"flow": {"width": 16}}},
        {"recipe": 7},
        {"digest": "0" * 64},
        {"files": {}},
        {"backbone": {"name": "x"}},
        {"decision": None},
        {"decision": {key: value for key, value in asdict(a_model().decision).items() if key != "extrapolated"}},
        {"lineage": None},
        {"digest": None},
    ],
    ids=str,
)
def test_a_changed_record_is_found_and_named(changes: dict[str, Any], store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "model.json")
    edit(path, **changes)
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path} is damaged")):
        store.load("screw")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\xfd",
        *(pytest.param(value) for value in (b"[]", b"null", b"7", b'{"schema_version": 1}')),
    ],
)
def test_a_record_that_is_no_record_is_damaged(content: bytes, store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "model.json")
    path.write_bytes(content)
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path}")):
        store.load("screw")


def test_a_record_of_another_schema_version_is_refused(store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "model.json")
    edit(path, schema_version=2)
    with pytest.raises(ModelStoreError, match=r"model.json has schema version 2, expected 1"):
        store.load("screw")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'"2026"', b'{"version"', b'{"Version": "x"}'])
def test_a_damaged_pointer_is_named(content: bytes, store: ModelStore) -> None:
    version = store.publish(a_model())
    path = folder(store, "screw", "latest.json")
    path.write_bytes(content)
    with pytest.raises(ModelStoreError, match=re.escape(f"file://{path} is damaged: expected JSON with a version")):
        store.load("screw")
    assert_same(store.load("screw", version), a_model())


def test_fitting_again_mends_a_damaged_backbone(store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "backbone")
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    with pytest.raises(ModelStoreError, match="fit again"):
        store.load("screw")
    store.publish(a_model())
    assert_same(store.load("screw"), a_model())


def test_names_that_lead_out_of_the_store_are_refused(store: ModelStore, tmp_path: Path) -> None:
    ModelStore(canonical(str(tmp_path / "elsewhere"))).publish(a_model())
    store.publish(a_model("nut"))
    with pytest.raises(DifferNetError):
        store.load("../elsewhere/screw")


# --- publishing that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5, 6])
def test_a_failed_publication_leaves_the_version_in_use(
    fails_at: int, store: ModelStore, clock: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.publish(a_model(seed=1))
    clock[0] = datetime(2026, 2, 1, tzinfo=UTC)
    write, calls = storage.write_bytes, []

    def failing(uri: str, data: bytes, **how: Any) -> None:
        calls.append(uri)
        if len(calls) == fails_at:
            raise StorageError(f"cannot write {uri}: the disk is full")
        write(uri, data, **how)

    other = a_model(seed=2, backbone=Backbone("other", "1" * 64, True))  # so that a backbone is written, too
    with monkeypatch.context() as patch:
        patch.setattr(model_store, "write_bytes", failing)
        with pytest.raises(StorageError, match="the disk is full"):
            store.publish(other)
    assert len(calls) == fails_at
    assert store.latest("screw") == version
    assert_same(store.load("screw"), a_model(seed=1))
    assert store.versions("screw") == [version, *([] if fails_at < 6 else [calls[-2].split("/")[-2]])]
    assert store.publish(other) != version
    assert_same(store.load("screw"), other)


def test_the_record_comes_last_but_for_the_pointer(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(uri: str, data: bytes, **how: Any) -> None:
        written.append(uri.split("/")[-1])
        storage.write_bytes(uri, data, **how)

    monkeypatch.setattr(model_store, "write_bytes", write)
    store.publish(a_model())
    assert written[-2:] == ["model.json", "latest.json"]
    assert set(written) == {*PARTS, "latest.json", "alexnet-imagenet1k-v1-0123456789abcdef.safetensors"}

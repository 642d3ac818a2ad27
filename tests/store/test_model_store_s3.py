"""The model store on a real S3 server: what is published loads, damage is named, and two publishers do no harm."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from stored_models import a_model, assert_same

from differnet_ray.errors import ModelStoreError
from differnet_ray.storage.files import delete, list_files, read_bytes, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import StoredModel

SECOND = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def store(bucket: str, request: pytest.FixtureRequest) -> ModelStore:
    """An empty model store in a bucket."""
    return ModelStore(join(bucket, request.node.name))


def test_a_published_model_is_loaded_promoted_and_found(store: ModelStore, clock: list[datetime]) -> None:
    assert store.categories() == store.versions("screw") == []
    with pytest.raises(ModelStoreError, match="it has: none"):
        store.latest("screw")
    first = store.publish(a_model(seed=1, curves=b"a picture"))
    clock[0] = SECOND
    second = store.publish(a_model(seed=2, lineage=replace(a_model().lineage, fingerprint="b")))
    store.publish(a_model("nut"))
    assert store.categories() == ["nut", "screw"]
    assert store.versions("screw") == [first, second]
    assert_same(store.load("screw", first), a_model(seed=1))
    assert store.load("screw").version == second
    store.promote("screw", first)
    assert store.latest("screw") == first
    assert (store.find("screw", "b") or {})["version"] == second
    names = {file.uri.removeprefix(f"{store.uri}/screw/{first}/") for file in list_files(join(store.uri, "screw", first))}
    assert names == {"flow.safetensors", "calibration.parquet", "model.json", "card.md", "curves.png"}


def test_a_flipped_bit_is_found_named_and_not_promoted(store: ModelStore, clock: list[datetime]) -> None:
    first = store.publish(a_model(seed=1))
    clock[0] = SECOND
    second = store.publish(a_model(seed=2))
    backbone = join(store.uri, "backbones", a_model().backbone.file)
    for uri in (join(store.uri, "screw", first, "flow.safetensors"), backbone):
        whole = read_bytes(uri)
        write_bytes(uri, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ModelStoreError, match=f"{uri} is damaged"):
            store.promote("screw", first)
        write_bytes(uri, whole)
    delete(join(store.uri, "screw", first, "calibration.parquet"))
    with pytest.raises(ModelStoreError, match=r"calibration\.parquet is missing: the model is incomplete"):
        store.promote("screw", first)
    assert store.latest("screw") == second
    assert_same(store.load("screw"), a_model(seed=2))


def test_two_publishers_at_once_leave_a_store_in_which_all_loads(store: ModelStore, clock: list[datetime]) -> None:
    start, failed = threading.Barrier(3), []

    def publish(model: StoredModel) -> None:
        start.wait()
        try:
            store.publish(model)
        except Exception as error:
            failed.append(error)

    models = [a_model(), a_model(), a_model(seed=1)]
    publishers = [threading.Thread(target=publish, args=(model,)) for model in models]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert failed == []
    assert len(store.versions("screw")) == 2
    assert len(list(list_files(join(store.uri, "backbones")))) == 1
    for version in (None, *store.versions("screw")):
        loaded = store.load("screw", version)
        assert_same(loaded, a_model(seed=loaded.recipe.fit.seed))


def test_the_same_model_published_twice_in_a_second_is_one_version(store: ModelStore, clock: list[datetime]) -> None:
    version = store.publish(a_model())
    before = {file.uri: file.etag for file in list_files(join(store.uri, "screw", version))}
    assert store.publish(a_model(lineage=replace(a_model().lineage, seconds=9.0))) == version
    assert {file.uri: file.etag for file in list_files(join(store.uri, "screw", version))} == before

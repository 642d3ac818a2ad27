"""What is published is loaded again, bit by bit, under a version that its content and time name."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from stored_models import PARTS, a_model, assert_same, folder, stored

from differnet_ray.config import Recipe
from differnet_ray.errors import ConfigError, ModelStoreError
from differnet_ray.storage.files import list_files
from differnet_ray.storage.locations import canonical
from differnet_ray.store.card import card
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import CROSS_FITTED, Backbone
from differnet_ray.tables import CALIBRATION

# --- there and back ---------------------------------------------------------------------------------------------------


def test_a_published_model_is_loaded_as_it_was(store: ModelStore) -> None:
    model = a_model()
    version = store.publish(model)
    loaded = store.load("screw")
    assert_same(loaded, model)
    assert loaded.version == version
    assert loaded.calibration.schema.equals(CALIBRATION.schema)


@settings(max_examples=15, deadline=None)
@given(
    flow=st.dictionaries(
        st.text(min_size=1, max_size=9),
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
        ),
        max_size=3,
    ).filter(lambda flow: "__metadata__" not in flow),
    threshold=st.floats(allow_nan=False),
    angles=st.lists(st.floats(-4, 4), min_size=1, max_size=3),
)
def test_any_arrays_and_numbers_come_back_bit_by_bit(
    flow: dict[str, Any], threshold: float, angles: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = ModelStore(canonical(str(tmp_path_factory.mktemp("models"))))
    model = a_model(
        flow=flow,
        transforms={"angles": tuple(angles), "brightness": (1.0,), "contrast": (1.0,)},
        decision=replace(a_model().decision, threshold=threshold),
    )
    store.publish(model)
    assert_same(store.load("screw"), model)


def test_an_array_of_no_dimensions_stays_one(store: ModelStore) -> None:
    model = a_model(flow={"scale": np.array(3.0, np.float32)})
    store.publish(model)
    assert store.load("screw").flow["scale"].shape == ()


def test_arrays_that_are_not_contiguous_are_stored_right(store: ModelStore) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    model = a_model(flow={"turned": values.T, "strided": values[::2, ::3], "reversed": values[::-1]})
    store.publish(model)
    assert_same(store.load("screw"), model)


def test_a_recipe_of_other_values_comes_back(store: ModelStore) -> None:
    recipe = Recipe().override(image_size=256, n_transforms=3, max_grad_norm=1.0, downsample=2, clamp_alpha=1.5, seed=2**62)
    store.publish(a_model(recipe=recipe))
    assert store.load("screw").recipe == recipe


def test_a_copied_store_at_another_path_holds_the_same_models(store: ModelStore, tmp_path: Path) -> None:
    model = a_model()
    version = store.publish(model)
    shutil.copytree(folder(store), tmp_path / "a copy")
    shutil.rmtree(folder(store))
    loaded = ModelStore(canonical(str(tmp_path / "a copy"))).load("screw")
    assert_same(loaded, model)
    assert loaded.version == version


@pytest.mark.parametrize("category", ["Größe 漢", "100% wool", 'it\'s "quoted"', "a+b&c#?*[x]", "0042"])
def test_any_category_name_has_its_model(category: str, store: ModelStore) -> None:
    model = a_model(category)
    store.publish(model)
    assert store.categories() == [category]
    assert_same(store.load(category), model)


def test_a_category_that_is_no_name_is_not_published(store: ModelStore) -> None:
    for category in ("backbones", "../screw", ""):
        with pytest.raises(ConfigError):
            store.publish(a_model(category))
    assert not folder(store).exists()


# --- versions and digests ---------------------------------------------------------------------------------------------


def test_a_version_is_named_by_time_and_digest(store: ModelStore, clock: list[datetime]) -> None:
    version = store.publish(a_model())
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", version)
    assert version == f"20260131T235958Z-{store.load('screw').digest[:8]}"
    assert sorted(path.name for path in folder(store, "screw", version).iterdir()) == sorted(PARTS)


def test_equal_models_have_equal_digests_at_different_times(store: ModelStore, clock: list[datetime]) -> None:
    first = store.publish(a_model())
    clock[0] = datetime(2026, 2, 1, tzinfo=UTC)
    elsewhere = replace(a_model().lineage, seconds=99.0, device="cuda", data=("/mnt/archive",), libraries={"torch": "3"})
    second = store.publish(a_model(lineage=elsewhere))
    assert first != second
    assert store.load("screw", first).digest == store.load("screw", second).digest
    assert store.versions("screw") == [first, second]


@pytest.mark.parametrize(
    "changes",
    [
        {"flow": {**a_model().flow, "w": np.nextafter(a_model().flow["w"], np.float32(9))}},
        {
            "weights": {"features.0.weight": np.zeros((4, 3, 2, 2), np.float32)},
            "backbone": Backbone("other", "1" * 64, True),
        },
        {"recipe": Recipe().override(sigma=3.5)},
        {"transforms": {**a_model().transforms, "angles": (0.0, 0.1, 0.3)}},
        {"decision": replace(a_model().decision, threshold=2.0000001)},
        {"decision": replace(a_model().decision, map_unit=0.004)},
        {"decision": replace(a_model().decision, extrapolated=True)},
        {"calibration": a_model(seed=1).calibration},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_all_that_decides_a_score_changes_the_digest(changes: dict[str, Any], store: ModelStore) -> None:
    digests = {store.load("screw", store.publish(model)).digest for model in (a_model(), a_model(**changes))}
    assert len(digests) == 2


def test_the_latest_version_is_the_one_in_use_and_older_ones_stay(store: ModelStore, clock: list[datetime]) -> None:
    first = store.publish(a_model(seed=1))
    clock[0] = datetime(2026, 2, 1, tzinfo=UTC)
    second = store.publish(a_model(seed=2))
    assert json.loads(folder(store, "screw", "latest.json").read_text()) == {"version": second}
    assert store.latest("screw") == second
    assert_same(store.load("screw"), a_model(seed=2))
    assert_same(store.load("screw", first), a_model(seed=1))


def test_categories_are_those_with_a_model_in_use(store: ModelStore) -> None:
    assert store.categories() == []
    for category in ("screw", "nut"):
        store.publish(a_model(category))
    for name in (".cache", "_tmp", "unfinished"):
        folder(store, name).mkdir()
    assert store.categories() == ["nut", "screw"]


def test_a_version_without_its_record_is_neither_listed_nor_loaded(store: ModelStore, clock: list[datetime]) -> None:
    complete = store.publish(a_model(seed=1))
    clock[0] = datetime(2026, 2, 1, tzinfo=UTC)
    torn = store.publish(a_model(seed=2))
    stored(store, torn, "model.json").unlink()
    assert store.versions("screw") == [complete]
    with pytest.raises(ModelStoreError, match=f"no version '{torn}' of category 'screw'; there are: {complete}"):
        store.load("screw")
    assert_same(store.load("screw", complete), a_model(seed=1))


def test_an_unknown_category_is_answered_with_the_known_ones(store: ModelStore) -> None:
    with pytest.raises(ModelStoreError, match=r"no model of category 'screw' in .*; it has: none"):
        store.load("screw")
    for category in ("washer", "nut"):
        store.publish(a_model(category))
    with pytest.raises(ModelStoreError, match=r"no model of category 'screw' in .*; it has: nut, washer"):
        store.load("screw")


def test_an_unknown_version_is_answered_with_the_known_ones(store: ModelStore) -> None:
    version = store.publish(a_model())
    with pytest.raises(ModelStoreError, match=f"no version '20200101T000000Z-00000000' .*; there are: {version}"):
        store.load("screw", "20200101T000000Z-00000000")


def test_the_backbone_is_stored_once_for_all_models(store: ModelStore) -> None:
    store.publish(a_model("screw", seed=1))
    (path,) = folder(store, "backbones").iterdir()
    assert path.name == "alexnet-imagenet1k-v1-0123456789abcdef.safetensors"
    before = path.stat().st_mtime_ns, path.read_bytes()
    store.publish(a_model("nut", seed=2))
    assert list(folder(store, "backbones").iterdir()) == [path]
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert_same(store.load("nut"), a_model("nut", seed=2))


# --- what lies in the store -------------------------------------------------------------------------------------------


def test_no_file_of_the_store_is_a_pickle_or_a_zip(store: ModelStore) -> None:
    store.publish(a_model())
    files = list(list_files(store.uri))
    assert len(files) == 6
    for file in files:
        start = Path(file.uri.removeprefix("file://")).read_bytes()[:2]
        assert start != b"PK", file.uri
        assert start[:1] != b"\x80", file.uri


def test_the_record_is_plain_json_with_the_lineage(store: ModelStore) -> None:
    version = store.publish(a_model())
    record = store.record("screw")
    assert record == json.loads(stored(store, version, "model.json").read_text())
    assert (record["category"], record["version"], record["schema_version"]) == ("screw", version, 1)
    assert datetime.fromisoformat(record["created_at"]).utcoffset() is not None
    assert record["lineage"]["listing_digest"] == "f" * 64
    assert set(record["files"]) == {"flow.safetensors", "calibration.parquet", a_model().backbone.file}
    assert "Infinity" not in json.dumps(record)


def test_calibration_scores_are_a_table_that_others_read(store: ModelStore) -> None:
    path = stored(store, store.publish(a_model()), "calibration.parquet")
    assert pq.read_table(path).to_pylist() == a_model().calibration.to_pylist()


def test_the_card_tells_people_the_threshold_and_what_it_rests_on(store: ModelStore) -> None:
    text = stored(store, store.publish(a_model()), "card.md").read_text()
    assert text == card(store.record("screw"))
    assert "| threshold | 2.0000 |" in text
    assert "| review from | 1.5000 |" in text
    assert "\nThe threshold rests on 5 held-out good images: at most 16.7 % of good images are flagged.\n" in text
    assert "1 fit in 4 s on cpu" in text
    assert "fold" not in text
    assert "20 fitted, 5 held out, 1 skipped" in text
    assert "alexnet-imagenet1k-v1" in text
    assert "untrained" not in text


def test_the_card_tells_people_what_cross_fitting_costs_and_that_its_bound_is_approximate(store: ModelStore) -> None:
    lineage = replace(a_model().lineage, n_fitted=25, n_held_out=0, n_fits=6)
    decision = replace(a_model().decision, n_images=25, method=CROSS_FITTED)
    text = stored(store, store.publish(a_model(decision=decision, lineage=lineage)), "card.md").read_text()
    assert "25 fitted, 0 held out, 1 skipped" in text
    assert "6 fits in 4 s" in text
    assert "a flow fitted without its fold, one of 5" in text
    assert "the bound is approximate" in text


def test_the_card_warns_of_an_untrained_backbone(store: ModelStore) -> None:
    model = a_model(backbone=Backbone("random-seed0", "2" * 64, False))
    text = stored(store, store.publish(model), "card.md").read_text()
    assert "random, untrained weights: for demonstrations only" in text

"""Versions are written once; one is promoted when it loads, and found again by what it was fitted from."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from stored_models import PARTS, a_model, assert_same, folder, stored

from differnet_ray.errors import ConfigError, ModelStoreError
from differnet_ray.store import model_store
from differnet_ray.store.card import card
from differnet_ray.store.model_store import ModelStore, same_scores
from differnet_ray.store.stored_model import Lineage, StoredModel

FIRST, SECOND = datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
ADDED = ("fingerprint", "resumed", "notes", "test", "peak_memory", "n_groups", "separation")


def of(fingerprint: str, **changes: Any) -> StoredModel:
    """Returns a model of this fingerprint."""
    return a_model(lineage=replace(a_model().lineage, fingerprint=fingerprint), **changes)


def make_older(store: ModelStore, version: str) -> None:
    """Takes from a record what records had not at first."""
    path = stored(store, version, "model.json")
    record = json.loads(path.read_text())
    for name in ADDED:
        del record["lineage"][name]
    for name in ("network", "layers", "channels", "mean", "std"):
        del record["recipe"]["extractor"][name]
    del record["curves"], record["decision"]["n_groups"], record["recipe"]["calibration"]["group_by"]
    record["digest"] = model_store._digest(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def versions(store: ModelStore, clock: list[datetime]) -> list[str]:
    """Two versions of a category; the second is in use."""
    published = []
    for now, model in ((FIRST, of("a", seed=1)), (SECOND, of("b", seed=2))):
        clock[0] = now
        published.append(store.publish(model))
    return published


# --- written once -----------------------------------------------------------------------------------------------------


def test_the_same_model_published_twice_in_a_second_is_one_version(store: ModelStore, clock: list[datetime]) -> None:
    version = store.publish(a_model())
    before = {part: stored(store, version, part).read_bytes() for part in PARTS}
    slower = replace(a_model().lineage, seconds=9.0)
    assert store.publish(a_model(lineage=slower)) == version
    assert {part: stored(store, version, part).read_bytes() for part in PARTS} == before
    assert_same(store.load("screw"), a_model())


@pytest.mark.parametrize("part", ["flow.safetensors", "calibration.parquet", "model.json"])
def test_other_content_of_the_same_version_is_not_written_over(part: str, store: ModelStore, clock: list[datetime]) -> None:
    path = stored(store, store.publish(a_model()), part)
    other = path.read_bytes().replace(b'"digest": "', b'"digest": "0') if part == "model.json" else b"other"
    path.write_bytes(other)
    with pytest.raises(ModelStoreError, match=f"{path} is there already, .*fit again"):
        store.publish(a_model())
    assert path.read_bytes() == other


def test_two_publishers_at_once_leave_a_store_in_which_all_loads(store: ModelStore, clock: list[datetime]) -> None:
    start, failed = threading.Barrier(4), []

    def publish(model: StoredModel) -> None:
        start.wait()
        try:
            store.publish(model)
        except Exception as error:
            failed.append(error)

    models = [a_model(), a_model(), a_model(seed=1), a_model("nut")]
    publishers = [threading.Thread(target=publish, args=(model,)) for model in models]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert failed == []
    assert len(store.versions("screw")) == 2
    assert len(list(folder(store, "backbones").iterdir())) == 1
    for category in ("screw", "nut"):
        for version in (None, *store.versions(category)):
            assert_same(store.load(category, version), a_model(category, seed=store.load(category, version).recipe.fit.seed))


def test_a_backbone_that_another_fit_wrote_meanwhile_is_kept_where_it_is_whole(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(a_model())
    monkeypatch.setattr(model_store, "exists", lambda uri: False)  # what a fit sees that looked a moment too early
    store.publish(a_model(seed=1))
    path = stored(store, "", "backbone")
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    store.publish(a_model(seed=2))
    assert_same(store.load("screw"), a_model(seed=2))


# --- promote ----------------------------------------------------------------------------------------------------------


def test_an_older_version_is_promoted_and_back(store: ModelStore, versions: list[str]) -> None:
    first, second = versions
    for version, seed in ((first, 1), (first, 1), (second, 2)):
        store.promote("screw", version)
        assert store.latest("screw") == version
        assert store.load("screw").recipe.fit.seed == seed
    assert store.versions("screw") == versions


def test_promoting_mends_a_damaged_pointer(store: ModelStore, versions: list[str]) -> None:
    folder(store, "screw", "latest.json").write_bytes(b"")
    store.promote("screw", versions[0])
    assert store.latest("screw") == versions[0]


@pytest.mark.parametrize("part", ["flow.safetensors", "calibration.parquet", "model.json", "backbone"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_what_is_not_whole_is_not_promoted(part: str, damage: str, store: ModelStore, versions: list[str]) -> None:
    path = stored(store, versions[0], part)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelStoreError, match="missing|damaged|no version"):
        store.promote("screw", versions[0])
    assert store.latest("screw") == versions[1]


@pytest.mark.parametrize("version", ["20260101T000000Z-00000000", "yesterday", "../nut", ""])
def test_a_version_that_is_not_there_is_not_promoted(version: str, store: ModelStore, versions: list[str]) -> None:
    with pytest.raises(ModelStoreError, match="no version|not a version"):
        store.promote("screw", version)
    assert store.latest("screw") == versions[1]


# --- find -------------------------------------------------------------------------------------------------------------


def test_a_model_is_found_by_its_fingerprint(store: ModelStore, versions: list[str]) -> None:
    for fingerprint, version in zip("ab", versions, strict=True):
        assert store.find("screw", fingerprint) == store.record("screw", version)
    assert store.find("screw", "c") is None
    assert store.find("nut", "a") is None
    with pytest.raises(ConfigError):
        store.find("../screw", "a")


def test_of_several_the_one_in_use_is_found_then_the_newest(store: ModelStore, clock: list[datetime]) -> None:
    published = []
    for day in (1, 2, 3):
        clock[0] = datetime(2026, 2, day, tzinfo=UTC)
        published.append(store.publish(of("a", seed=day)))
    store.promote("screw", published[0])
    assert (store.find("screw", "a") or {})["version"] == published[0]
    folder(store, "screw", "latest.json").unlink()
    assert (store.find("screw", "a") or {})["version"] == published[2]


@pytest.mark.parametrize("part", ["model.json", "latest.json"])
@pytest.mark.parametrize("content", [None, b"{}", b"[]", b"torn"])
def test_a_damaged_record_is_not_found(part: str, content: bytes | None, store: ModelStore, clock: list[datetime]) -> None:
    whole = store.publish(of("a", seed=1))
    clock[0] = SECOND
    damaged = store.publish(of("a", seed=2))
    path = folder(store, "screw", part) if part == "latest.json" else stored(store, damaged, part)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    found = store.find("screw", "a") or {}
    assert found["version"] == (damaged if part == "latest.json" else whole)


# --- records of before ------------------------------------------------------------------------------------------------


def test_an_older_record_loads_is_promoted_and_has_a_card(store: ModelStore, versions: list[str]) -> None:
    make_older(store, versions[0])
    lineage = store.load("screw", versions[0]).lineage
    assert [getattr(lineage, name) for name in ADDED] == ["", (), (), None, 0, None, None]
    older = store.load("screw", versions[0])
    assert (older.decision.n_groups, older.recipe.calibration.group_by) == (older.decision.n_images, "none")
    assert lineage.losses == a_model().lineage.losses
    store.promote("screw", versions[0])
    assert store.find("screw", "") is None
    for word in ("AUROC", "groups |", "unseen images |"):
        assert word not in card(store.record("screw"))


# --- the card ---------------------------------------------------------------------------------------------------------


def the_card(store: ModelStore, **changes: Any) -> str:
    """Publishes a model whose lineage has these changes, and returns its card."""
    model = a_model(lineage=replace(a_model().lineage, **changes))
    return stored(store, store.publish(model), "card.md").read_text()


def test_the_card_says_what_decided_the_pose(store: ModelStore) -> None:
    assert "| pose | pose 'quarter': found |" in the_card(store, pose="pose 'quarter': found")


def test_the_card_tells_people_what_happened_and_what_it_is_good_for(store: ModelStore) -> None:
    text = the_card(store)
    assert "| AUROC | 98.8 % on 10 good and 20 anomalous test images, by which nothing was chosen |" in text
    assert "1.1 GB of memory" in text
    assert "| groups | 25, by --group-by auto |" in text
    assert "| unseen images | 0.98 times as far from fitted ones as independent images are; near duplicates have" in text
    assert "| pose | any, as it was given |" in text
    assert "\n## Notes\n\n- The fit was interrupted, and went on after epoch 1.\n- the chunk was halved to 32" in text
    assert "\n## Limits\n\n- " in text
    assert "resized to a square of 448 pixels" in text
    assert "curves.png" not in text


def test_the_card_is_silent_where_there_is_nothing_to_say(store: ModelStore) -> None:
    text = the_card(store, resumed=(), notes=(), test=None, peak_memory=0)
    for word in ("AUROC", "Notes", "memory", "None"):
        assert word not in text
    assert "\n\n\n" not in text


def test_a_name_with_a_bar_is_one_cell_of_the_card(store: ModelStore) -> None:
    assert "| data | /mnt/a\\|b |" in the_card(store, data=("/mnt/a|b",))


def test_curves_lie_beside_the_card_that_shows_them(store: ModelStore) -> None:
    version = store.publish(a_model(curves=b"a picture"))
    assert stored(store, version, "curves.png").read_bytes() == b"a picture"
    assert "](curves.png)" in stored(store, version, "card.md").read_text()
    assert store.load("screw").curves == b""
    digests = {store.load("screw", store.publish(model)).digest for model in (a_model(), a_model(curves=b"other"))}
    assert digests == {store.load("screw", version).digest}
    stored(store, version, "curves.png").unlink()
    assert_same(store.load("screw", version), a_model())


def test_all_of_the_lineage_comes_back(store: ModelStore) -> None:
    lineage: Lineage = replace(a_model().lineage, resumed=(3, 7), notes=("one", "two"), test=None, peak_memory=7)
    store.publish(a_model(lineage=lineage))
    assert store.load("screw").lineage == lineage


def test_a_record_older_than_other_networks_scores_as_a_newer_one_of_alexnet(store: ModelStore) -> None:
    store.publish(a_model())
    record = store.record("screw")
    extractor = {key: record["recipe"]["extractor"][key] for key in ("image_size", "n_scales")}
    older = record | {"recipe": record["recipe"] | {"extractor": extractor}}
    assert same_scores(older, record)
    smaller = older | {"recipe": older["recipe"] | {"extractor": extractor | {"image_size": 256}}}
    assert not same_scores(smaller, record)

"""Models change while they score: the new takes over from the old, a broken one does not, and the store may go away."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from online_models import LocalScorer, local_scorer, publish_another
from online_server import Served, served, wait_for

from differnet_ray.online.options import Options
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.store.model_store import ModelStore

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def models(online_models: str, tmp_path: Path) -> Path:
    """A store whose categories have two versions each, with the older one in use."""
    shutil.copytree(online_models.removeprefix("file://"), tmp_path / "models")
    store = ModelStore(f"file://{tmp_path / 'models'}")
    publish_another(store.uri)
    for category in store.categories():
        store.promote(category, store.versions(category)[0])
    return tmp_path / "models"


@pytest.fixture
def running(models: Path) -> Iterator[Served]:
    uri = f"file://{models}"
    with local_scorer(uri) as scorer, served(uri, scorer, Options()) as endpoint:
        yield endpoint


@pytest.fixture
def image(factory: Path) -> bytes:
    return next((factory / "plate" / "test" / "dent").iterdir()).read_bytes()


def version(endpoint: Served, image: bytes) -> str:
    answer = endpoint.client.post("/v1/score", content=image, params={"category": "plate"}, headers=PNG)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def test_a_new_version_takes_over_and_no_request_fails(running: Served, models: Path, image: bytes) -> None:
    store = ModelStore(f"file://{models}")
    old, new = store.versions("plate")
    seen: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(version(running, image))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(seen) > 10)
    store.promote("plate", new)
    wait_for(lambda: new in seen[-3:])
    done.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {old, new}
    wait_for(lambda: running.client.get("/readyz").json()["models"]["plate"] == new)
    (listed,) = [found for found in running.client.get("/v1/categories").json() if found["category"] == "plate"]
    assert listed["version"] == new


@pytest.mark.parametrize("damage", ["flow.safetensors", "model.json", "latest.json"])
def test_a_broken_new_version_is_reported_and_the_old_one_goes_on(
    damage: str, running: Served, models: Path, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(f"file://{models}")
    old, new = store.versions("plate")
    version(running, image)
    if damage != "latest.json":
        (models / "plate" / new / damage).write_bytes(b"damaged")
    text = b"{" if damage == "latest.json" else b'{"version": "%s"}' % new.encode()
    (models / "plate" / "latest.json").write_bytes(text)
    wait_for(lambda: running.client.get("/readyz").json()["broken"] == {"plate": damage if damage == "latest.json" else new})
    assert version(running, image) == old
    assert "damaged" in caplog.text
    assert "models_broken 1.0" in running.client.get("/metrics").text
    store.promote("plate", old)  # whoever operates it goes back
    wait_for(lambda: running.client.get("/readyz").json()["broken"] == {})


def test_loaded_models_go_on_without_the_store_and_it_may_come_back(running: Served, models: Path, image: bytes) -> None:
    old, new = ModelStore(f"file://{models}").versions("plate")
    assert version(running, image) == old
    models.rename(models.with_name("away"))
    wait_for(lambda: running.client.get("/readyz").status_code == 503)
    assert "store does not answer" in running.client.get("/readyz").json()["detail"]
    assert running.client.get("/healthz").status_code == 200
    assert version(running, image) == old
    assert {found["category"] for found in running.client.get("/v1/categories").json()} == {"plate", "lid"}
    models.with_name("away").rename(models)
    ModelStore(f"file://{models}").promote("plate", new)
    wait_for(lambda: version(running, image) == new)
    wait_for(lambda: running.client.get("/readyz").status_code == 200)


def test_a_pinned_version_stays(models: Path, image: bytes) -> None:
    store = ModelStore(f"file://{models}")
    old, new = store.versions("plate")
    with local_scorer(store.uri, pinned={"plate": old}) as scorer, served(store.uri, scorer, Options()) as endpoint:
        store.promote("plate", new)
        store.promote("lid", store.versions("lid")[1])
        wait_for(lambda: endpoint.client.get("/readyz").json()["models"]["lid"] == store.versions("lid")[1])
        assert version(endpoint, image) == old


def test_a_new_category_can_be_asked_for_once_it_is_published(models: Path, image: bytes) -> None:
    (models / "plate").rename(models.parent / "plate")
    uri = f"file://{models}"
    with local_scorer(uri) as scorer, served(uri, scorer, Options()) as endpoint:
        answer = endpoint.client.post("/v1/score", content=image, params={"category": "plate"}, headers=PNG)
        assert answer.status_code == 404
        (models.parent / "plate").rename(models / "plate")
        wait_for(lambda: "plate" in endpoint.client.get("/readyz").json()["models"])
        assert version(endpoint, image)


def test_models_are_kept_by_bytes_and_loading_one_does_not_block_another(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"file://{models}"
    store = ModelStore(uri)
    plate, lid = store.latest("plate"), store.latest("lid")
    size = ModelCache(uri, "cpu").get("plate", plate).n_bytes
    small = ModelCache(uri, "cpu", memory=size)
    small.get("plate", plate)
    small.get("lid", lid)
    assert small.loaded() == [("lid", lid)]
    both = ModelCache(uri, "cpu", memory=4 * size)
    loading, go_on = threading.Event(), threading.Event()
    load: Callable[..., object] = both.store.load

    def slow(category: str, version: str | None = None) -> object:
        if category == "plate":
            loading.set()
            assert go_on.wait(20)
        return load(category, version)

    monkeypatch.setattr(both.store, "load", slow)
    waiting = [threading.Thread(target=both.get, args=("plate", plate)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    assert loading.wait(20)
    assert both.get("lid", lid).stored.category == "lid"
    assert both.loaded() == [("lid", lid)]
    go_on.set()
    for thread in waiting:
        thread.join()
    assert set(both.loaded()) == {("plate", plate), ("lid", lid)}
    assert both.n_loads == 2
    assert both.n_bytes() == 2 * size


def test_an_endpoint_is_not_ready_before_it_can_score(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    uri = f"file://{tmp_path / 'empty'}"
    with local_scorer(uri) as scorer:
        assert isinstance(scorer, LocalScorer)
        wait_for(lambda: scorer.models.state().store)
        assert not scorer.models.state().backbone

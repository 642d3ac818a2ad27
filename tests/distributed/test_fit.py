"""Fitting through the real Ray Train."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from differnet_ray.config import Recipe
from differnet_ray.data.manifest import list_images, select
from differnet_ray.data.model_store import Backbone, ModelStore
from differnet_ray.data.storage import canonical
from differnet_ray.errors import ConfigError
from differnet_ray.fit_category import fit_category
from differnet_ray.fit_state import MAX_TRIES, CategoryQueue
from differnet_ray.model.extractor import load_backbone_weights, weights_digest
from differnet_ray.verbs import run_fit

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


def test_every_category_is_published_and_nothing_else_is_left(models: str) -> None:
    store = ModelStore(canonical(models))
    assert store.categories() == ["lid", "plate"]
    assert sorted(path.name for path in Path(models).iterdir() if any(path.iterdir())) == ["backbones", "lid", "plate"]
    model = store.load("plate")
    assert (model.lineage.n_fitted, model.lineage.n_held_out, model.lineage.skipped) == (10, 2, {})
    assert len(model.lineage.losses) == 3
    assert model.decision.achieved_fpr == pytest.approx(1 / 3)
    assert (model.decision.n_images, model.decision.method, model.decision.extrapolated) == (2, "held out", False)


def test_a_model_equals_the_one_fitted_alone_without_ray(
    models: str, factory: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    weights, name = load_backbone_weights("random")
    alone = fit_category(
        category="lid",
        listing=select(list_images([str(factory)]), categories=["lid"], split="train", defect="good"),
        models=canonical(str(tmp_path)),
        recipe=tiny_recipe,
        backbone=Backbone(name, weights_digest(weights), pretrained=False),
        weights={key: value.numpy() for key, value in weights.items()},
        data=("here",),
        device="cpu",
    )
    together = ModelStore(canonical(models)).load("lid")
    assert ModelStore(canonical(str(tmp_path))).load("lid", alone.version).digest == together.digest


def test_what_cannot_be_used_is_named_and_does_not_stop_the_rest(
    factory: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, models = tmp_path / "data", tmp_path / "models"
    shutil.copytree(factory / "lid", data / "lid")
    shutil.copytree(factory / "lid" / "train" / "good", data / "dark" / "train" / "good")
    (data / "lid" / "train" / "good" / "99.jpg").write_bytes(b"this is text")
    models.mkdir()
    (models / "dark").write_text("a file stands where the category's folder must go")

    states = run_fit(str(data), str(models), (), tiny_recipe, "random", max_parallel=2)

    assert {category: state.status for category, state in states.items()} == {"dark": "failed", "lid": "fitted"}
    assert str(states["dark"].error).startswith("StorageError: cannot write")
    result = states["lid"].result
    assert result is not None
    assert (result.n_fitted + result.n_calibrated, len(result.skipped)) == (12, 1)
    assert "99.jpg" in capsys.readouterr().err
    record = ModelStore(canonical(str(models))).record("lid")
    assert [uri.rsplit("/", 1)[1] for uri in record["lineage"]["skipped"]] == ["99.jpg"]


@pytest.mark.parametrize("n_good", [0, 1])
def test_fewer_than_two_usable_images_are_refused_before_any_work(
    n_good: int, factory: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    good = tmp_path / "data" / "lid" / "train" / "good"
    good.mkdir(parents=True)
    for name in ("00.jpg", "01.jpg")[:n_good]:
        shutil.copy(factory / "lid" / "train" / "good" / name, good)
    (good / "broken.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"'lid' has {n_good} usable good images, expected at least 2.*broken\.jpg"):
        run_fit(str(tmp_path / "data"), str(tmp_path / "models"), (), tiny_recipe, "random")
    assert not list((tmp_path / "models").glob("lid"))


def test_leases_of_a_dead_group_are_void_and_a_category_is_given_up_after_three_deaths() -> None:
    queue = CategoryQueue(["a", "b"])
    assert (queue.lease("group 1"), queue.lease("group 1"), queue.lease("group 1")) == ("a", "b", None)
    queue.report("b", status="fitted")
    for n in range(2, MAX_TRIES + 1):
        assert (queue.lease(f"group {n}"), queue.lease(f"group {n}")) == ("a", None)
    assert queue.lease("one more group") is None
    assert {category: state.status for category, state in queue.states().items()} == {"a": "failed", "b": "fitted"}
    assert f"died {MAX_TRIES} times" in str(queue.states()["a"].error)

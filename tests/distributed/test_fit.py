"""Fitting through the real Ray Train."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner
from fit_jobs import fitted, job_of, undisturbed

from differnet_ray import cli
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import list_images, select
from differnet_ray.config import ImageForm, Recipe
from differnet_ray.errors import ModelStoreError
from differnet_ray.pipeline.fit_state import MAX_DEATHS, CategoryQueue
from differnet_ray.pipeline.stages import ScoreImages
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


def test_every_category_is_published_and_nothing_else_is_left(models: str) -> None:
    store = ModelStore(canonical(models))
    assert store.categories() == ["lid", "plate"]
    assert sorted(path.name for path in Path(models).iterdir() if any(path.iterdir())) == ["backbones", "lid", "plate"]
    assert list(Path(models, "_fit").iterdir()) == []
    model = store.load("plate")
    assert (model.lineage.n_fitted, model.lineage.n_held_out, model.lineage.skipped) == (10, 2, {})
    assert len(model.lineage.losses) == 3
    assert model.decision.achieved_fpr == pytest.approx(1 / 3)
    assert (model.decision.n_images, model.decision.method, model.decision.extrapolated) == (2, "held out", False)


def test_a_model_equals_the_one_fitted_alone_without_ray(
    models: str, factory: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    alone = undisturbed(job_of(str(factory), str(tmp_path), tiny_recipe))
    assert alone == fitted(canonical(models))


def test_garbage_among_good_categories_fails_alone_with_its_reason(factory: Path, tmp_path: Path) -> None:
    data, models = tmp_path / "data", tmp_path / "models"
    shutil.copytree(factory, data)
    for category in ("empty", "torn"):
        (data / category / "train" / "good").mkdir(parents=True)
    for i in range(3):
        (data / "empty" / "train" / "good" / f"{i}.jpg").write_bytes(b"")
    torn = data / "torn" / "train" / "good"
    shutil.copy(data / "lid" / "train" / "good" / "00.jpg", torn)
    (torn / "01.jpg").write_bytes((torn / "00.jpg").read_bytes()[:500])
    (data / "lid" / "train" / "good" / "99.jpg").write_bytes(b"this is text")
    shutil.copytree(data / "lid" / "train", data / "dark" / "train")
    models.mkdir()
    (models / "dark").write_text("a file stands where the category's folder must go")
    options = ["--preset", "demo", "--image-size", "64", "--scales", "1", "--backbone-weights", "random"]
    command = ["fit", "--data", str(data), "--models", str(models), *options, "--scratch", str(tmp_path / "scratch")]

    result = CliRunner().invoke(cli.main, command)

    assert result.exit_code == 1, result.output
    store = ModelStore(canonical(str(models)))
    assert store.categories() == ["lid", "plate"]
    lines = {line.split()[0].rstrip(":"): line for line in result.stdout.splitlines() if line}
    assert "FitError: category 'empty' has 0 usable good images, expected at least 2; 3 cannot be used" in lines["empty"]
    assert "has 1 usable good images" in lines["torn"]
    assert "01.jpg" in lines["torn"]
    assert "StorageError: cannot" in lines["dark"]
    assert "99.jpg: unreadable" in result.stderr
    assert [uri.rsplit("/", 1)[1] for uri in store.record("lid")["lineage"]["skipped"]] == ["99.jpg"]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert {row[0]: row[-1] for row in rows if row and row[-1] in ("fitted", "failed")} == {
        "dark": "failed",
        "empty": "failed",
        "lid": "fitted",
        "plate": "fitted",
        "torn": "failed",
    }
    assert next(row for row in rows if row and row[0] == "lid")[-3] == "1.000"  # the AUROC on its test images
    again = CliRunner().invoke(cli.main, [*command, "--category", "lid", "--category", "plate"])
    assert again.exit_code == 0, again.output
    assert again.stdout.count("unchanged") == 2
    assert again.stderr.count("fitted already") == 1


def test_a_group_dies_three_times_with_a_category_that_is_then_given_up() -> None:
    queue = CategoryQueue(["a", "b"])
    assert [queue.lease("group 1") for _ in range(3)] == [("a", True), ("b", True), (None, False)]
    queue.report("b", status="fitted")
    for n in range(2, MAX_DEATHS + 1):
        assert [queue.lease(f"group {n}") for _ in range(2)] == [("a", True), (None, False)]
    assert queue.lease("one more group") == (None, False)
    assert {category: state.status for category, state in queue.states().items()} == {"a": "failed", "b": "fitted"}
    assert f"died {MAX_DEATHS} times" in str(queue.states()["a"].error)


def test_a_category_has_its_last_try_alone_so_that_no_other_is_blamed() -> None:
    queue = CategoryQueue(["a", "b", "c"])
    for n in (1, 2):  # a and b are in flight when the group dies: which of them did it?
        assert [queue.lease(f"group {n}")[0] for _ in range(2)] == ["a", "b"]
    assert queue.lease("group 3") == ("c", True)  # beside those that no one suspects, none runs
    assert queue.lease("group 3") == (None, True)
    queue.report("c", status="fitted")
    assert queue.lease("group 3") == ("a", True)
    assert queue.lease("group 3") == (None, True)
    assert queue.lease("group 4") == ("b", True)  # a is given up, b was not to blame
    queue.report("b", status="fitted")
    assert {category: state.status for category, state in queue.states().items()} == {
        "a": "failed",
        "b": "fitted",
        "c": "fitted",
    }


def test_a_checkpoint_forgives_the_deaths_before_it() -> None:
    queue = CategoryQueue(["a"])
    for n in range(3 * MAX_DEATHS):
        assert queue.lease(f"group {n}") == ("a", True)
        if n % 2:
            queue.report("a", deaths=0)
    assert queue.states()["a"].status == "running"


def test_a_model_moved_elsewhere_scores_the_same_and_a_flipped_byte_is_found_and_named(
    models: str, factory: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "another" / "place"
    shutil.copytree(models, moved)
    listing = select(list_images([str(factory)]), categories=["lid"], split="test")
    scores = []
    for store in (models, moved):
        version = ModelStore(canonical(str(store))).latest("lid")
        where = {"models": canonical(str(store)), "versions": {"lid": version}, "device": "cpu"}
        scoring = ScoreImages(n_transforms=None, maps="none", dt=date(2026, 1, 31), run_id="one", **where)
        scores.append(scoring(FetchImages({"lid": ImageForm(64)})(listing.table))["anomaly_score"].to_pylist())
    assert scores[0] == scores[1]
    assert len(set(scores[0])) == 8

    flow = moved / "lid" / version / "flow.safetensors"
    content = bytearray(flow.read_bytes())
    content[-7] ^= 1
    flow.write_bytes(content)
    with pytest.raises(ModelStoreError, match=r"lid/.*/flow\.safetensors is damaged"):
        ModelStore(canonical(str(moved))).load("lid")
    result = CliRunner().invoke(cli.main, ["models", "promote", "lid", version, "--models", str(moved)])
    assert (result.exit_code, "flow.safetensors is damaged" in result.output) == (1, True)

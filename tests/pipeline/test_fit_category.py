"""From the good images of a category to a model, without Ray: which images calibrate it, and by which flow."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import FOLDS, Killed, N, Run
from PIL import Image, ImageOps

from differnet_ray.archives import fetch
from differnet_ray.archives.images import decode
from differnet_ray.config import Recipe
from differnet_ray.errors import FitError, StorageError
from differnet_ray.model.extractor import Extractor, load_backbone_weights, weights_digest, with_network
from differnet_ray.model.fitting import FeatureBank, fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.groups import split_folds, split_holdout
from differnet_ray.model.scoring import ImageScore, score_image
from differnet_ray.model.transforms import TransformSet, fixed_transforms
from differnet_ray.pipeline import fit_category as fit_category_module
from differnet_ray.pipeline import fit_flows
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import FitProgress
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.storage.files import read_bytes
from differnet_ray.store.card import card
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone, StoredModel


def test_a_model_on_a_network_of_timm_scores_from_the_store_alone(
    job: Callable[[Recipe], FitJob], tiny_recipe: Recipe, good: Path
) -> None:
    """Fitted, published and loaded; what scores it has no weights but those of the store."""
    of = with_network(replace(tiny_recipe.extractor, image_size=128), "timm:test_efficientnet", (1, 3))
    weights, name = load_backbone_weights("random", of)
    now = replace(
        job(replace(tiny_recipe, extractor=of)),
        backbone=Backbone(name, weights_digest(weights, of.network), pretrained=False),
        weights={key: value.numpy() for key, value in weights.items()},
    )
    result = fit_category(now, "lid", "cpu", Effort(checkpoint_seconds=0, on_progress=lambda p: None))
    stored = ModelStore(now.models).load("lid", result.version)
    assert stored.recipe.extractor == of
    assert stored.backbone.file == f"random-seed0-test_efficientnet-{stored.backbone.digest[:16]}.safetensors"
    assert stored.lineage.n_held_out > 0
    net = ModelCache(now.models, "cpu").get("lid", result.version).net
    uris, expected = stored.calibration["uri"].to_pylist(), calibration_scores(stored)
    pixels = [decode(read_bytes(uri), size=128).pixels for uri in uris]
    found = [score_image(net, torch.from_numpy(image)).anomaly_score for image in pixels]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "layers 1, 3 of timm:test_efficientnet, 1 scale from 128 pixels" in card(ModelStore(now.models).record("lid"))


def names(model: StoredModel) -> list[str]:
    return [uri.rsplit("/", 1)[1] for uri in model.calibration["uri"].to_pylist()]


def calibration_scores(model: StoredModel) -> np.ndarray:
    return np.asarray(model.calibration["anomaly_score"].to_numpy())


def test_few_images_are_cross_fitted_and_all_of_them_calibrate(run: Run, cross_fitting: Recipe, good: Path) -> None:
    result, model = run(cross_fitting)
    lineage, decision = model.lineage, model.decision
    assert (lineage.n_fitted, lineage.n_held_out, lineage.n_fits, len(lineage.losses)) == (N, 0, FOLDS + 1, 3)
    assert (decision.method, decision.n_images, decision.achieved_fpr) == ("cross-fitted", N, 2 / (N + 1))
    assert names(model) == sorted(path.name for path in good.iterdir())
    assert decision.review_threshold <= decision.threshold
    assert "approximately at most 15.4 % of good images" in decision.statement
    assert 0 < decision.map_unit < math.inf
    assert (result.n_fitted, result.n_calibrated, result.method) == (N, N, "cross-fitted")
    assert (result.extrapolated, result.statement, result.loss) == (False, decision.statement, lineage.losses[-1])


def test_every_image_is_scored_by_a_flow_that_has_not_seen_it(run: Run, cross_fitting: Recipe, good: Path) -> None:
    # Another image in one place: the flow of its fold was fitted without it and scores its fold-mates as before, bit for
    # bit; the flows of all other folds were fitted on it and do not.
    fold = split_folds(np.arange(N), FOLDS, cross_fitting.fit.seed)[1]
    before = calibration_scores(run(cross_fitting)[1])
    path = sorted(good.iterdir())[fold[0]]
    with Image.open(path) as image:
        other = ImageOps.invert(image)
    other.save(path, quality=95)
    after = calibration_scores(run(cross_fitting)[1])
    same = before == after
    assert same[fold[1:]].all()
    assert same.sum() == len(fold) - 1


def test_the_flow_in_use_is_fitted_on_all_images(
    run: Run, cross_fitting: Recipe, good: Path, weights: Mapping[str, torch.Tensor]
) -> None:
    recipe = cross_fitting
    images = np.stack([decode(path.read_bytes(), size=64).pixels for path in sorted(good.iterdir())])
    extractor = Extractor(recipe.extractor, weights)
    bank = FeatureBank(extractor, N, lambda positions: torch.from_numpy(images[positions]), recipe.transforms, recipe.fit)
    flow = Flow(256, recipe.flow, seed=recipe.fit.seed)
    losses = tuple(epoch.loss for epoch in fit(flow, bank, recipe.fit))
    _, model = run(recipe)
    assert model.lineage.losses == losses
    for name, tensor in flow.state_dict().items():
        np.testing.assert_array_equal(model.flow[name], tensor.numpy(), err_msg=name)


def test_the_same_seed_gives_the_same_model_and_another_does_not(run: Run, cross_fitting: Recipe) -> None:
    first, again = run(cross_fitting)[1], run(cross_fitting)[1]
    other = run(cross_fitting.override(seed=1))[1]
    assert first.digest == again.digest
    assert (calibration_scores(first) == calibration_scores(again)).all()
    assert (calibration_scores(first) != calibration_scores(other)).all()


def test_progress_counts_features_once_and_the_epochs_of_all_fits(run: Run, cross_fitting: Recipe) -> None:
    told: list[FitProgress] = []
    run(cross_fitting, told.append)
    for phase, total in {"read": N, "features": N, "epochs": 3 * (FOLDS + 1), "calibrate": N}.items():
        steps = [(progress.done, progress.total) for progress in told if progress.phase == phase]
        assert steps == [(done, total) for done in range(1, total + 1)], phase


@pytest.mark.parametrize(
    ("changes", "held_out"),
    [({"folds": 0}, True), ({"folds": FOLDS, "cross_fit_below": N}, True), ({"folds": 2, "cross_fit_below": N + 1}, False)],
)
def test_as_many_images_as_configured_are_held_out(
    run: Run, tiny_recipe: Recipe, changes: dict[str, int], held_out: bool
) -> None:
    _, model = run(tiny_recipe.override(**changes))
    assert model.decision.method == ("held out" if held_out else "cross-fitted")
    if held_out:
        kept_out = split_holdout(np.arange(N), 0.2, tiny_recipe.fit.seed)[1]
        assert names(model) == [f"{i:02d}.jpg" for i in kept_out]
        assert (model.lineage.n_fitted, model.lineage.n_held_out, model.lineage.n_fits) == (10, 2, 1)
        assert model.decision.n_images == 2
        assert "2 held-out good images: at most 33.3 %" in model.decision.statement


def test_two_images_are_folds_of_one(run: Run, cross_fitting: Recipe, good: Path) -> None:
    for path in sorted(good.iterdir())[2:]:
        path.unlink()
    _, model = run(cross_fitting)
    assert (model.lineage.n_fitted, model.lineage.n_fits, model.decision.n_images) == (2, 3, 2)


def test_a_threshold_beyond_the_images_is_marked_as_extrapolated(run: Run, cross_fitting: Recipe, good: Path) -> None:
    for path in list(good.iterdir()):
        shutil.copy(path, good / f"again-{path.name}")
    result, model = run(cross_fitting.override(target_fpr=0.001))
    assert (result.n_calibrated, result.extrapolated, model.decision.extrapolated) == (2 * N, True, True)
    assert model.decision.threshold > calibration_scores(model).max()
    assert model.decision.achieved_fpr == 1 / (2 * N + 1)
    assert "extrapolated" in result.statement


def test_scores_that_are_not_finite_publish_no_model(
    run: Run, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_flows, "score_image", lambda net, image: ImageScore(math.inf, 0.0, 4))
    with pytest.raises(FitError, match="2 of 2 good images that the flow has not seen have no finite score"):
        run(tiny_recipe)
    assert not (tmp_path / "models" / "lid").exists()


@pytest.mark.parametrize(("phase", "step"), [("read", 5), ("features", 7), ("epochs", 2), ("epochs", 8), ("calibrate", 7)])
def test_a_fit_that_was_killed_goes_on_where_it_was_to_the_same_model(
    run: Run, cross_fitting: Recipe, tmp_path: Path, phase: str, step: int
) -> None:
    expected = run(cross_fitting)[1]
    told: list[FitProgress] = []

    def kill(progress: FitProgress) -> None:
        if (progress.phase, progress.done) == (phase, step):
            raise Killed
        told.append(progress)

    other = cross_fitting.override(weight_decay=2e-5)  # another fingerprint than the model that is there
    with pytest.raises(Killed):
        run(other, kill)
    again: list[FitProgress] = []
    result, model = run(other, again.append)
    epochs = [[progress.done for progress in part if progress.phase == "epochs"] for part in (told, again)]
    assert epochs[0] + epochs[1] == list(range(1, 3 * (FOLDS + 1) + 1))  # each once, over both lives
    features = [progress.done for part in (told, again) for progress in part if progress.phase == "features"]
    assert features == sorted(features)
    assert len(features) <= N  # the one in flight is not told
    assert model.digest == run(other)[1].digest != expected.digest
    assert model.lineage.resumed == result.resumed == ((len(epochs[0]),) if epochs[0] else ())
    assert not list((tmp_path / "models" / "_fit").rglob("*.*"))
    assert not list((tmp_path / "scratch").iterdir())


def test_a_damaged_checkpoint_is_no_checkpoint(run: Run, tiny_recipe: Recipe, tmp_path: Path) -> None:
    def kill(progress: FitProgress) -> None:
        if progress.phase == "calibrate":
            raise Killed

    with pytest.raises(Killed):
        run(tiny_recipe, kill)
    (checkpoint,) = (tmp_path / "models").rglob("checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    for block in (tmp_path / "scratch").rglob("*.npy"):
        block.write_bytes(block.read_bytes()[:90])
    result, _ = run(tiny_recipe)
    assert (result.epochs, result.resumed) == (3, ())


def test_another_image_recipe_or_seed_is_another_fit(job: Callable[[Recipe], FitJob], tiny_recipe: Recipe, good: Path) -> None:
    fingerprints = {job(tiny_recipe).fingerprint("lid"), job(tiny_recipe).fingerprint("lid")}
    assert len(fingerprints) == 1
    fingerprints |= {
        job(tiny_recipe.override(seed=1)).fingerprint("lid"),
        job(tiny_recipe.override(hidden=17)).fingerprint("lid"),
    }
    os.utime(good / "03.jpg", (1, 1))
    fingerprints.add(job(tiny_recipe).fingerprint("lid"))
    assert len(fingerprints) == 4


def test_labelled_images_are_measured_and_decide_nothing(run: Run, tiny_recipe: Recipe, factory: Path, good: Path) -> None:
    result, without = run(tiny_recipe)
    assert (result.auroc, without.lineage.test) == (None, None)
    shutil.copytree(factory / "lid" / "test", good.parents[1] / "test")
    (good.parents[1] / "test" / "good" / "broken.jpg").write_bytes(b"")
    time.sleep(1.1)  # a version is named after its second and content, and is written once
    result, model = run(tiny_recipe)
    assert model.lineage.test == {"auroc": result.auroc, "n_good": 4, "n_anomalous": 4}
    assert result.auroc is not None
    assert result.auroc > 0.9
    assert model.digest == without.digest


def test_a_fit_stops_early_by_good_images_that_are_neither_fitted_on_nor_calibrate(run: Run, tiny_recipe: Recipe) -> None:
    result, model = run(tiny_recipe.override(epochs=60, learning_rate=0.05, patience=2))
    assert 3 <= result.epochs < 60
    assert (model.lineage.n_fitted, model.lineage.n_held_out, model.decision.n_images) == (9, 3, 2)


def test_what_a_worker_of_the_same_run_published_before_it_died_is_not_fitted_again(
    job: Callable[[Recipe], FitJob], tiny_recipe: Recipe
) -> None:
    now = replace(job(tiny_recipe), began="2026-01-31T00:00:00+00:00")
    first = fit_category(now, "lid", "cpu", Effort())
    told: list[FitProgress] = []
    assert fit_category(now, "lid", "cpu", Effort(on_progress=told.append)) == first
    assert told == []
    assert fit_category(replace(now, began="9999"), "lid", "cpu", Effort(on_progress=told.append)).epochs == 3
    assert told


def test_storage_that_fails_is_no_image_that_cannot_be_used(
    run: Run, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str, _: str | None) -> bytes:
        if uri.endswith("07.jpg"):
            raise StorageError(f"cannot read {uri}: slow down")
        return Path(uri.removeprefix("file://")).read_bytes()

    monkeypatch.setattr(fetch, "read_bytes", refuse)
    with pytest.raises(StorageError, match="slow down"):
        run(tiny_recipe)


def test_what_the_code_warns_of_is_in_the_record(run: Run, tiny_recipe: Recipe) -> None:
    def warn(progress: FitProgress) -> None:
        if progress.phase == "epochs" and progress.done == 1:
            logging.getLogger("differnet_ray.model.differnet").warning("out of %s", "memory")

    result, model = run(tiny_recipe, warn)
    assert result.notes == model.lineage.notes == ("out of memory",)
    assert 10**8 < result.peak_memory < 10**11


def test_a_pose_that_is_found_out_is_the_models_and_is_found_once(
    run: Run, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(progress: FitProgress) -> None:
        told.append(progress)
        if progress.phase == "features":
            raise Killed

    auto, told = tiny_recipe.override(pose="auto"), []
    with pytest.raises(Killed):
        run(auto, kill)
    assert [(progress.done, progress.total) for progress in told if progress.phase == "pose"] == [(i + 1, N) for i in range(N)]
    monkeypatch.setattr(fit_category_module, "find_pose", None)  # a second search would fail
    result, model = run(auto)
    pose = model.recipe.transforms.pose
    assert model.recipe == tiny_recipe.override(pose=pose)
    assert TransformSet(**model.transforms) == fixed_transforms(model.recipe.transforms)
    assert result.pose == model.lineage.pose
    assert result.pose.startswith(f"pose '{pose}': ")
    assert f"is found among {N} good images" in result.pose


def test_a_pose_that_is_given_is_not_looked_for(run: Run, tiny_recipe: Recipe) -> None:
    result, model = run(tiny_recipe.override(pose="quarter"))
    assert (result.pose, model.recipe.transforms.pose) == ("", "quarter")
    assert model.transforms["angles"] == (0, math.pi / 2, math.pi, 3 * math.pi / 2)


def test_an_image_that_can_no_longer_be_read_ends_the_fit(run: Run, tiny_recipe: Recipe, good: Path) -> None:
    def remove(progress: FitProgress) -> None:
        if progress.phase == "read" and progress.done == N:
            (good / "11.jpg").unlink()

    with pytest.raises(StorageError, match=r"11\.jpg was listed, but is no longer there: run the same command again"):
        run(tiny_recipe, remove)

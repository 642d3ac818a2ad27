"""Groups of good images in a fit: whole ones are held out and cross-fitted, by name or found, also over a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fits import FOLDS, Killed, N, Run
from PIL import Image

from differnet_ray.config import Recipe
from differnet_ray.model import groups as model_groups
from differnet_ray.pipeline.fit_state import FitProgress
from differnet_ray.store.stored_model import StoredModel


def siblings(good: Path, n_parts: int) -> None:
    """Leaves so many images, each with two copies that differ by a shade."""
    for nth, path in enumerate(sorted(good.iterdir())):
        with Image.open(path) as image:
            for shade in (1, 2) if nth < n_parts else ():
                image.point(lambda value, shade=shade: value + shade).save(good / f"{path.stem}-{shade}.jpg", quality=95)
        if nth >= n_parts:
            path.unlink()


def parts_of(model: StoredModel) -> list[list[str]]:
    """The parts of the images of each calibrating group."""
    table = model.calibration
    names = [uri.rsplit("/", 1)[1][:2] for uri in table["uri"].to_pylist()]
    groups = table["group"].to_pylist()
    return [sorted({name for name, group in zip(names, groups, strict=True) if group == one}) for one in sorted(set(groups))]


@pytest.mark.parametrize("changes", [{"folds": 0}, {"folds": FOLDS}, {"folds": FOLDS, "pooled": True}])
def test_whole_parts_are_held_out_by_name(run: Run, tiny_recipe: Recipe, good: Path, changes: dict[str, int]) -> None:
    siblings(good, 10)
    _, model = run(tiny_recipe.override(group_by=r"good/(\d\d)", **changes))
    parts = parts_of(model)
    assert all(len(part) == 1 for part in parts)
    assert (len(parts), model.decision.n_groups) == ((2, 2) if changes["folds"] == 0 else (10, 10))
    assert model.decision.n_images == model.calibration.num_rows == 3 * len(parts)
    assert model.lineage.n_groups == 10
    assert model.decision.achieved_fpr >= 1 / (len(parts) + 1)
    assert f"good images of {model.decision.n_groups} groups" in model.decision.statement
    assert not model.lineage.notes


def test_parts_are_found_without_names_and_warned_of_where_they_are_cut(run: Run, tiny_recipe: Recipe, good: Path) -> None:
    siblings(good, 10)
    recipe = tiny_recipe.override(folds=FOLDS, n_transforms=2)
    result, alone = run(recipe)
    assert (alone.lineage.n_groups, alone.decision.n_groups) == (30, 30)
    assert alone.lineage.separation is not None
    assert alone.lineage.separation < 0.6
    assert "near duplicates of fitted ones" in result.notes[0]
    assert "--group-by" in result.notes[0]
    _, found = run(recipe.override(group_by="auto"))
    assert all(len(parts) == 1 for parts in parts_of(found))
    assert len(parts_of(found)) <= 11  # of ten parts: a sibling may be left alone
    assert found.lineage.separation is not None
    assert found.lineage.separation > 0.8


def test_images_of_one_group_are_held_out_one_by_one_with_a_warning(run: Run, tiny_recipe: Recipe) -> None:
    result, model = run(tiny_recipe.override(group_by="split"))
    assert (model.lineage.n_groups, model.decision.n_groups, model.decision.n_images) == (N, 2, 2)
    assert any("all good images are of one group" in note for note in result.notes)


@pytest.mark.parametrize(("phase", "step"), [("compared", 5), ("features", 7), ("epochs", 8), ("calibrate", 14)])
def test_groups_that_were_found_are_kept_over_a_kill(
    run: Run, cross_fitting: Recipe, good: Path, monkeypatch: pytest.MonkeyPatch, phase: str, step: int
) -> None:
    siblings(good, 6)
    recipe = cross_fitting.override(group_by="auto")
    expected = run(recipe)[1]

    def kill(progress: FitProgress) -> None:
        if (progress.phase, progress.done) == (phase, step):
            raise Killed

    other = recipe.override(weight_decay=2e-5)
    with pytest.raises(Killed):
        run(other, kill)
    if phase != "compared":  # another machine that would find others takes those that were found
        monkeypatch.setattr(model_groups, "similar_groups", lambda features: np.arange(len(features)))
    _, model = run(other)
    assert model.calibration["group"].equals(expected.calibration["group"])
    monkeypatch.undo()
    assert model.digest == run(other)[1].digest

"""Features that are computed once, and the fits that share them; on the small factory, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import Listing, list_images
from differnet_ray.config import Recipe
from differnet_ray.errors import FitError, StorageError
from differnet_ray.experiments.cells import Cell, Reading
from differnet_ray.experiments.features import FeatureStore, Floats, Part, all_parts, images_of, parts_of
from differnet_ray.experiments.run_cell import StoredBank, run_cell
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor, load_backbone_weights
from differnet_ray.model.flow import Flow
from differnet_ray.model.scoring import score_image, transform_scores
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.storage.locations import canonical

KINDS = [("train", "bank8"), ("train", "fixed"), ("train", "still"), ("test", "fixed"), ("test", "still")]


@pytest.fixture(scope="module")
def listing(factory: Path) -> Listing:
    return list_images([str(factory)])


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.override(epochs=6, fresh_epochs=2)


@pytest.fixture(scope="module")
def store(listing: Listing, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    weights = {key: value.numpy() for key, value in load_backbone_weights("random")[0].items()}
    store = FeatureStore.at(canonical(str(tmp_path_factory.mktemp("out"))), recipe, "random")
    for part in all_parts(listing, KINDS):
        rows = images_of(listing, part.category, part.split)
        store.extract(part, rows[part.start : part.stop], weights, "cpu")
    return store


def cell(method: str = "differnet", **changes: object) -> Cell:
    values: dict[str, object] = {"categories": ("lid",), "seed": 0, "readings": (Reading("row", 4),), "n_scales": 1}
    return Cell(method=method, **(values | changes))  # type: ignore[arg-type]


def test_features_are_those_that_the_model_computes_from_the_image(
    store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    features, usable = store.read(parts_of(listing, "lid", "test", "fixed"))
    assert features.shape == (8, 4, 256)
    assert usable.all()
    extractor = Extractor(recipe.extractor, load_backbone_weights("random")[0])
    flow = Flow(256, recipe.flow, seed=0)
    net = DifferNet(extractor, flow, fixed_transforms(recipe.transforms))
    path = images_of(listing, "lid", "test")["uri"][5].as_py().removeprefix("file://")
    image = torch.from_numpy(decode(Path(path).read_bytes(), size=64).pixels)
    assert np.array_equal(net.features(image).numpy(), features[5])
    assert transform_scores(flow, features)[5].mean() == pytest.approx(score_image(net, image).anomaly_score, rel=1e-6)


def test_images_that_cannot_be_decoded_have_no_features_and_lost_ones_stop_the_work(
    store: FeatureStore, listing: Listing, tmp_path: Path
) -> None:
    rows = images_of(listing, "lid", "test")
    weights = {key: value.numpy() for key, value in load_backbone_weights("random")[0].items()}
    there = FeatureStore(canonical(str(tmp_path)), store.recipe)
    (part,) = parts_of(listing, "lid", "test", "still")

    def first_is(uri: str) -> pa.Table:
        etags = pa.array([None, *rows["etag"].to_pylist()[1:]], pa.string())
        changed = rows.set_column(rows.schema.get_field_index("etag"), rows.schema.field("etag"), etags)
        return changed.set_column(1, rows.schema.field("uri"), [[uri, *rows["uri"].to_pylist()[1:]]])

    (tmp_path / "text.png").write_text("no image")
    there.extract(part, first_is(canonical(str(tmp_path / "text.png"))), weights, "cpu")
    features, usable = there.read([part])
    assert usable.tolist() == [False, *[True] * 7]
    assert np.array_equal(features, store.read([part])[0][1:])
    with pytest.raises(StorageError, match="no longer there"):
        there.extract(part, first_is("file:///nowhere.png"), weights, "cpu")


def test_the_store_is_another_wherever_a_feature_would_be(recipe: Recipe) -> None:
    stores = [
        FeatureStore.at("file:///a", changed, backbone)
        for changed, backbone in [
            (recipe, "x"),
            (recipe, "y"),
            (recipe.override(brightness=0.1), "x"),
            (recipe.override(n_transforms=3), "x"),
            (recipe.override(image_size=128), "x"),
        ]
    ]
    assert len({store.name for store in stores}) == 5
    assert (
        FeatureStore.at("file:///b", recipe.override(epochs=99, hidden=8, fresh_epochs=3, pooled=True), "x").name
        == stores[0].name
    )


def test_a_bank_gives_each_epoch_its_own_transforms_and_begins_again_after_the_fresh_ones(
    store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    features, _ = store.read(parts_of(listing, "lid", "train", "bank8"))
    bank = StoredBank(torch.from_numpy(features), recipe.fit)
    epochs = [bank.epoch(e) for e in range(4)]
    assert epochs[0].shape == (12, 4, 256)
    assert torch.equal(torch.cat(epochs[:2], dim=1), torch.from_numpy(features))
    assert torch.equal(epochs[0], epochs[2])
    still = StoredBank(torch.from_numpy(features[:, :1]), recipe.fit).epoch(3)
    assert still.shape == (12, 4, 256)
    assert torch.equal(still[:, 0], still[:, 3])


@pytest.mark.parametrize("method", ["differnet", "one_class_svm", "nearest_neighbour"])
def test_every_method_is_measured_alike_and_finds_the_dents(
    method: str, store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    result = run_cell(cell(method), recipe, store, listing, "cpu")
    (row,) = result.rows
    assert (row.kinds.count("good"), row.kinds.count("dent"), result.n_train, result.n_unusable) == (4, 4, 12, 0)
    assert row.metrics["auroc"] == 1.0
    assert run_cell(cell(method), recipe, store, listing, "cpu").rows == result.rows


def test_pooled_features_are_those_of_the_fixed_set_in_fitting_and_scoring(
    store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    pooled = recipe.override(pooled=True, n_blocks=0, power=0.25, first_layer="whiten", epochs=1)
    (row,) = run_cell(cell(), pooled, store, listing, "cpu").rows
    assert row.metrics["auroc"] == 1.0
    train, test = (store.read(parts_of(listing, "lid", split, "fixed"))[0].mean(axis=1) for split in ("train", "test"))
    flow = Flow(256, pooled.flow, seed=0)
    flow.fit_first_layer(torch.from_numpy(train))
    z, _ = flow(torch.from_numpy(test))
    np.testing.assert_allclose(row.scores, z.double().square().mean(dim=1).numpy(), rtol=1e-4)


def test_the_curve_is_told_at_powers_of_two_and_the_last_epoch(store: FeatureStore, listing: Listing, recipe: Recipe) -> None:
    result = run_cell(cell(), recipe, store, listing, "cpu")
    assert [epoch for epoch, _, _ in result.curve] == [1, 2, 4, 6]
    assert result.curve[-1][2] == result.rows[0].metrics["auroc"]
    assert result.rows[0].best_epoch_auroc == max(auroc for _, _, auroc in result.curve)


def test_readings_of_one_fit_are_prefixes_of_its_transforms(store: FeatureStore, listing: Listing, recipe: Recipe) -> None:
    result = run_cell(cell(readings=(Reading("one", 1), Reading("all", 4))), recipe, store, listing, "cpu")
    single = run_cell(cell(readings=(Reading("one", 1),)), recipe, store, listing, "cpu")
    assert result.rows[0].scores == single.rows[0].scores
    assert result.rows[0].scores != result.rows[1].scores
    assert [row.best_epoch_auroc is None for row in result.rows] == [True, False]


def test_shots_are_random_subsets_and_categories_can_be_fitted_together(
    store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    few = [run_cell(cell(n_shots=5, seed=seed), recipe, store, listing, "cpu") for seed in (0, 1)]
    assert [result.n_train for result in few] == [5, 5]
    assert few[0].rows[0].scores != few[1].rows[0].scores
    by_name = recipe.override(group_by=r"good/(\d)\d")  # ten images and two
    assert run_cell(cell(n_shots=2), by_name, store, listing, "cpu").n_train == 2
    assert run_cell(cell(n_shots=5), recipe.override(group_by="auto"), store, listing, "cpu").n_train == 5
    together = run_cell(cell(categories=("lid", "plate")), recipe, store, listing, "cpu")
    assert together.n_train == 24
    assert [row.category for row in together.rows] == ["lid", "plate"]


def test_a_fit_that_diverges_and_a_category_without_good_test_images_say_so(
    store: FeatureStore, listing: Listing, recipe: Recipe
) -> None:
    with pytest.raises(FitError, match="the loss became"):
        run_cell(cell(), recipe.override(learning_rate=1e6), store, listing, "cpu")

    class WithoutGood(FeatureStore):
        def read(self, parts: Sequence[Part]) -> tuple[Floats, npt.NDArray[np.bool_]]:
            features, usable = super().read(parts)
            if parts[0].split == "test":
                usable = np.array([True] * 4 + [False] * 4)  # dents, then good ones
            return features[usable], usable

    with pytest.raises(FitError, match="12 usable training images, 0 usable good and 4 usable defective"):
        run_cell(cell(), recipe, WithoutGood(store.folder, store.recipe), listing, "cpu")

"""Which fits an experiment has, and that their names change with all that decides their result."""

from __future__ import annotations

from collections import Counter

import pytest

from differnet_ray.config import Recipe, preset
from differnet_ray.experiments.cells import EXPERIMENTS, CellResult, Row, cells_of, published_recipe
from differnet_ray.experiments.published import TABLE_1, TABLE_2, TILES, published_auroc

IMAGES = {"bolt": 100, "nut": 10}
PAPER = preset("paper")


def rows(experiment: str, n_seeds: int = 2) -> Counter[tuple[str, str]]:
    cells = cells_of(experiment, PAPER, IMAGES, n_seeds)
    return Counter((cell.categories[0], reading.row) for cell in cells for reading in cell.readings)


def test_tables_compare_the_flow_with_both_baselines_in_every_category() -> None:
    expected = {"1-NN": 1, "OCSVM": 1, "DifferNet": 2}
    assert rows("table2") == {(category, row): n for category in IMAGES for row, n in expected.items()}
    assert rows("table1") == rows("table2") + Counter({(category, "DifferNet, 16 shots"): 3 for category in IMAGES})


def test_sizes_double_and_end_with_all_images() -> None:
    assert [row for _, row in rows("shots")] == ["16 images", "32 images", "64 images", "100 images", "10 images"]
    assert rows("shots")["bolt", "16 images"] == 3  # random subsets, as in Fig. 7
    assert rows("shots")["bolt", "100 images"] == 2
    assert {cell.n_shots for cell in cells_of("shots", PAPER, IMAGES, 2) if "16 images" in str(cell)} == {16}


def test_the_ablation_has_the_rows_a_to_g_and_reads_four_of_them_from_one_fit() -> None:
    cells = list(cells_of("ablation", PAPER, {"bolt": 100}, 1))
    read = {
        reading.row[0]: (cell.n_scales, cell.transformed, reading.n_transforms) for cell in cells for reading in cell.readings
    }
    assert read == {
        "A": (1, False, 1),
        "B": (1, True, 64),
        "C": (3, False, 1),
        "D": (3, True, 1),
        "E": (3, True, 4),
        "F": (3, True, 16),
        "G": (3, True, 64),
    }
    assert len(cells) == 4


def test_multimodal_is_one_deeper_flow_of_all_categories() -> None:
    (cell,) = cells_of("multimodal", PAPER, IMAGES, 1)
    assert cell.categories == ("bolt", "nut")
    assert published_recipe("multimodal", PAPER).flow.n_blocks == 12


def test_the_tiles_get_the_illumination_of_the_paper() -> None:
    transforms = published_recipe("table2", PAPER).transforms
    assert transforms.brightness == transforms.contrast == 0.15
    assert published_recipe("table1", PAPER) == PAPER.override(group_by="none")
    assert published_recipe("table1", PAPER.override(pose="auto")) == PAPER.override(group_by="none")


def test_a_result_is_the_same_after_a_trip_through_its_file() -> None:
    (*_, cell) = cells_of("ablation", PAPER, {"bolt": 100}, 1)
    row = Row("D", "bolt", 4, {"auroc": 0.5}, None, [1.0, 2.0], ["good", "crack"])
    result = CellResult(cell, [row], [(1, -0.5, 0.75)], 100, 2, 1.5)
    assert CellResult.from_json(result.to_json()) == result
    assert CellResult.from_json(CellResult(cell, error="no").to_json()) == CellResult(cell, error="no")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_fit_has_a_file_of_its_own_that_changes_with_recipe_and_features(experiment: str) -> None:
    cells = list(cells_of(experiment, PAPER, IMAGES, 3))
    files = {cell.file(recipe, features) for cell in cells for recipe in (PAPER, PAPER.override(epochs=5)) for features in "ab"}
    assert len(files) == 4 * len(cells)
    assert {cell.file(Recipe.from_dict(PAPER.to_dict()), "a") for cell in cells} <= files


def test_published_figures_stand_beside_the_rows_that_they_belong_to() -> None:
    assert published_auroc("table2", "DifferNet", TILES) == TABLE_2["DifferNet"] == 97.7
    assert published_auroc("table2", "DifferNet", "bolt") is None
    assert published_auroc("table1", "DifferNet, 16 shots", "grid") == 65.8
    assert published_auroc("table1", "DifferNet", None) == 94.7  # mean of the rows; the paper prints 94.9
    assert published_auroc("ablation", "B: one scale, T = 64", None) == 90.2
    assert published_auroc("multimodal", "DifferNet", None) == 90.2
    assert len(TABLE_1) == 15

"""Reports of hand-made results: what stands beside the paper, what is a mean, and what failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from differnet_ray.config import preset
from differnet_ray.experiments.cells import EXPERIMENTS, Cell, CellResult, Row, cells_of
from differnet_ray.experiments.report import Setting, write_report
from differnet_ray.model.metrics import IMAGE_METRICS
from differnet_ray.storage.locations import canonical
from differnet_ray.store.stored_model import Backbone
from differnet_ray.tables import REPRODUCTIONS

IMAGES = {"grid": 40, "a|b": 20}
PRETRAINED = Backbone("alexnet", "0" * 64, pretrained=True)


def result(cell: Cell, auroc: float) -> CellResult:
    rows = [
        Row(
            reading.row,
            category,
            reading.n_transforms,
            dict.fromkeys(IMAGE_METRICS, auroc),
            0.99,
            [1.0, 2.0, 3.0],
            ["good", "good", "crack"],
        )
        for reading in cell.readings
        for category in cell.categories
    ]
    return CellResult(cell, rows, [], 20 if cell.n_shots is None else cell.n_shots)


def report(experiment: str, folder: Path, results: list[CellResult], backbone: Backbone = PRETRAINED) -> list[str]:
    setting = Setting(experiment, preset("paper"), backbone, "here", len(IMAGES))
    return write_report(setting, results, canonical(str(folder))).splitlines()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_table_a_parquet_file_and_plots(experiment: str, tmp_path: Path) -> None:
    results = [result(cell, 0.9) for cell in cells_of(experiment, preset("paper"), IMAGES, 2)]
    report(experiment, tmp_path, results)
    rows = pq.read_table(tmp_path / f"{experiment}.parquet")
    assert rows.schema.equals(REPRODUCTIONS.schema)
    assert rows.num_rows == sum(len(found.rows) for found in results)
    expected = {f"{experiment}-{category}-{plot}.png" for category in ("grid", "a%7Cb") for plot in ("roc", "histogram")}
    assert {path.name for path in tmp_path.glob("*.png")} == expected | (
        {"shots-images.png"} if experiment == "shots" else set()
    )


def test_rows_are_means_over_seeds_beside_the_paper_and_means_over_categories_have_no_spread(tmp_path: Path) -> None:
    cells = [cell for cell in cells_of("table1", preset("paper"), IMAGES, 2) if cell.readings[0].row == "DifferNet"]
    aurocs = dict(zip([(cell.categories[0], cell.seed) for cell in cells], [0.8, 0.9, 0.6, 0.6], strict=True))
    lines = report("table1", tmp_path, [result(cell, aurocs[cell.categories[0], cell.seed]) for cell in cells])
    assert next(line for line in lines if line.startswith("| grid")).startswith("| grid | DifferNet | 84.0 | 85.0 ± 7.1 |")
    assert any(line.startswith("| a\\|b | DifferNet |  | 60.0 ± 0.0 |") for line in lines)
    mean = next(line for line in lines if line.startswith("| mean of 2 of 2"))
    assert "| DifferNet | 94.7 | 72.5 |" in mean
    stored = pq.read_table(tmp_path / "table1.parquet").to_pylist()
    paper = {row["category"]: row["published_auroc"] for row in stored}
    assert paper == {"grid": 0.84, "a|b": None}


def test_failed_fits_and_a_random_backbone_are_said(tmp_path: Path) -> None:
    good, bad = list(cells_of("table2", preset("paper"), {"grid": 40}, 2))[-2:]
    lines = report("table2", tmp_path, [result(good, 0.9), CellResult(bad, error="the loss became nan")])
    assert "- grid: DifferNet, seed 1: the loss became nan" in lines
    assert not any("random, untrained" in line for line in lines)
    lines = report("table2", tmp_path, [result(good, 0.9)], Backbone("random-seed0", "0" * 64, pretrained=False))
    assert any("random, untrained" in line for line in lines)


def test_the_histogram_of_table_1_is_that_of_the_full_fit(tmp_path: Path) -> None:
    cells = [cell for cell in cells_of("table1", preset("paper"), {"grid": 40}, 1) if cell.method == "differnet"]
    report("table1", tmp_path / "all", [result(cell, 0.9) for cell in cells])
    report("table1", tmp_path / "full", [result(cell, 0.9) for cell in cells if cell.n_shots is None])
    pictures = [(tmp_path / name / "table1-grid-histogram.png").read_bytes() for name in ("all", "full")]
    assert pictures[0] == pictures[1]
    assert np.unique([len(picture) for picture in pictures]).size == 1

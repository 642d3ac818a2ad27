"""Experiments through the real Ray: complete, not computed twice, and continued where they were interrupted."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from differnet_ray import cli
from differnet_ray.tables import REPRODUCTIONS

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
SIZES = [
    *("--preset=paper", "--image-size=128", "--scales=2", "--transforms=4"),
    *("--blocks=2", "--hidden=16", "--epochs=4", "--fresh-epochs=1"),
]


def reproduce(factory: Path, output: Path, experiment: str, *more: str) -> str:
    arguments = ["reproduce", "--data", str(factory), "--output", str(output), "--experiment", experiment, *SIZES, *more]
    result = CliRunner().invoke(cli.main, [*arguments, "--backbone-weights", "random"])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def test_an_experiment_is_a_table_a_parquet_file_and_plots_and_goes_on_where_it_was(factory: Path, tmp_path: Path) -> None:
    text = reproduce(factory, tmp_path, "ablation", "--category", "lid", "--seeds", "1")
    rows = pq.read_table(tmp_path / "ablation.parquet")
    assert rows.schema.equals(REPRODUCTIONS.schema)
    assert [row[0] for row in rows["row"].to_pylist()] == ["A", "B", "C", "D", "E"]
    assert "| lid | E: 2 scales, T = 4 |" in text
    assert (tmp_path / "ablation.md").read_text().strip() == text.strip()
    assert {path.name for path in tmp_path.glob("*.png")} == {"ablation-lid-roc.png", "ablation-lid-histogram.png"}

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*/*") if path.is_file()}
    lost = [next(path for path in written if path.parent.name == "cells"), *tmp_path.rglob("train-bank4-000000.safetensors")]
    for path in lost:
        path.unlink()
    assert reproduce(factory, tmp_path, "ablation", "--category", "lid", "--seeds", "1") == text
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*/*") if path.is_file()}
    assert after.keys() == written.keys()
    assert {path for path in written if after[path] != written[path]} == set(lost)


def test_a_fit_that_fails_is_said_and_does_not_stop_the_others(factory: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "--data", str(factory), "--output", str(tmp_path), "--experiment", "table2", *SIZES]
    config = tmp_path / "c.toml"
    config.write_text("brightness = 0.0\n")
    more = ["--category", "lid", "--seeds", "1", "--backbone-weights", "random", "--config", str(config)]
    result = CliRunner().invoke(cli.main, [*arguments, *more, "--learning-rate", "1e30"])
    assert result.exit_code == 1, result.output
    assert "- lid: DifferNet, seed 0: the loss became" in result.stdout
    assert "| lid | 1-NN |" in result.stdout
    assert '"brightness": 0.0' in result.stdout  # the command line and its file win over the paper's 0.15
    assert '"contrast": 0.15' in result.stdout


def test_a_data_set_that_cannot_be_measured_is_refused(factory: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "--data", str(factory), "--output", str(tmp_path), "--backbone-weights", "random"]
    result = CliRunner().invoke(cli.main, [*arguments, "--experiment", "multimodal", "--category", "lid"])
    assert (result.exit_code, "expected at least 2" in result.output) == (2, True)
    result = CliRunner().invoke(cli.main, [*arguments, "--experiment", "table2", "--category", "lid", "--category", "nut"])
    assert (result.exit_code, "nut: no images below" in result.output) == (2, True)
    assert not (tmp_path / "features").exists()

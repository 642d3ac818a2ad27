"""The main job as a user runs it: fit, score, evaluate and look, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from differnet_ray import cli

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


def run(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output + str(result.exception)
    return result.stdout


def test_fit_score_evaluate_and_look(factory: Path, tmp_path: Path) -> None:
    models, output = tmp_path / "models", tmp_path / "results"
    sizes = ["--image-size", 64, "--scales", 1, "--transforms", 4]
    fitted = json.loads(
        run(
            *("fit", "--data", factory, "--models", models, "--backbone-weights", "random", "--preset", "demo", *sizes),
            *("--category", "lid", "--json"),
        )
    )
    assert fitted["lid"]["status"] == "fitted"
    version = fitted["lid"]["result"]["version"]
    assert version in run("models", "list", "--models", models)
    assert "random, untrained weights" in run("models", "show", "--models", models, "lid")

    evaluate = ("evaluate", "--data", factory, "--models", models, "--output", output, "--category", "lid", "--json")
    metrics = json.loads(run(*evaluate))  # scores the images itself, with maps of all of them because there are masks
    assert metrics["lid"]["n_good"] == metrics["lid"]["n_anomalous"] == 4
    assert metrics["lid"]["auroc"] == 1.0
    assert metrics["lid"]["pixel_auroc"] > 0.6
    assert metrics["lid"]["aupro"] > 0.3
    assert json.loads(run(*evaluate)) == metrics
    assert len(list((output / "runs").iterdir())) == 1  # nothing was scored again
    for name in ("roc.png", "metrics.json", "lid/histogram.png", "lid/sheet.png"):
        assert (output / "evaluation" / name).stat().st_size > 1000

    summary = run("score", "--input", factory, "--models", models, "--output", output, "--date", "2026-02-01", exit_code=4)
    assert "lid" in summary
    scores = f"read_parquet('{output}/scores/**/*.parquet', hive_partitioning=true)"
    rows = duckdb.sql(f"SELECT dt, category, status, count(*) FROM {scores} GROUP BY ALL").fetchall()
    days = {str(day): sum(n for dt, _, _, n in rows if dt == day) for day, *_ in rows}
    assert sorted(days.values()) == [8, 40]
    assert days["2026-02-01"] == 40
    assert {n for _, category, status, n in rows if category == "plate" and status == "no_model"} == {20}


def test_the_demo_finds_the_planted_defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFERNET_BACKBONE_WEIGHTS", str(tmp_path / "none.pth"))
    result = CliRunner().invoke(cli.main, ["demo", "--dir", str(tmp_path / "demo"), "--fast"])
    assert result.exit_code == 0, result.output + str(result.exception)
    (why,) = (line for line in result.stderr.splitlines() if "no pretrained weights could be had" in line)
    assert "none.pth" in why
    assert "the threshold rests on" not in result.stderr
    assert list((tmp_path / "demo" / "overlays").glob("*.png"))
    (page,) = (tmp_path / "demo" / "results" / "reports").glob("*.html")
    assert page.read_text().count("data:image/") > 6
    metrics = json.loads((tmp_path / "demo" / "results" / "evaluation" / "metrics.json").read_text())
    assert len(metrics) == 3
    for figure in ("auroc", "pixel_auroc", "aupro", "recall_at_threshold"):
        mean = sum(found[figure] for found in metrics.values()) / 3
        assert f"{mean:.3f}" in result.stdout
        assert mean > {"auroc": 0.8, "pixel_auroc": 0.7, "aupro": 0.3, "recall_at_threshold": 0.3}[figure]  # few images

"""A day that several runs were published into: nothing vanishes, and every verb over results works on it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.compute as pc
import pytest
from said import json_of, run

from differnet_ray import results
from differnet_ray.storage.files import list_files
from differnet_ray.storage.locations import canonical

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
DAY = "2026-01-31"


def score(images: Path, models: str, output: Path, *options: object) -> dict[str, Any]:
    where = ("--models", models, "--output", output, "--category", "plate", "--date", DAY)
    record: dict[str, Any] = json_of(run("score", "--input", images, *where, *options, "--json"))
    return record


def etags(output: Path) -> dict[str, str]:
    folders = [output / table for table in ("scores", "maps", "runs") if (output / table).exists()]
    return {file.uri: file.etag for folder in folders for file in list_files(canonical(str(folder)))}


@pytest.fixture(scope="module")
def good(factory: Path) -> Path:
    return factory / "plate" / "test" / "good"


@pytest.fixture(scope="module")
def published(factory: Path, good: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Results of two runs over different images, and their ids."""
    output = tmp_path_factory.mktemp("results")
    first = score(good, models, output)
    before = etags(output)
    second = score(factory / "plate" / "test" / "dent", models, output)
    assert {uri: etag for uri, etag in etags(output).items() if uri in before} == before
    assert second["replaced"] == {}
    return output, first["run_id"], second["run_id"]


@pytest.fixture
def output(published: tuple[Path, str, str], tmp_path: Path) -> Path:
    """The results, to be changed."""
    shutil.copytree(published[0], tmp_path / "results")
    return tmp_path / "results"


def runs_of(output: Path) -> Counter[str]:
    return Counter(results.scores(str(output), date=DAY).to_table()["run_id"].to_pylist())


def test_a_second_run_of_the_day_adds_its_images(published: tuple[Path, str, str], models: str) -> None:
    output, first, second = published
    assert runs_of(output) == {first: 4, second: 4}
    assert Counter(pd.read_parquet(output / "scores")["run_id"]) == runs_of(output)
    by_duckdb = duckdb.sql(f"SELECT run_id, count(*) FROM read_parquet('{output}/scores/*/*/*.parquet') GROUP BY ALL")
    assert dict(by_duckdb.fetchall()) == runs_of(output)
    for run_id in (first, second):
        page = run("report", "--output", output, "--run-id", run_id, "--models", models).stdout.strip()
        assert "since been" not in Path(page.removeprefix("file://")).read_text()
        assert (
            "4 rows computed again, 0 wrong" in run("verify", "--output", output, "--run-id", run_id, "--models", models).stdout
        )


def test_scoring_half_of_the_images_again_changes_their_rows_only(
    output: Path, published: tuple[Path, str, str], good: Path, models: str, tmp_path: Path
) -> None:
    _, first, second = published
    before = etags(output)
    (tmp_path / "list.csv").write_text("\n".join(["uri", str(good / "00.jpg"), str(good / "01.jpg")]))
    again = score(tmp_path / "list.csv", models, output, "--maps", "all")
    assert again["replaced"] == {first: 2}
    assert runs_of(output) == {first: 2, second: 4, again["run_id"]: 2}
    kept = {uri for uri, etag in etags(output).items() if before.get(uri) == etag}
    assert {uri for uri in before if second in uri} <= kept
    changed = before.keys() - kept
    assert changed
    assert all(first in uri for uri in changed)
    maps = results.maps(str(output)).to_table().to_pylist()
    rows = {row["image_id"]: row["run_id"] for row in results.scores(str(output)).to_table().to_pylist()}
    assert all(rows[row["image_id"]] == row["run_id"] for row in maps)
    page = run("report", "--output", output, "--run-id", first).stdout.strip()
    text = Path(page.removeprefix("file://")).read_text()
    assert f"2 of the 4 rows of this category have since been replaced by the run {again['run_id']}" in text

    decided = json_of(
        run("redecide", "--output", output, "--date", DAY, "--threshold", 1.5, "--review-threshold", 1.2, "--json")
    )
    assert json.loads(decided["options"]["redecided"])["plate"]["from"] == {first: 2, second: 4, again["run_id"]: 2}
    table = results.scores(str(output)).to_table()
    assert set(table["run_id"].to_pylist()) == {decided["run_id"]}
    assert Counter(table["scored_by"].to_pylist()) == {first: 2, second: 4, again["run_id"]: 2}
    assert decided["replaced"] == {first: 2, second: 4, again["run_id"]: 2}
    assert set(table["threshold"].to_pylist()) == {1.5}
    assert pc.all(pc.equal(pc.equal(table["status"], "anomalous"), pc.greater_equal(table["anomaly_score"], 1.5))).as_py()
    said = run("verify", "--output", output, "--run-id", decided["run_id"], "--models", models).stdout
    assert "8 rows computed again, 0 wrong" in said


def test_replace_leaves_the_run_alone_in_its_day(
    output: Path, published: tuple[Path, str, str], factory: Path, models: str
) -> None:
    _, first, second = published
    record = score(factory / "plate" / "test" / "dent", models, output, "--replace")  # it has been published already
    assert record["replaced"] == {first: 4}
    assert runs_of(output) == {second: 4}
    assert not [uri for uri in etags(output) if first in uri and uri.endswith(".parquet")]
    where = ("--models", models, "--output", output, "--category", "plate", "--date", DAY)
    said = run("score", "--input", factory / "plate" / "test" / "good", *where, "--no-resume", "--replace").stdout
    assert f"replaced 4 rows of the run {second}" in said
    assert runs_of(output) == {first: 4}

"""The published tables in Spark: `make test-spark` installs it, and needs Java 17."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from staged_runs import CATEGORIES, DAY, MAP_SHAPE, a_run, manifest_of, map_of, published_run

from differnet_ray.results.runs import read_table
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MAPS, SCORES

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A local Spark without a web page."""
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("no Java on the PATH: Spark needs version 17 or newer")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    published_run(canonical(str(folder)), a_run(), manifest_of(CATEGORIES))
    return folder


def test_spark_reads_the_scores(spark: Any, results: Path) -> None:
    frame = spark.read.parquet(str(results / "scores"))
    types = dict(frame.dtypes)
    assert types["dt"] == "date"
    assert types["category"] == "string"
    assert (types["anomaly_score"], types["n_transforms"], types["bytes"]) == ("double", "smallint", "bigint")
    assert (types["scored_at"], types["attributes"]) == ("timestamp", "map<string,string>")
    found = {row["image_id"]: row.asDict() for row in frame.collect()}
    expected = {row["image_id"]: row for row in read_table(canonical(str(results)), SCORES).to_pylist()}
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        for column in ("uri", "member", "category", "dt", "status", "anomaly_score", "threshold", "width", "run_id"):
            assert found[name][column] == row[column]
        assert found[name]["attributes"] == dict(row["attributes"])
    one = frame.where(f"dt = '{DAY}' AND category = 'Größe 漢' AND status = 'anomalous'")
    assert one.count() == 1


def test_spark_reads_the_maps(spark: Any, results: Path) -> None:
    rows = spark.read.parquet(str(results / "maps")).collect()
    assert len(rows) == read_table(canonical(str(results)), MAPS).num_rows
    for row in rows:
        values = np.frombuffer(bytes(row["gradient_map"]), "<f2").reshape(row["map_height"], row["map_width"])
        assert values.shape == MAP_SHAPE
        np.testing.assert_array_equal(values, map_of(row["image_id"]))

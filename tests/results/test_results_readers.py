"""The published tables are read as they lie by the programs that people use: nothing is declared to any of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from staged_runs import CATEGORIES, DAY, MAP_SHAPE, a_run, manifest_of, map_of, published_run, stage

from differnet_ray.results.runs import read_table, stage_manifest, write_manifest
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MAPS, SCORES

DAYS = (DAY, DAY - timedelta(days=1))
Rows = dict[tuple[date, str], dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: two days of all categories, and a run that is still being staged."""
    folder = tmp_path_factory.mktemp("results")
    output, manifest = canonical(str(folder)), manifest_of(CATEGORIES)
    for day in DAYS:
        published_run(output, a_run(dt=day), manifest)
    unfinished = a_run(n_transforms="4")
    stage_manifest(output, unfinished, lambda uri: write_manifest(uri, manifest))
    stage(output, unfinished, pa.table({"image_id": ["not to be seen"]}))
    return folder


@pytest.fixture(scope="module")
def expected(results: Path) -> Rows:
    """The rows of the scores table, as this package reads them."""
    rows = plain(read_table(canonical(str(results)), SCORES).to_pylist())
    assert len(rows) == len(DAYS) * len(CATEGORIES) * 9
    return rows


def plain(rows: Iterable[dict[str, Any]]) -> Rows:
    """Returns (day, image id) -> row, with missing values, maps and days as Python has them."""
    found = [{name: _plain(name, value) for name, value in row.items()} for row in rows]
    by_key = {(row["dt"], row["image_id"]): row for row in found}
    assert len(by_key) == len(found)
    return by_key


def _plain(name: str, value: Any) -> Any:
    if name == "attributes":
        if isinstance(value, dict):
            return value
        return dict((entry["key"], entry["value"]) if isinstance(entry, dict) else entry for entry in value)
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    return date.fromisoformat(value) if name == "dt" and isinstance(value, str) else value


def test_pyarrow_reads_the_scores(results: Path, expected: Rows) -> None:
    assert plain(pq.read_table(results / "scores").to_pylist()) == expected


def test_pandas_reads_the_scores(results: Path, expected: Rows) -> None:
    frame = pd.read_parquet(results / "scores")
    assert plain(frame.to_dict("records")) == expected
    assert set(frame.columns) == set(SCORES.schema.names)
    n_anomalous = (frame[frame["category"] == "100% wool"]["status"] == "anomalous").sum()
    assert n_anomalous == len(DAYS)


def test_polars_reads_the_scores(results: Path, expected: Rows) -> None:
    frame = pl.read_parquet(results / "scores")
    assert plain(frame.to_dicts()) == expected
    assert frame.schema["dt"] == pl.Date


def test_polars_scans_the_scores_by_partition(results: Path, expected: Rows) -> None:
    lazy = pl.scan_parquet(results / "scores", hive_partitioning=True)
    assert plain(lazy.collect().to_dicts()) == expected
    one = lazy.filter((pl.col("dt") == DAY) & (pl.col("category") == "Größe 漢")).select("status").collect()
    assert one.height == 9


def test_duckdb_reads_the_scores(results: Path, expected: Rows) -> None:
    table = f"read_parquet('{results}/scores/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as database:
        rows = database.sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
        query = (
            f"SELECT category, attributes['line'], anomaly_score FROM {table} "
            "WHERE dt = DATE '2026-01-31' AND category = 'it''s \"quoted\"' AND status = 'anomalous'"
        )
        (found,) = database.sql(query).fetchall()
    assert plain(rows) == expected
    (row,) = [
        row
        for (day, _), row in expected.items()
        if (day, row["category"], row["status"]) == (DAY, 'it\'s "quoted"', "anomalous")
    ]
    assert found == (row["category"], row["attributes"]["line"], row["anomaly_score"])


def test_columns_of_nulls_have_their_type_in_every_reader(tmp_path: Path) -> None:
    published_run(canonical(str(tmp_path)), a_run(), statuses=["missing"])  # so no image has a score
    assert pq.read_table(tmp_path / "scores").schema.field("anomaly_score").type == pa.float64()
    assert pd.read_parquet(tmp_path / "scores")["anomaly_score"].dtype == np.float64
    assert pl.read_parquet(tmp_path / "scores").schema["anomaly_score"] == pl.Float64
    with duckdb.connect() as database:
        types = database.sql(f"SELECT * FROM read_parquet('{tmp_path}/scores/**/*.parquet')")
        assert dict(zip(types.columns, map(str, types.types), strict=True))["anomaly_score"] == "DOUBLE"


def test_gradient_maps_are_float16_in_every_reader(results: Path) -> None:
    with duckdb.connect() as database:
        files = f"read_parquet('{results}/maps/**/*.parquet', hive_partitioning = true)"
        by_duckdb = database.sql(f"SELECT * FROM {files}").to_arrow_table().to_pylist()
    for rows in (
        pq.read_table(results / "maps").to_pylist(),
        pd.read_parquet(results / "maps").to_dict("records"),
        pl.read_parquet(results / "maps").to_dicts(),
        by_duckdb,
    ):
        assert len(rows) == len(DAYS) * len(CATEGORIES)
        assert set(rows[0]) == set(MAPS.schema.names)
        for row in rows:
            values = np.frombuffer(row["gradient_map"], "<f2").reshape(row["map_height"], row["map_width"])
            assert values.shape == MAP_SHAPE
            np.testing.assert_array_equal(values, map_of(row["image_id"]), strict=True)


def test_duckdb_reads_the_records_of_the_runs(results: Path) -> None:
    records = [json.loads(path.read_text()) for path in (results / "runs").iterdir()]
    with duckdb.connect() as database:
        runs = f"read_json_auto('{results}/runs/*.json')"
        found = database.sql(f"SELECT run_id, dt, n_images, n_maps, counts.anomalous FROM {runs} ORDER BY dt DESC").fetchall()
        ((moment,),) = database.sql(f"SELECT min(epoch(finished_at::TIMESTAMPTZ)) FROM {runs}").fetchall()
    n_images = 9 * len(CATEGORIES)
    assert found == [(a_run(dt=day).run_id, day, n_images, len(CATEGORIES), len(CATEGORIES)) for day in DAYS]
    assert datetime.fromtimestamp(moment, UTC) == min(datetime.fromisoformat(record["finished_at"]) for record in records)

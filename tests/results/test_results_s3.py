"""Results on a real S3 server: published, read back and queried by DuckDB where they lie."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from s3fs import S3FileSystem
from staged_runs import CATEGORIES, LIBRARIES, MAP_SHAPE, a_run, by_id, manifest_of, map_of, scored

from differnet_ray import results
from differnet_ray.results.publish import publish
from differnet_ray.results.runs import staging, write_manifest
from differnet_ray.storage.files import exists, list_files, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.tables import SCORES

PLANT = manifest_of(CATEGORIES[:3])


def publish_on(output: str, scale: float, **options: str) -> str:
    """Publishes a run over the plant; returns its id."""
    run = a_run(**options)
    write_manifest(staging(output, run, "manifest"), PLANT)
    sink = pa.BufferOutputStream()
    pq.write_table(scored(PLANT, run, scale=scale), sink)
    write_bytes(join(staging(output, run, "rows"), "0.parquet"), sink.getvalue().to_pybytes())
    publish(output, run, LIBRARIES)
    return run.run_id


def test_results_are_published_replaced_and_queried_on_s3(bucket: str) -> None:
    output = join(bucket, "results")
    publish_on(output, 1.0, n_transforms="4")
    run_id = publish_on(output, 2.0, n_transforms="8")
    assert all(run_id in file.uri for file in list_files(join(output, "scores")))
    assert not exists(join(output, "_staging"))
    expected = by_id(scored(PLANT, a_run(n_transforms="8"), scale=2.0).select(SCORES.schema.names))
    assert by_id(results.scores(output).to_table()) == expected
    assert results.runs(output).count_rows() == 2
    with duckdb.connect() as database:
        database.register_filesystem(S3FileSystem())
        files = f"read_parquet('{output}/{{}}/*/*/*.parquet', hive_partitioning = true)"
        rows = database.sql(f"SELECT image_id, category, anomaly_score FROM {files.format('scores')}").fetchall()
        maps = database.sql(f"SELECT image_id, gradient_map FROM {files.format('maps')}").fetchall()
    assert {name: (category, score) for name, category, score in rows} == {
        name: (row["category"], row["anomaly_score"]) for name, row in expected.items()
    }
    for name, content in maps:
        np.testing.assert_array_equal(np.frombuffer(content, "<f2").reshape(MAP_SHAPE), map_of(name))
        np.testing.assert_array_equal(results.gradient_map(output, name, date=a_run().dt), map_of(name).astype(np.float32))

"""What a count of anomalies reads of a million published rows, and how long publishing them takes.

    python -m benchmarks.pruning [ROWS]

Ten days of five categories, published by the code that scoring jobs use, in one process. The bytes that DuckDB reads are those
of its read calls (`rchar` of /proc/self/io).
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.results.publish import publish
from differnet_ray.results.runs import Run, plan_run, staging
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MANIFEST, STAGED, conform

DAYS, CATEGORIES, ROWS_PER_STAGED_FILE = 10, ("board", "fabric", "screw", "tile", "washer"), 1024


def main(n: int) -> None:
    """Prints what was read, and DuckDB's account of it."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="dr") as folder:
        output, seconds = canonical(folder), 0.0
        for day in range(DAYS):
            run = plan_run(dt=date(2026, 1, 1) + timedelta(days=day), listing_digest=str(day), models={}, options={})
            _stage(output, run, n // DAYS, rng)
            began = time.monotonic()
            publish(output, run, {})
            seconds += time.monotonic() - began
        stored = sum(path.stat().st_size for path in (Path(folder) / "scores").rglob("*.parquet"))
        table = f"read_parquet('{folder}/scores/*/*/*.parquet', hive_partitioning = true)"
        query = f"SELECT dt, category, count(*) FILTER (status = 'anomalous') FROM {table} GROUP BY ALL"  # noqa: S608
        one_day = query.replace(" GROUP", " WHERE dt = DATE '2026-01-03' AND category = 'screw' GROUP")
        with duckdb.connect(config={"threads": 1}) as database:
            for name, sql in (("all days and categories", query), ("one day and category", one_day)):
                before = _bytes_read()
                rows = database.sql(sql).fetchall()
                read = _bytes_read() - before
                print(f"{name}: {len(rows)} rows, read {read:,} of {stored:,} bytes: {100 * read / stored:.2f} %")
                print(database.sql(f"EXPLAIN ANALYZE {sql}").fetchall()[0][1])
        print(f"published {n:,} rows in {seconds:.1f} s")


def _stage(output: str, run: Run, n: int, rng: np.random.Generator) -> None:
    """Stages rows as a scoring job does: by category, in files of a thousand."""
    ids = [f"{high:016x}{low:016x}" for high, low in rng.integers(0, 2**63, (n, 2))]
    scores = rng.lognormal(0, 0.3, n)
    categories = np.repeat(CATEGORIES, -(-n // len(CATEGORIES)))[:n].tolist()
    uris = [f"s3://plant/{category}/{run.dt}/{number:08d}.jpg" for number, category in enumerate(categories)]
    etags = [name[:32] for name in ids]
    kind = MANIFEST.schema.field("attributes").type
    known = {
        "image_id": ids,
        "uri": uris,
        "category": categories,
        "etag": etags,
        "attributes": pa.array([[("line", "3")]] * n, kind),
    }
    manifest = pa.Table.from_pydict({name: known.get(name, pa.nulls(n)) for name in MANIFEST.schema.names})
    rows = {
        **known,
        "dt": [run.dt] * n,
        "run_id": [run.run_id] * n,
        "status": np.where(scores > 2, "anomalous", np.where(scores > 1.6, "review", "ok")),
        "anomaly_score": scores,
        "score_std": scores / 10,
        "p_value": rng.random(n),
        "threshold": np.full(n, 2.0),
        "review_threshold": np.full(n, 1.6),
        "n_transforms": [64] * n,
        "width": [1024] * n,
        "height": [768] * n,
        "bytes": rng.integers(50_000, 500_000, n),
        "model_version": ["20260101T000000Z-aaaaaaaa"] * n,
        "model_digest": ["a" * 64] * n,
        "scored_at": [datetime(2026, 1, 1, tzinfo=UTC)] * n,
    }
    staged = pa.Table.from_pydict({name: rows.get(name, pa.nulls(n)) for name in STAGED.names})
    for part, table, schema, at_once in (
        ("manifest", manifest, MANIFEST.schema, n),
        ("rows", staged, STAGED, ROWS_PER_STAGED_FILE),
    ):
        folder = Path(staging(output, run, part).removeprefix("file://"))
        folder.mkdir(parents=True)
        whole = conform(table.select(schema.names), schema)
        for start in range(0, n, at_once):
            pq.write_table(whole.slice(start, at_once), folder / f"{start:08d}.parquet")


def _bytes_read() -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

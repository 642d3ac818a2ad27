"""The rows of the table `drift`: a file for each night, OUTPUT/drift/dt=YYYY-MM-DD/drift.parquet, replaced as a whole."""

from __future__ import annotations

import io
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.results.runs import open_table
from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.tables import DRIFT, conform

FILE = "drift.parquet"


def write_drift(output: str, dt: date, rows: pa.Table) -> str:
    """Makes the rows of a night visible, in place of those that it had; returns the URI of their file."""
    schema = DRIFT.file_schema.with_metadata({"differnet_ray.schema_version": f"{DRIFT.name} {DRIFT.version}"})
    sink = io.BytesIO()
    pq.write_table(conform(rows, DRIFT.schema).select(schema.names).cast(schema), sink, compression="zstd")
    uri = join(output, DRIFT.name, f"dt={dt}", FILE)
    write_bytes(uri, sink.getvalue())
    return uri


def drift_before(output: str, dt: date, days: int) -> pa.Table:
    """The rows of the nights before one, of so many days at most, sorted by category and night (`tables.DRIFT`)."""
    try:
        rows = open_table(output, DRIFT)
    except FileNotFoundError:
        return DRIFT.schema.empty_table()
    wanted = (pc.field("dt") < dt) & (pc.field("dt") >= dt - timedelta(days=days))
    found = rows.to_table(columns=DRIFT.schema.names, filter=wanted)
    return conform(found, DRIFT.schema).sort_by([("category", "ascending"), ("dt", "ascending")])

"""DuckDB over published and staged rows, in bounded memory: what is too large goes to the local disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.storage.files import open_input

MEMORY = "1GB"


@contextmanager
def bounded_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory, with a temporary folder, that is gone after the block."""
    with (
        tempfile.TemporaryDirectory(prefix="differnet-ray-") as folder,
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder, "threads": 1}) as database,
    ):
        database.execute("SET TimeZone = 'UTC'")
        yield database


def image_ids(uris: Sequence[str]) -> pa.RecordBatchReader:
    """The column `image_id` of some Parquet files, a row group at a time."""
    batches = (batch for uri in uris for group in row_groups(uri, ["image_id"]) for batch in group.to_batches())
    return pa.RecordBatchReader.from_batches(pa.schema([("image_id", pa.string())]), batches)


# Through `open_input`: Arrow's own reads from S3 are not tried again when an answer was cut short
def row_groups(uri: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Some columns of a Parquet file, or all, a row group at a time."""
    with open_input(uri) as source, pq.ParquetFile(source) as file:
        for n in range(file.num_row_groups):
            yield file.read_row_group(n, columns=columns)

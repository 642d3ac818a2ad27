"""What a publication takes from the files of other runs: their rows of the images that it holds itself, and their maps.

A file without a common image stays as it is; one that has some is written again without them, under its name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.results.sql import bounded_database, image_ids, row_groups
from differnet_ray.storage.files import StoredFile, delete, list_files, open_input, write_bytes


@dataclass(frozen=True)
class Replaced:
    """A published file that loses rows.

    Attributes:
        uri: canonical URI.
        etag: of the file with these rows.
        n_rows: that it loses.
        is_emptied: it loses all of them.
    """

    uri: str
    etag: str
    n_rows: int
    is_emptied: bool


def whole(file: StoredFile) -> Replaced:
    """A file that loses all its rows."""
    with open_input(file.uri) as source:
        return Replaced(file.uri, file.etag, pq.read_metadata(source).num_rows, True)


def overlapping(files: Sequence[StoredFile], newer: Sequence[str]) -> list[Replaced]:
    """Of some files, those that lose rows to newer ones.

    Args:
        files: of one (table, day, category).
        newer: URIs of the files of `scores` whose images are taken out of them.
    """
    if not files:
        return []
    found = []
    with bounded_database() as database:
        database.register("newer", image_ids(newer))
        database.execute("CREATE TABLE taken AS SELECT DISTINCT image_id FROM newer")
        for file in files:
            database.register("older", image_ids([file.uri]))
            query = "SELECT count(*), count(*) FILTER (image_id IN (FROM taken)) FROM older"
            ((n_rows, n_taken),) = database.execute(query).fetchall()
            if n_taken:
                found.append(Replaced(file.uri, file.etag, n_taken, n_taken == n_rows))
    return found


def take_out(replaced: Replaced, newer: Sequence[str]) -> None:
    """Takes rows out of a file, unless that has been done already: then its etag is another one.

    Args:
        replaced: the file.
        newer: as in `overlapping`.
    """
    with suppress(FileNotFoundError):
        if [file.etag for file in list_files(replaced.uri)] == [replaced.etag]:
            if replaced.is_emptied:
                delete(replaced.uri)
            else:
                write_bytes(replaced.uri, _without(replaced.uri, newer))


def _without(uri: str, newer: Sequence[str]) -> bytes:
    """The content of a file without the rows of some images."""
    with bounded_database() as database:
        database.register("newer", image_ids(newer))
        database.register("older", image_ids([uri]))
        query = "SELECT DISTINCT image_id FROM older SEMI JOIN newer USING (image_id)"
        taken = database.sql(query).to_arrow_table()["image_id"]
    with open_input(uri) as source:
        schema = pq.read_schema(source)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in row_groups(uri):
            rows = group.filter(pc.invert(pc.is_in(group["image_id"], value_set=taken)))
            if rows.num_rows:
                writer.write_table(rows)
    return sink.getvalue()

"""The images that are proposed for the next fit of a category: a manifest as `fit --manifest` takes it.

published rows of the last nights -> those that may be taken -> evenly of every part and its nights -> a Parquet file

Of what has not changed that is what nobody would doubt: never flagged, and a score within the middle of the calibration scores.
Where something has changed, such as a camera, images of before are of something else, and the thresholds of before say
nothing: of every night and part since, the highest fifth of the scores is left out, whatever their status.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.results.runs import open_table
from differnet_ray.results.sql import bounded_database
from differnet_ray.storage.files import write_bytes
from differnet_ray.tables import SCORED_STATUSES, SCORES

MOST, FEWEST = 2_000, 20  # images of a manifest
NIGHTS = 28  # that are looked back on
TAKEN = 0.8  # of the images of a night and part since a change, those with the lower scores
_KNOWN = ("uri", "member", "category", "captured_at")
_MEANT_OTHERWISE = ("path", "file", "filename", "image", "offset", "size", "etag", "split", "defect", *_KNOWN)
_CHOSEN_BY = ("image_id", "status", "anomaly_score", "attributes", "dt")

Part = tuple[str, str]  # attribute and value; two empty texts are all images


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        category: of the images.
        dt: the last night.
        since: the first night after the change.
        changed: the part that changed.
        attributes: that images are taken evenly of.
        inner: lowest and highest score of what has not changed; None: any.
    """

    category: str
    dt: date
    since: date
    changed: Part
    attributes: tuple[str, ...]
    inner: tuple[float, float] | None

    @property
    def nights(self) -> list[date]:
        """Those that have images of it, the first one first."""
        n = (self.dt - self.since).days + 1 if self.changed == ("", "") else NIGHTS
        return [self.dt - timedelta(days=n - 1 - k) for k in range(n)]


def write_next_fit(output: str, uri: str, wanted: Wanted) -> tuple[int, int]:
    """Writes the manifest, in place of one that there was; of fewer than `FEWEST` images none is written.

    Images are drawn by their ids, in turn of each part and, of a part, of each night: the same rows give the same manifest, and
    a part that changed yesterday has its share.

    Args:
        output: canonical URI of the results.
        uri: of the manifest.
        wanted: which images.

    Returns:
        Images, and how many of them are of what changed.
    """
    low, high = wanted.inner or (float("-inf"), float("inf"))
    name, value = wanted.changed
    with bounded_database() as database:
        database.register("scores", _rows(output, wanted, _CHOSEN_BY))
        parts = ", ".join("attributes[?]" for _ in wanted.attributes)
        database.execute(
            f"""
            CREATE TABLE image AS SELECT image_id, dt, status, anomaly_score AS score,
                [{parts}]::VARCHAR[] AS part, ? = '' OR coalesce(attributes[?] = ?, false) AS changed
            FROM scores
            """,  # noqa: S608
            [*wanted.attributes, name, name, value],
        )
        chosen: pa.Table = database.sql(
            f"""
            WITH newest AS (
                SELECT *, bool_or(status IN ('review', 'anomalous')) OVER (PARTITION BY image_id) AS flagged
                FROM image QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY dt DESC) = 1
            ), usable AS (
                SELECT *, percent_rank() OVER (PARTITION BY changed, dt, part ORDER BY score, image_id) AS place
                FROM newest WHERE status IN {SCORED_STATUSES}
            ), taken AS (
                SELECT * FROM usable WHERE CASE WHEN changed THEN dt >= ? AND place <= ?
                ELSE NOT flagged AND score BETWEEN ?::DOUBLE AND ?::DOUBLE END
            ), in_turn AS (
                SELECT *, row_number() OVER (PARTITION BY part, dt ORDER BY image_id) AS of_night FROM taken
            )
            SELECT image_id, dt, changed FROM in_turn
            ORDER BY row_number() OVER (PARTITION BY part ORDER BY of_night, image_id), image_id LIMIT ?
            """,  # noqa: S608
            params=[wanted.since, TAKEN, str(low), str(high), MOST],
        ).to_arrow_table()
        if chosen.num_rows < FEWEST:
            return 0, 0
        database.register("again", _rows(output, wanted, ("image_id", "dt", "attributes", *_KNOWN)))
        database.register("chosen", chosen)
        images: pa.Table = database.sql(
            "SELECT again.* EXCLUDE (image_id, dt) FROM again SEMI JOIN chosen USING (image_id, dt) ORDER BY uri, member"
        ).to_arrow_table()
    sink = io.BytesIO()
    pq.write_table(_manifest(images), sink, compression="zstd")
    write_bytes(uri, sink.getvalue())
    return chosen.num_rows, sum(chosen["changed"].to_pylist())


def _rows(output: str, wanted: Wanted, columns: Sequence[str]) -> pa.RecordBatchReader:
    """Published rows of the nights, a batch at a time."""
    schema = pa.schema([SCORES.schema.field(name) for name in columns])

    def batches() -> Iterator[pa.RecordBatch]:
        for night in wanted.nights:
            of_night = open_table(output, SCORES, dt=night, category=wanted.category)
            yield from (batch.cast(schema) for batch in of_night.to_batches(columns=schema.names))

    return pa.RecordBatchReader.from_batches(schema, batches())


def _manifest(images: pa.Table) -> pa.Table:
    """A column for each attribute; all are good images to train on."""
    attributes = [dict(values or ()) for values in images["attributes"].to_pylist()]
    known = {name.lower() for name in _MEANT_OTHERWISE}
    names = sorted({name for values in attributes for name in values if name.lower() not in known})
    table = images.select(list(_KNOWN))
    for name in names:
        table = table.append_column(name, pa.array([values.get(name) for values in attributes], pa.string()))
    for name, value in (("split", "train"), ("defect", "good")):
        table = table.append_column(name, pa.array([value] * images.num_rows, pa.string()))
    return table

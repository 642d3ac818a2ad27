"""The rows of the table `drift`: a file for each night, OUTPUT/drift/dt=YYYY-MM-DD/drift.parquet, replaced as a whole.

Legend: the verdict of a category is the gravest of its rows, of the whole and of its parts; where nothing can be said of its
scores, it is not judged.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.results.runs import open_table
from differnet_ray.storage.files import list_folders, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.tables import DRIFT, conform

FILE = "drift.parquet"
NO_IMAGES = "no_images"
VERDICTS = ("alarm", "muted", NO_IMAGES, "no_reference", "ok")  # of a category, the gravest first


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


def nights_of_drift(output: str) -> list[date]:
    """The nights that have been judged, the oldest first."""
    return [date.fromisoformat(name.removeprefix("dt=")) for name in list_folders(join(output, DRIFT.name))]


def drift_of(output: str, dt: date, columns: Sequence[str], wanted: pc.Expression | None = None) -> pa.Table:
    """Some columns of the rows of one night, of all or of those that are wanted; no rows where the night has none."""
    try:
        return open_table(output, DRIFT, dt=dt).to_table(columns=list(columns), filter=wanted)
    except FileNotFoundError:
        return DRIFT.schema.empty_table().select(columns)


def verdicts_of(rows: pa.Table) -> dict[str, str]:
    """Category to its verdict, one of `VERDICTS`.

    Args:
        rows: of one night, with the columns category, attribute, measure, value, model_version and verdict.
    """
    judged = {"alarm": 0, "muted": 1, "elsewhere": 2, "ok": 3, "no_reference": 4}
    # a category is judged where one of its rows that depend on scores is: without a model it is not
    without = pc.and_(pc.equal(rows["verdict"], "ok"), pc.is_null(rows["model_version"]))
    found_as = pc.if_else(without, "no_reference", rows["verdict"])
    rows = rows.set_column(rows.column_names.index("verdict"), "verdict", found_as)
    found: dict[str, str] = {}
    for pair in rows.group_by(["category", "verdict"]).aggregate([]).to_pylist():
        known = found.setdefault(pair["category"], pair["verdict"])
        found[pair["category"]] = min(known, pair["verdict"], key=judged.__getitem__)
    whole = (pc.field("attribute") == "") & (pc.field("measure") == "images") & (pc.field("value") == 0)
    for category in rows.filter(whole)["category"].to_pylist():
        if found[category] not in ("alarm", "muted"):
            found[category] = NO_IMAGES
    return dict(sorted(found.items()))

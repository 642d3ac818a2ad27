"""What scoring runs have published, for programs: datasets of Arrow, which read what a filter and the wanted columns need.

    from differnet_ray import results

    rows = results.scores("s3://plant/results", date="2026-01-31", category="screw")
    worst = rows.to_table(columns=["uri", "anomaly_score"], filter=pc.field("status") == "anomalous")
    image = results.gradient_map("s3://plant/results", worst_id, date="2026-01-31", category="screw")

While a run is being published, readers may see the old and the new rows of a (day, category) at once, never neither.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.results.runs import RUNS_FOLDER, open_table, run_ids
from differnet_ray.storage.files import read_bytes
from differnet_ray.storage.locations import canonical, join
from differnet_ray.table_contract import Table
from differnet_ray.tables import GREY_CLIPPED, MAPS, RUNS, SCORES

RUNS_NAMED = 20  # in the message that there is no such run


def scores(output: str, *, date: datetime.date | str | None = None, category: str | None = None) -> ds.Dataset:
    """The published rows of the table `scores`.

    Args:
        output: location of the results.
        date: of the partition, a date or `YYYY-MM-DD`; None for all days.
        category: None for all.

    Returns:
        A dataset of the declared schema (`tables.SCORES`), with `dt` and `category` as columns.

    Raises:
        FileNotFoundError: nothing has been published there.
        ConfigError: `date` is no date.
        StorageError: it cannot be listed.
    """
    return _rows(output, SCORES, date, category)


def maps(output: str, *, date: datetime.date | str | None = None, category: str | None = None) -> ds.Dataset:
    """The published rows of the table `maps`; arguments and errors as of `scores`."""
    return _rows(output, MAPS, date, category)


def runs(output: str) -> ds.Dataset:
    """The published runs, a row for each, the oldest first (`tables.RUNS`); errors as of `scores`."""
    output = canonical(output)
    records = [run(output, run_id) for run_id in run_ids(output)]
    records.sort(key=lambda record: (record["finished_at"], record["run_id"]))
    return ds.dataset(pa.Table.from_pylist([_row(record) for record in records], schema=RUNS.schema))


def run(output: str, run_id: str) -> dict[str, Any]:
    """The content of a run file.

    Raises:
        ConfigError: there is no such run; names those that there are.
        StorageError: it cannot be read, or is damaged.
    """
    output = canonical(output)
    uri = join(output, RUNS_FOLDER, f"{run_id}.json")
    try:
        if "/" in run_id:  # it must not lead out of the folder
            raise FileNotFoundError(run_id)
        record = json.loads(read_bytes(uri))
    except FileNotFoundError as error:
        try:
            known = run_ids(output)
        except FileNotFoundError:
            known = []
        more = f", and {len(known) - RUNS_NAMED} older ones" if len(known) > RUNS_NAMED else ""
        there_are = f"{', '.join(known[-RUNS_NAMED:]) or 'none'}{more}"
        raise ConfigError(f"no run {run_id!r} has been published in {output}; there are: {there_are}") from error
    except ValueError as error:
        raise StorageError(f"{uri} is damaged, not JSON: score the run again") from error
    if not isinstance(record, dict):
        raise StorageError(f"{uri} is damaged, not an object: score the run again")
    record = {"skipped": {}, "replaced": {}} | record  # run files of older versions lack them
    if missing := [name for name in RUNS.schema.names if name not in record]:
        raise StorageError(f"{uri} is damaged, it lacks {', '.join(missing)}: score the run again")
    return record


def n_clipped(output: str, date: datetime.date | str, run_id: str, category: str) -> int:
    """Published images of a run and category that have the attribute `tables.GREY_CLIPPED`; errors as of `scores`."""
    share = pc.map_lookup(pc.field("attributes"), pa.scalar(GREY_CLIPPED), "first")
    of_run = pc.field("run_id") == run_id
    return int(scores(output, date=date, category=category).count_rows(filter=of_run & share.is_valid()))


def gradient_map(
    output: str, image_id: str, *, date: datetime.date | str | None = None, category: str | None = None
) -> NDArray[np.float32]:
    """The newest published gradient map of an image, (map_height, map_width); a day and a category make the search short.

    1 is what 1 % of the pixels of unseen good images exceed, whatever the category.

    Raises:
        KeyError: the image has none.
        FileNotFoundError, ConfigError, StorageError: as of `scores`.
    """
    columns = ["dt", "map_height", "map_width", "gradient_map"]
    found = maps(output, date=date, category=category).to_table(columns=columns, filter=pc.field("image_id") == image_id)
    if not found.num_rows:
        raise KeyError(f"{output} has no gradient map of the image {image_id}")
    return as_array(found.sort_by([("dt", "descending")]).slice(0, 1).to_pylist()[0])


def as_array(row: dict[str, Any]) -> NDArray[np.float32]:
    """The gradient map of a row of `maps`, (map_height, map_width)."""
    flat = np.frombuffer(row["gradient_map"], "<f2")
    return flat.reshape(row["map_height"], row["map_width"]).astype(np.float32)


def _rows(output: str, table: Table, date: datetime.date | str | None, category: str | None) -> ds.Dataset:
    if isinstance(date, str):
        try:
            date = datetime.date.fromisoformat(date)
        except ValueError as error:
            raise ConfigError(f"date {date!r}: expected YYYY-MM-DD") from error
    return open_table(canonical(output), table, dt=date, category=category)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field in RUNS.schema:
        value: Any = record.get(field.name)
        if pa.types.is_map(field.type):
            value = _pairs(value or {})
        elif pa.types.is_timestamp(field.type):
            value = datetime.datetime.fromisoformat(value)
        elif pa.types.is_date(field.type):
            value = datetime.date.fromisoformat(value)
        row[field.name] = value
    return row


def _pairs(mapping: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, _pairs(value) if isinstance(value, dict) else value) for key, value in mapping.items()]

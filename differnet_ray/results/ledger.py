"""The ledger: which images have been audited, as which etag, so that a night is what is new or changed since the last one.

OUTPUT/audit/ledger.json           the files that are the ledger, and the audit after which they were; replaced as a whole
OUTPUT/audit/ledger/*.parquet      image_id, category, etag, night: a file for each first digit of the ids, sorted by id

A listing is compared file by file, in bounded memory. Only files that change are written, under new names: until
`ledger.json` names them, nothing has happened.
"""

from __future__ import annotations

import io
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.errors import StorageError
from differnet_ray.results.sql import bounded_database, row_groups
from differnet_ray.storage.files import delete, list_files, read_bytes, write_bytes
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import DAY

AUDIT_FOLDER, LEDGER, LEDGER_FILE = "audit", "ledger", "ledger.json"
DIGITS = "0123456789abcdef"
EVER = date.min  # since then: all images
_SAME, _NEW, _CHANGED, _AGAIN = range(4)

AUDITED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("night", pa.date32(), nullable=False),
    ]
)

# of each image of a digit: what it is now, what was known of it, and where it stands in the listing (null: it is gone)
_COMPARED = f"""
    SELECT image_id, place,
        if(place IS NULL, known.category, listed.category) AS category,
        if(place IS NULL, known.etag, listed.etag) AS etag,
        CASE
            WHEN known.image_id IS NULL THEN {_NEW}
            WHEN known.etag IS DISTINCT FROM listed.etag OR known.category <> listed.category THEN {_CHANGED}
            WHEN known.night >= $since THEN {_AGAIN}
            ELSE {_SAME}
        END AS state,
        if(place IS NULL OR state = {_SAME}, known.night, $dt) AS night
    FROM listed FULL JOIN known USING (image_id) ORDER BY image_id
"""  # noqa: S608
_LATE = f"""
    SELECT category, count(*) FROM images
    WHERE coalesce(CAST(captured_at AS DATE), TRY_CAST(attributes['{DAY}'] AS DATE)) < $last GROUP BY ALL
"""  # noqa: S608


@dataclass(frozen=True)
class Ledger:
    """What has been audited.

    Attributes:
        audit_id: the last audit; empty where there was none.
        dt: its night.
        inputs: canonical URIs of the locations that have been listed so far.
        files: first digit of image ids to the name of the file that holds them.
        n_images: in all files.
    """

    audit_id: str = ""
    dt: date | None = None
    inputs: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    n_images: int = 0

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return asdict(self) | {"dt": self.dt and str(self.dt)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Ledger:
        """The ledger of `as_json`."""
        dt = values["dt"] and date.fromisoformat(values["dt"])
        return Ledger(values["audit_id"], dt, tuple(values["inputs"]), dict(values["files"]), values["n_images"])

    def covered_by(self, inputs: Iterable[str]) -> bool:
        """Whether all that was listed before lies in or below some locations: then what is not found in them is gone."""
        return all(any(_is_in(known, uri) for uri in inputs) for known in self.inputs)


@dataclass(frozen=True)
class Comparison:
    """How a listing differs from the ledger.

    Attributes:
        listed: category to images of the listing.
        changes: kind of change to category to images. `new`, `changed` and `again` are to be scored; of the new ones `late`
            are those of a day (captured_at, else the attribute `date`) before the last audited night; `removed` are gone.
        is_whole: the listing covers what was listed before; else nothing is said of images that are not in it, which stay.
        taken: how many are to be scored.
        files: as of `Ledger`, once these images are audited.
        n_images: in those.
    """

    listed: Mapping[str, int]
    changes: Mapping[str, Mapping[str, int]]
    is_whole: bool
    taken: int
    files: Mapping[str, str]
    n_images: int


def read_ledger(output: str) -> Ledger:
    """The ledger of some results; an empty one where nothing has been audited.

    Raises:
        StorageError: it is damaged.
    """
    uri = join(output, AUDIT_FOLDER, LEDGER_FILE)
    try:
        return Ledger.from_json(json.loads(read_bytes(uri)))
    except FileNotFoundError:
        return Ledger()
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{uri} is damaged ({error}): delete it, and the next audit takes all images as new") from error


def write_ledger(output: str, ledger: Ledger) -> None:
    """Makes it the ledger, and removes the files that are in it no more."""
    write_bytes(join(output, AUDIT_FOLDER, LEDGER_FILE), (json.dumps(ledger.as_json(), indent=2) + "\n").encode())
    drop_unused(output, ledger)


def drop_unused(output: str, ledger: Ledger) -> None:
    """Removes files of ledgers that were replaced, or never came to be."""
    try:
        files = [file.uri for file in list_files(join(output, AUDIT_FOLDER, LEDGER))]
    except FileNotFoundError:
        return
    for uri in files:
        if name_of(uri) not in ledger.files.values():
            delete(uri)


def compare(
    output: str,
    ledger: Ledger,
    listing: pa.Table,
    *,
    dt: date,
    inputs: Sequence[str],
    since: date | None = None,
    write: bool = True,
) -> tuple[Comparison, pa.Table]:
    """Finds the images that are to be audited.

    Args:
        output: canonical URI of the results.
        ledger: what has been audited.
        listing: rows of `tables.MANIFEST`, each image once.
        dt: the night.
        inputs: canonical URIs of the locations that the listing is of.
        since: images that were audited in this night or later are taken again; `EVER` takes all.
        write: write the files of the ledger as it will be.

    Returns:
        The comparison, and the rows of the listing that are to be scored, in its order.
    """
    is_whole = ledger.covered_by(inputs)
    states = np.empty(listing.num_rows, np.int8)
    removed, files, n_images = Counter[str](), dict[str, str](), 0
    listed = listing.select(["image_id", "category", "etag"]).append_column("place", pa.array(np.arange(listing.num_rows)))
    days = {"dt": dt, "since": since or date.max}
    with bounded_database() as database:
        for digit in DIGITS:
            known = _known(output, ledger.files.get(digit))
            of_digit = listed.filter(pc.starts_with(listed["image_id"], digit))
            if not known.num_rows + of_digit.num_rows:
                continue
            both = _compared(database, of_digit, known, days)
            is_gone = pc.is_null(both["place"])
            here = both.filter(pc.invert(is_gone))
            states[here["place"].to_numpy()] = here["state"].to_numpy()
            audited = here if is_whole else both
            n_gone = both.num_rows - here.num_rows if is_whole else 0
            if n_gone:
                removed.update(both.filter(is_gone)["category"].to_pylist())
            n_images += audited.num_rows
            if digit in ledger.files and not n_gone and not pc.any(pc.not_equal(here["state"], _SAME)).as_py():
                files[digit] = ledger.files[digit]
            elif audited.num_rows:
                files[digit] = f"{digit}-{uuid.uuid4().hex[:12]}.parquet"
                if write:
                    write_bytes(join(output, AUDIT_FOLDER, LEDGER, files[digit]), _parquet(audited))
    by_kind = {kind: _of(listing, states, state) for kind, state in (("new", _NEW), ("changed", _CHANGED), ("again", _AGAIN))}
    found: dict[str, dict[str, int]] = {
        **{kind: _by_category(rows) for kind, rows in by_kind.items()},
        "removed": dict(sorted(removed.items())),
        "late": _late(by_kind["new"], ledger.dt),
    }
    taken = _of(listing, states)
    return Comparison(_by_category(listing), found, is_whole, taken.num_rows, files, n_images), taken


def _known(output: str, name: str | None) -> pa.Table:
    """A file of the ledger."""
    if name is None:
        return AUDITED.empty_table()
    uri = join(output, AUDIT_FOLDER, LEDGER, name)
    try:
        return pa.concat_tables([AUDITED.empty_table(), *row_groups(uri)])
    except (FileNotFoundError, StorageError, pa.ArrowException) as error:
        raise StorageError(
            f"{uri} is gone or damaged ({error}): run it again when no audit is at work; where that does not help, delete "
            f"{LEDGER_FILE} beside its folder: the next audit takes all images as new"
        ) from error


def _compared(database: duckdb.DuckDBPyConnection, listed: pa.Table, known: pa.Table, days: Mapping[str, date]) -> pa.Table:
    database.register("listed", listed)
    database.register("known", known)
    return database.sql(_COMPARED, params=dict(days)).to_arrow_table()


def _of(listing: pa.Table, states: npt.NDArray[np.int8], state: int | None = None) -> pa.Table:
    """The images in a state, or in any other than the same."""
    wanted = states != _SAME if state is None else states == state
    return listing if wanted.all() else listing.filter(pa.array(wanted))


def _by_category(rows: pa.Table) -> dict[str, int]:
    counts = pc.value_counts(rows["category"]).to_pylist()
    return dict(sorted((entry["values"], entry["counts"]) for entry in counts))


def _late(new: pa.Table, last: date | None) -> dict[str, int]:
    if last is None:
        return {}
    with bounded_database() as database:
        database.register("images", new.select(["category", "captured_at", "attributes"]))
        return dict(sorted(database.execute(_LATE, {"last": last}).fetchall()))


def outermost(uris: Iterable[str]) -> tuple[str, ...]:
    """Of some locations those that lie in no other, sorted.

    Example:
        >>> outermost(["s3://plant/b", "s3://plant/a/line1", "s3://plant/a", "s3://plant/b"])
        ('s3://plant/a', 's3://plant/b')
    """
    known = set(uris)
    return tuple(sorted(uri for uri in known if not any(_is_in(uri, other) for other in known - {uri})))


def _is_in(uri: str, location: str) -> bool:
    return uri == location or uri.startswith(join(location, ""))


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows.select(AUDITED.names).cast(AUDITED), sink, compression="zstd")
    return sink.getvalue()

"""The manifest: the images of an archive, each of one category, under a stable id, in an order that does not change."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.archives.index import Naming, Tally, index_source, path_of, sources_of
from differnet_ray.config import AUTO_GROUPS, GROUP_BY, NO_GROUPS
from differnet_ray.errors import ConfigError
from differnet_ray.storage.files import READ_THREADS
from differnet_ray.tables import MANIFEST, check_category, conform
from differnet_ray.threads import map_ahead

_ORDER = ("category", "uri", "offset", "member")
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Listing:
    """The images of some locations, in memory.

    Attributes:
        table: manifest rows (`tables.MANIFEST`), sorted by category, URI and offset, ids unique.
        skipped: files that are not images to score, counted by reason (`hidden`, `mask`, `not an image`, and of members of
            archives `not a regular file` and `replaced later in its archive`).
    """

    table: pa.Table
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def categories(self) -> list[str]:
        """The categories, sorted."""
        return sorted(pc.unique(self.table["category"]).to_pylist())

    def digest(self) -> str:
        """As `listing_digest`."""
        return listing_digest(self.table)


def list_images(
    locations: Sequence[str], *, category: str | None = None, path_pattern: str | None = None, limit: int | None = None
) -> Listing:
    """Lists the images of some locations, here and now; `distributed.index` does it for archives of any size.

    Args:
        locations: folders or prefixes, where archives are looked into as well; single image files or archives; manifests
            (.csv, .jsonl, .ndjson, .parquet; see `given_manifest.py`). Local or s3://.
        category: as in `index.Naming`.
        path_pattern: as in `index.Naming`.
        limit: keep the first so many rows.

    Raises:
        ConfigError: a location is missing or holds no image, an archive or manifest is damaged, the pattern is malformed, or
            an image has no category.
    """
    naming, tables = Naming(category, path_pattern), []
    if category is not None:
        check_category(category)
    sources = sources_of(locations)
    tally = Tally(sources)
    while sources:
        below = []
        results = map_ahead(lambda source: index_source(source, naming), sources, READ_THREADS)
        for source, (table, found) in zip(sources, results, strict=True):
            tally.add(source, found)
            tables.append(table)
            below += found.sources
        sources = below
    tally.check()
    table, unplaced = merged(tables, limit)
    if unplaced.num_rows:
        raise ConfigError(no_category(unplaced))
    return Listing(table, dict(tally.skipped))


def merged(tables: Iterable[pa.Table], limit: int | None = None) -> tuple[pa.Table, pa.Table]:
    """The rows of several sources as one manifest.

    Args:
        tables: of `index.FOUND`; of rows with the same id the last one counts.
        limit: keep the first so many rows.

    Returns:
        Sorted manifest rows, and the rows of which nothing says the category.

    Raises:
        ConfigError: a category cannot be one.
    """
    rows = pa.concat_tables(tables)
    places = pa.array(np.arange(rows.num_rows))
    last = pa.table({"id": rows["image_id"], "place": places}).group_by("id").aggregate([("place", "max")])["place_max"]
    if len(last) < rows.num_rows:
        rows = rows.take(last)
    rows = rows.sort_by([(name, "ascending") for name in _ORDER])  # nulls come last
    n_placed = rows.num_rows - rows["category"].null_count
    for name in pc.unique(rows["category"].slice(0, n_placed)).to_pylist():
        check_category(name)
    placed = rows.slice(0, n_placed if limit is None else min(limit, n_placed))
    return conform(placed, MANIFEST.schema), rows.slice(n_placed)


def no_category(unplaced: pa.Table) -> str:
    """What to say of images of which nothing says the category, rows of `index.FOUND`."""
    first = min(map(path_of, unplaced["uri"].to_pylist(), unplaced["member"].to_pylist()))
    return (
        f"{unplaced.num_rows} images have no category, the first is {first}: give --category NAME, a --path-pattern "
        "such as '{line}/{category}/{name}', or use the layout <category>/test/<defect>/<name>"
    )


def listing_digest(manifest: pa.Table) -> str:
    """SHA-256 of manifest rows: changes when an image is added, removed, replaced, or its path read otherwise."""
    digest = hashlib.sha256()
    for batch in manifest.to_batches(_ROWS_AT_ONCE):
        columns = [batch[name] for name in ("image_id", "offset", "size", "etag", "category", "attributes")]
        columns.append(batch["captured_at"].cast(pa.int64()))
        for row in zip(*(column.to_pylist() for column in columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def select(listing: Listing, *, categories: Sequence[str] = (), split: str | None = None, defect: str | None = None) -> Listing:
    """The rows of some categories (all if empty), and of one split and defect of the MVTec AD layout.

    An image of which the listing says neither is a good one to train on.
    """
    keep = [
        (not categories or row_category in categories)
        and (split is None or attributes.get("split", "train") == split)
        and (defect is None or attributes.get("defect", "good") == defect)
        for row_category, attributes in zip(
            listing.table["category"].to_pylist(), map(dict, listing.table["attributes"].to_pylist()), strict=True
        )
    ]
    return Listing(listing.table.filter(pa.array(keep, pa.bool_())), listing.skipped)


def sample(listing: Listing, n: int, seed: int, group_by: str = NO_GROUPS) -> Listing:
    """At most n images of each category, drawn from the seed: of whole groups, of which the last is cut short.

    Args:
        listing: all images.
        n: how many.
        seed: of the draw.
        group_by: as in `group_keys`; where that gives no keys, each image is drawn by itself.
    """
    rng = np.random.default_rng([seed, 4])
    names = np.array(listing.table["category"].to_pylist())
    chosen = [np.empty(0, np.int64)]
    for category in listing.categories:
        rows = np.flatnonzero(names == category)
        keys = np.array(group_keys(listing.table.take(rows), group_by) or [str(row) for row in rows])
        rank = dict(zip(order := sorted(set(keys)), rng.permutation(len(order)).tolist(), strict=True))
        drawn = np.argsort([rank[key] for key in keys], kind="stable")[:n]
        chosen.append(np.sort(rows[drawn]))
    return Listing(listing.table.take(np.concatenate(chosen)), listing.skipped)


def group_keys(rows: pa.Table, group_by: str) -> list[str] | None:
    """What group each image of one category is of, where names say it.

    Args:
        rows: `tables.MANIFEST`.
        group_by: the name of an attribute that all of them have; or a regular expression that is found in the URI, with
            the member after it where there is one, of all of them, and whose groups together are the key; or `auto` or
            `none`.

    Returns:
        A key for each row; None for `auto` and `none`.

    Raises:
        ConfigError: it is neither an attribute of all rows nor an expression with a group that is found in all of them.

    Example:
        `part`, or `(part-[0-9]+)`: part-0017-left.jpg and part-0017-right.jpg are one group.
    """
    if group_by in (AUTO_GROUPS, NO_GROUPS):
        return None
    attributes = [dict(values) for values in rows["attributes"].to_pylist()]
    if all(group_by in values for values in attributes):
        return [values[group_by] for values in attributes]
    try:
        pattern, why = re.compile(group_by), "a regular expression without a group"
    except re.error as error:
        pattern, why = re.compile(""), f"no regular expression ({error})"
    known = ", ".join(sorted(set[str]().union(*attributes))) or "none"
    hint = f"expected {GROUP_BY}, such as 'part-([0-9]+)'; the images have the attributes: {known}"
    if not pattern.groups:
        raise ConfigError(f"--group-by {group_by}: no attribute of all images, and {why}; {hint}")
    paths = list(map(path_of, rows["uri"].to_pylist(), rows["member"].to_pylist()))
    found = [pattern.search(path) for path in paths]
    if None in found:
        first = paths[found.index(None)]
        raise ConfigError(f"--group-by {group_by}: not in {found.count(None)} of {len(found)} images, such as {first}; {hint}")
    return [repr(match.groups()) for match in found if match is not None]


def together(listing: Listing, name: str) -> Listing:
    """All images as those of one category; what they are of becomes the attribute `product`.

    Raises:
        ConfigError: the name cannot be a category.
    """
    check_category(name)
    table, rows = listing.table, listing.table.num_rows
    products = [
        [*attributes, ("product", category)]
        for attributes, category in zip(table["attributes"].to_pylist(), table["category"].to_pylist(), strict=True)
    ]
    for column, values in {"category": [name] * rows, "attributes": products}.items():
        field = MANIFEST.schema.field(column)
        table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    return Listing(table, listing.skipped)


def defects(rows: pa.Table) -> list[str]:
    """The defect of each row by the MVTec AD layout, `good` for none; empty where the path does not say."""
    return [dict(attributes).get("defect", "") for attributes in rows["attributes"].to_pylist()]

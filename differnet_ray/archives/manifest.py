"""The manifest: the images of an archive, each of one category, under a stable id, in an order that does not change."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.archives.given_manifest import read_columns, read_manifest
from differnet_ray.archives.index import Naming, Tally, image_id, index_source, path_of, sources_of
from differnet_ray.config import AUTO_GROUPS, GROUP_BY, NO_GROUPS
from differnet_ray.errors import ConfigError
from differnet_ray.labels import GOOD
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
    locations: Sequence[str],
    *,
    category: str | None = None,
    path_pattern: str | None = None,
    good: Sequence[str] = (),
    limit: int | None = None,
) -> Listing:
    """Lists the images of some locations, here and now; `distributed.index` does it for archives of any size.

    Args:
        locations: folders or prefixes, where archives are looked into as well; single image files or archives; manifests
            (.csv, .jsonl, .ndjson, .parquet; see `given_manifest.py`). Local or s3://.
        category: as in `index.Naming`.
        path_pattern: as in `index.Naming`.
        good: as in `index.Naming`.
        limit: keep the first so many rows.

    Raises:
        ConfigError: a location is missing or holds no image, an archive or manifest is damaged, the pattern is malformed, or
            an image has no category, or several.
    """
    naming = Naming(category, path_pattern, tuple(good))
    tables: list[tuple[tuple[str, str], pa.Table]] = []
    if category is not None:
        check_category(category)
    sources = sources_of(locations)
    tally = Tally(sources)
    while sources:
        below = []
        results = map_ahead(lambda source: index_source(source, naming), sources, READ_THREADS)
        for source, (table, found) in zip(sources, results, strict=True):
            tally.add(source, found)
            tables.append((source.rank, table))
            below += found.sources
        sources = below
    tally.check()
    table, unplaced = merged((table for _, table in sorted(tables, key=itemgetter(0))), limit)
    if unplaced.num_rows:
        raise ConfigError(not_placed(unplaced))
    return Listing(table, dict(tally.skipped))


def read_image_ids(uri: str) -> set[str]:
    """The ids of the images that a file names: by a column `image_id`, else as a manifest does.

    Args:
        uri: canonical URI of the file.

    Raises:
        ConfigError: it is malformed, or names no images.
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    table = read_columns(uri)
    if "image_id" in table.column_names:
        return {str(name) for name in table["image_id"].to_pylist() if name}
    return {image_id(image.uri, image.member) for image in read_manifest(uri)}


def merged(tables: Iterable[pa.Table], limit: int | None = None) -> tuple[pa.Table, pa.Table]:
    """The rows of several sources as one manifest.

    Args:
        tables: of `index.FOUND`; of rows with the same id and category the last one counts, and a row without a category
            does not where there is one with.
        limit: keep the first so many rows.

    Returns:
        Sorted manifest rows; and the images that cannot be among them, with a further column `categories`: null where nothing
        says the category, else the several ones that rows with the same id say, such as `nut, screw`.

    Raises:
        ConfigError: a category cannot be one.
    """
    rows = pa.concat_tables(tables)
    rows, several = _each_once(rows)
    rows = rows.sort_by([(name, "ascending") for name in _ORDER])  # nulls come last
    n_placed = rows.num_rows - rows["category"].null_count
    for name in pc.unique(rows["category"].slice(0, n_placed)).to_pylist():
        check_category(name)
    placed = rows.slice(0, n_placed if limit is None else min(limit, n_placed))
    unplaced = rows.slice(n_placed)
    categories = pa.array([several.get(image) for image in unplaced["image_id"].to_pylist()], pa.string())
    return conform(placed, MANIFEST.schema), unplaced.append_column("categories", categories)


def _each_once(rows: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """Each image once, without a category where rows say several: these as well, by image id."""
    places = np.arange(rows.num_rows) + rows.num_rows * rows["category"].is_valid().to_numpy()
    by_image = pa.table({"id": rows["image_id"], "place": places, "category": rows["category"]}).group_by("id")
    last = by_image.aggregate([("place", "max")])["place_max"].to_numpy() % max(1, rows.num_rows)
    if len(last) == rows.num_rows:
        return rows, {}
    said = by_image.aggregate([("category", "count_distinct"), ("category", "distinct")])
    said = said.filter(pc.field("category_count_distinct") > 1)
    several = {
        image: ", ".join(sorted(names))
        for image, names in zip(said["id"].to_pylist(), said["category_distinct"].to_pylist(), strict=True)
    }
    rows = rows.take(last)
    is_torn = pc.is_in(rows["image_id"], value_set=pa.array(several, pa.string()))
    category = pc.if_else(is_torn, pa.scalar(None, pa.string()), rows["category"])
    return rows.set_column(rows.column_names.index("category"), rows.schema.field("category"), category), several


def not_placed(unplaced: pa.Table) -> str:
    """What to say of the images that `merged` could not place."""
    several = unplaced.filter(pc.field("categories").is_valid())
    none = unplaced.filter(pc.field("categories").is_null())
    texts = []
    if none.num_rows:
        texts.append(
            f"{none.num_rows} images have no category, the first is {min(_paths(none))}: give --category NAME, a "
            "--path-pattern such as '{line}/{category}/{name}', or use the layout <category>/test/<defect>/<name>"
        )
    if several.num_rows:
        first, categories = min(zip(_paths(several), several["categories"].to_pylist(), strict=True))
        texts.append(
            f"{several.num_rows} images have several categories, the first is {first} ({categories}): keep one row of each in "
            "the manifests, or give --category NAME"
        )
    return "; ".join(texts)


def _paths(rows: pa.Table) -> list[str]:
    return list(map(path_of, rows["uri"].to_pylist(), rows["member"].to_pylist()))


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
        and (defect is None or attributes.get("defect", GOOD) == defect)
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
    """The defect of each row, `labels.GOOD` for none; empty where nothing says it."""
    return [dict(attributes).get("defect", "") for attributes in rows["attributes"].to_pylist()]

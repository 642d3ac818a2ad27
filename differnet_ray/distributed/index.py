"""Indexing an archive: a Ray task for each of its folders and archives, and one that makes a manifest of what they found.

The rows stay in Ray's object store: the driver sees counts only, however large the archive is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from differnet_ray.archives.images import MAX_BYTES
from differnet_ray.archives.index import Found, Naming, Source, Tally, index_source, path_of
from differnet_ray.archives.manifest import Listing, listing_digest, merged, not_placed
from differnet_ray.distributed.resources import cluster_size, own_errors
from differnet_ray.errors import ConfigError
from differnet_ray.results.runs import NO_CATEGORY, SEVERAL_CATEGORIES, parquet_files, read_manifest_file, write_manifest

T = TypeVar("T")
EXAMPLES = 3
FOLDERS_PER_CPU = 4  # so many folders are read level by level, to find more; the rest with all that is below them


@dataclass(frozen=True)
class Example:
    """What became of the path of an image.

    Attributes:
        path: as the path pattern sees it.
        category: of the image.
        attributes: of the image.
    """

    path: str
    category: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """What the driver knows of a manifest.

    Attributes:
        counts: category to images, sorted.
        too_large: category to images that are refused for their bytes alone, where there are any.
        examples: a few images, from all over the manifest.
        digest: as `manifest.listing_digest`.
        unplaced: images without a category, or with several, by reason.
        complaint: about them, if there are any.
    """

    counts: dict[str, int]
    too_large: dict[str, int]
    examples: list[Example]
    digest: str
    unplaced: dict[str, int]
    complaint: str


@dataclass(frozen=True)
class Index:
    """An indexed archive, in Ray's object store.

    Attributes:
        summary: of its manifest.
        skipped: files and members that are not in the manifest, counted by reason.
    """

    summary: Summary
    skipped: dict[str, int]
    _tables: tuple[Any, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Category to images, sorted."""
        return self.summary.counts

    @property
    def digest(self) -> str:
        """Changes when an image is added, removed, replaced, or its path read otherwise."""
        return self.summary.digest

    @property
    def n_images(self) -> int:
        """Rows of the manifest."""
        return sum(self.counts.values())

    def write(self, uri: str) -> None:
        """Writes the manifest below a URI, as `results.write_manifest`."""
        with own_errors("writing the manifest"):
            ray.get(_write.remote(uri, *self._tables))

    def ask(self, question: Callable[[pa.Table, pa.Table], T]) -> T:
        """What a function answers that is given the manifest, and the images that are not in it, in a Ray task."""
        with own_errors("reading the manifest"):
            answer: T = ray.get(_answer.remote(question, *self._tables))
        return answer


@dataclass(frozen=True)
class IndexProgress:
    """Sources read of those known, and the images in them."""

    done: int
    total: int
    n_images: int


def index_listing(listing: Listing) -> Index:
    """A listing as an index."""
    return _index_of([ray.put(listing.table)], None, listing.skipped)


def index_manifest(uri: str, skipped: dict[str, int]) -> Index:
    """A manifest that was written below a URI as an index."""
    return _index_of([_read.remote(uri)], None, skipped)


def index_archives(
    sources: Sequence[Source],
    naming: Naming,
    *,
    limit: int | None,
    cache: str | None,
    on_progress: Callable[[IndexProgress], None],
) -> Index:
    """Indexes the images of some locations.

    Args:
        sources: of `sources_of`.
        naming: what paths say.
        limit: keep the first so many images.
        cache: URI of a folder that remembers what is in an archive, until its etag changes; None for none.
        on_progress: shown the counts as they grow.

    Raises:
        ConfigError: a location holds no image, an archive or manifest is damaged, or no image has a category.
        StorageError: a location cannot be read.
    """
    tally = Tally(sources)
    tables: list[tuple[tuple[str, str], Any]] = []  # they come in any order
    waiting, running = deque(sources), dict[Any, tuple[Source, Any]]()
    cores = cluster_size()[0]
    done, known = 0, len(sources)
    with own_errors("indexing"):
        while waiting or running:
            while waiting and len(running) < 2 * cores:
                source = waiting.popleft()
                refs: list[Any] = _index.remote(source, naming, known >= FOLDERS_PER_CPU * cores, cache)  # type: ignore[assignment]
                running[refs[1]] = source, refs[0]
            for ready in ray.wait(list(running), timeout=0.5)[0]:
                source, table = running.pop(ready)
                found: Found = ray.get(ready)
                tally.add(source, found)
                tables += [(source.rank, table)] * bool(found.n_images)
                waiting += found.sources
                done, known = done + 1, known + len(found.sources)
            on_progress(IndexProgress(done, known, tally.n_images))
    tally.check()
    return _index_of([table for _, table in sorted(tables, key=itemgetter(0))], limit, tally.skipped)


def _index_of(tables: list[Any], limit: int | None, skipped: dict[str, int]) -> Index:
    with own_errors("indexing"):
        *placed, summary = _merge.remote(limit, *tables)
        found: Summary = ray.get(summary)
    if not found.counts and found.unplaced:
        raise ConfigError(found.complaint)
    return Index(found, skipped | found.unplaced, tuple(placed))


@ray.remote(num_returns=2)
def _index(source: Source, naming: Naming, deep: bool, cache: str | None) -> tuple[pa.Table, Found]:
    return index_source(source, naming, deep=deep, cache=cache)


@ray.remote(num_returns=3)
def _merge(limit: int | None, *tables: pa.Table) -> tuple[pa.Table, pa.Table, Summary]:
    manifest, unplaced = merged(tables, limit)
    n_none = unplaced["categories"].null_count
    reasons = {NO_CATEGORY: n_none, SEVERAL_CATEGORIES: unplaced.num_rows - n_none}
    found = Summary(
        counts=_by_category(manifest),
        too_large=_by_category(manifest.filter(pc.field("size") > MAX_BYTES)),
        examples=_examples(manifest),
        digest=listing_digest(manifest),
        unplaced={reason: n for reason, n in reasons.items() if n},
        complaint=not_placed(unplaced) if unplaced.num_rows else "",
    )
    return manifest, unplaced, found


def _by_category(manifest: pa.Table) -> dict[str, int]:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(manifest["category"]).to_pylist()}
    return dict(sorted(counts.items()))


def _examples(manifest: pa.Table) -> list[Example]:
    if manifest.num_rows == 0:
        return []
    places = np.unique(np.linspace(0, manifest.num_rows - 1, EXAMPLES).astype(np.int64))
    return [
        Example(path_of(row["uri"], row["member"]), row["category"], dict(row["attributes"]))
        for row in manifest.take(places).to_pylist()
    ]


@ray.remote
def _write(uri: str, manifest: pa.Table, unplaced: pa.Table) -> None:
    write_manifest(uri, manifest, unplaced)


@ray.remote
def _answer(question: Callable[[pa.Table, pa.Table], Any], manifest: pa.Table, unplaced: pa.Table) -> Any:
    return question(manifest, unplaced)


@ray.remote
def _read(uri: str) -> pa.Table:
    return pa.concat_tables(map(read_manifest_file, parquet_files(uri)))

"""Indexing an archive: a Ray task for each of its folders and archives, and one that makes a manifest of what they found.

The rows stay in Ray's object store: the driver sees counts only, however large the archive is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from differnet_ray.archives.index import Found, Naming, Source, Tally, index_source
from differnet_ray.archives.manifest import Listing, listing_digest, merged, not_placed
from differnet_ray.distributed.resources import cluster_size, own_errors
from differnet_ray.errors import ConfigError
from differnet_ray.results.runs import NO_CATEGORY, SEVERAL_CATEGORIES, write_manifest

FOLDERS_PER_CPU = 4  # so many folders are read level by level, to find more; the rest with all that is below them


@dataclass(frozen=True)
class Summary:
    """What the driver knows of a manifest.

    Attributes:
        counts: category to images, sorted.
        digest: as `manifest.listing_digest`.
        unplaced: images without a category, or with several, by reason.
        complaint: about them, if there are any.
    """

    counts: dict[str, int]
    digest: str
    unplaced: dict[str, int]
    complaint: str


@dataclass(frozen=True)
class Index:
    """An indexed archive, in Ray's object store.

    Attributes:
        counts: category to images, sorted.
        digest: changes when an image is added, removed, replaced, or its path read otherwise.
        skipped: files and members that are not in the manifest, counted by reason.
    """

    counts: dict[str, int]
    digest: str
    skipped: dict[str, int]
    _tables: tuple[Any, Any]

    @property
    def n_images(self) -> int:
        """Rows of the manifest."""
        return sum(self.counts.values())

    def write(self, uri: str) -> None:
        """Writes the manifest below a URI, as `results.write_manifest`."""
        with own_errors("writing the manifest"):
            ray.get(_write.remote(uri, *self._tables))


@dataclass(frozen=True)
class IndexProgress:
    """Sources read of those known, and the images in them."""

    done: int
    total: int
    n_images: int


def index_listing(listing: Listing) -> Index:
    """A listing as an index."""
    return _index_of([ray.put(listing.table)], None, listing.skipped)


def index_archives(
    sources: Sequence[Source],
    naming: Naming,
    *,
    limit: int | None,
    cache: str,
    on_progress: Callable[[IndexProgress], None],
) -> Index:
    """Indexes the images of some locations.

    Args:
        sources: of `sources_of`.
        naming: what paths say.
        limit: keep the first so many images.
        cache: URI of a folder that remembers what is in an archive, until its etag changes.
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
    return Index(found.counts, found.digest, skipped | found.unplaced, tuple(placed))


@ray.remote(num_returns=2)
def _index(source: Source, naming: Naming, deep: bool, cache: str) -> tuple[pa.Table, Found]:
    return index_source(source, naming, deep=deep, cache=cache)


@ray.remote(num_returns=3)
def _merge(limit: int | None, *tables: pa.Table) -> tuple[pa.Table, pa.Table, Summary]:
    manifest, unplaced = merged(tables, limit)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(manifest["category"]).to_pylist()}
    n_none = unplaced["categories"].null_count
    reasons = {NO_CATEGORY: n_none, SEVERAL_CATEGORIES: unplaced.num_rows - n_none}
    reasons = {reason: n for reason, n in reasons.items() if n}
    return manifest, unplaced, Summary(dict(sorted(counts.items())), listing_digest(manifest), reasons, not_placed(unplaced))


@ray.remote
def _write(uri: str, manifest: pa.Table, unplaced: pa.Table) -> None:
    write_manifest(uri, manifest, unplaced)

"""Indexing by Ray tasks gives the listing that one process makes, and leaves its rows where the tasks are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from differnet_ray.archives.index import Naming, sources_of
from differnet_ray.archives.manifest import list_images
from differnet_ray.distributed.index import Index, IndexProgress, index_archives
from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


def indexed(location: Path, cache: Path, naming: Naming, **how: int | None) -> tuple[Index, list[IndexProgress]]:
    """Returns the index of a location, and what was shown meanwhile."""
    shown: list[IndexProgress] = []
    sources = sources_of([str(location)])
    index = index_archives(sources, naming, limit=how.get("limit"), cache=canonical(str(cache)), on_progress=shown.append)
    return index, shown


def test_the_index_is_the_listing(factory: Path, tmp_path: Path) -> None:
    listing = list_images([str(factory)])
    index, shown = indexed(factory, tmp_path / "cache", Naming())
    assert index.digest == listing.digest()
    assert index.counts == {"lid": 20, "plate": 20}
    assert index.skipped == listing.skipped == {"mask": 8}
    assert (shown[-1].n_images, shown[-1].done) == (40, shown[-1].total)
    assert shown[-1].total > 1
    index.write(canonical(str(tmp_path / "manifest")))
    assert pq.read_table(tmp_path / "manifest" / "00000.parquet").equals(listing.table)
    first, _ = indexed(factory, tmp_path / "cache", Naming(), limit=3)
    assert first.digest == list_images([str(factory)], limit=3).digest()


def test_images_without_a_category_are_named_beside_the_manifest(factory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(factory / "lid" / "test", archive / "lid" / "test")
    shutil.copy(archive / "lid" / "test" / "good" / "00.jpg", archive / "stray, 1.jpg")
    index, _ = indexed(archive, tmp_path / "cache", Naming())
    assert index.skipped == {"no category": 1}
    assert index.n_images == 8
    index.write(canonical(str(tmp_path / "manifest")))
    assert (tmp_path / "manifest.no-category.csv").read_text().splitlines() == [
        '"uri","member","categories"',
        f'"file://{archive}/stray, 1.jpg",,',
    ]


def test_images_of_several_categories_are_named_beside_the_manifest_too(factory: Path, tmp_path: Path) -> None:
    lid = factory / "lid" / "test" / "good"
    (tmp_path / "a.csv").write_text(f"uri,category\n{lid}/00.jpg,nut\n{lid}/01.jpg,lid\n")
    (tmp_path / "b.csv").write_text(f"uri,category\n{lid}/00.jpg,bolt\n{tmp_path}/stray.jpg,\n")
    locations = [str(tmp_path / "b.csv"), str(factory), str(tmp_path / "a.csv")]
    index = index_archives(
        sources_of(locations), Naming(), limit=None, cache=canonical(str(tmp_path / "cache")), on_progress=lambda _: None
    )
    assert index.counts == {"lid": 19, "plate": 20}
    assert index.skipped == {"mask": 8, "no category": 1, "several categories": 1}
    index.write(canonical(str(tmp_path / "manifest")))
    assert (tmp_path / "manifest.no-category.csv").read_text().splitlines() == [
        '"uri","member","categories"',
        *sorted([f'"file://{lid}/00.jpg",,"bolt, lid, nut"', f'"file://{tmp_path}/stray.jpg",,']),
    ]


def test_errors_of_tasks_are_those_of_a_listing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="1 images have no category, the first is file:.*1.jpg: give --category"):
        indexed(tmp_path / "a", tmp_path / "cache", Naming())
    (tmp_path / "a" / "b.tar").write_bytes(b"x" * 999)
    with pytest.raises(ConfigError, match=r"b.tar is damaged.*move it out of the way"):
        indexed(tmp_path / "a", tmp_path / "cache", Naming("lid"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: no images among its 0 files"):
        indexed(tmp_path / "empty", tmp_path / "cache", Naming("lid"))

"""Sources of an archive: folders level by level or whole, and archives that are remembered until they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_files import KINDS, LAYOUT, images, pack, unpack

from differnet_ray.archives import index
from differnet_ray.archives.index import Naming, Source, index_source, sources_of
from differnet_ray.archives.manifest import list_images, merged
from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical, join


def everything(location: str, *, deep: bool, cache: str | None = None) -> tuple[pa.Table, int]:
    """Returns the manifest of a location, source by source, and how many sources there were."""
    waiting, tables, n = sources_of([location]), [], 0
    while waiting:
        table, found = index_source(waiting.pop(), Naming(), deep=deep, cache=cache)
        tables.append(table)
        waiting += found.sources
        n += 1
    return merged(tables)[0], n


def test_a_folder_is_the_same_level_by_level_and_whole(tmp_path: Path) -> None:
    unpack(tmp_path / "a", images())
    pack(tmp_path / "a" / "deep" / "b.tar", images())
    pack(tmp_path / "a" / "c.zip", images())
    whole, by_level = (everything(str(tmp_path / "a"), deep=deep) for deep in (True, False))
    assert whole[0].equals(by_level[0])
    assert whole[0].equals(list_images([str(tmp_path / "a")]).table)
    assert whole[1] == 3
    assert by_level[1] == 3 + len({folder for name in LAYOUT for folder in map(str, Path(name).parents)} - {"."}) + 1


def parquet(path: Path) -> Path:
    """Writes images into a column, with what else a row may say."""
    columns = {"image": list(images().values()), "name": list(images()), "line": [1, 2, None, 4, 5]}
    times = ["2026-01-31T12:00:00+00:00", None, None, None, None]
    pq.write_table(pa.table({**columns, "captured_at": times}), path)
    return path


@pytest.mark.parametrize("kind", [*KINDS, ".parquet"])
def test_an_archive_is_read_again_only_when_it_has_changed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(names: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
        if kind == ".parquet":
            content = names(images())
            path = parquet(tmp_path / f"a{kind}")
            pq.write_table(pq.read_table(path).slice(0, len(content)), path)
        else:
            pack(tmp_path / f"a{kind}", {**names(images()), "readme.txt": b"x", ".hidden.png": b"x"})

    reads: list[str] = []
    read = index._members
    monkeypatch.setattr(index, "_members", lambda source: reads.append(source.uri) or read(source))
    cache, location = canonical(str(tmp_path / "cache")), str(tmp_path / f"a{kind}")
    write(dict)
    fresh = everything(location, deep=True, cache=cache)
    (source,) = sources_of([location])
    first, second = (index_source(source, Naming("lid"), cache=cache) for _ in range(2))
    assert len(reads) == 1  # also under another naming: what is remembered is what is in the archive
    assert first[0].equals(second[0])
    assert first[1] == second[1]
    assert first[1].skipped == ({} if kind == ".parquet" else {"not an image": 1, "hidden": 1})
    assert fresh[0].equals(list_images([location]).table)
    write(lambda all_images: dict(list(all_images.items())[:2]))
    reads.clear()
    assert everything(location, deep=True, cache=cache)[0].num_rows == 2
    assert everything(location, deep=True, cache=cache)[0].equals(list_images([location]).table)
    assert len(reads) == 2  # one is that of list_images, which remembers nothing


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 99])
def test_a_damaged_memory_is_forgotten(damage: bytes, tmp_path: Path) -> None:
    cache, location = canonical(str(tmp_path / "cache")), str(pack(tmp_path / "a.tar", images()))
    expected = everything(location, deep=True, cache=cache)[0]
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)
    assert everything(location, deep=True, cache=cache)[0].equals(expected)
    assert file.read_bytes() != damage


def test_a_location_inside_another_is_found_there(tmp_path: Path) -> None:
    root = unpack(tmp_path / "a", images())
    pack(root / "b.tar", images())
    (root / ".hidden").mkdir()
    (root / "list.csv").write_text("uri,category\n1.png,screw\n")
    inside = [str(root / name) for name in ("screw", "b.tar", ".hidden", "list.csv")]
    uri = canonical(str(root))
    assert [(source.uri, source.kind) for source in sources_of([str(root), *inside, str(root)])] == [
        (uri, "folder"),
        (join(uri, ".hidden"), "folder"),  # what is hidden there is named here
        (join(uri, "list.csv"), "manifest"),
    ]
    assert sources_of([str(root / "b.tar")])[0].etag


def test_a_source_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing: no such file or folder"):
        sources_of([str(tmp_path / "nothing")])
    with pytest.raises(FileNotFoundError):
        index_source(Source(f"file://{tmp_path}/gone", "folder", f"file://{tmp_path}/gone"), Naming())

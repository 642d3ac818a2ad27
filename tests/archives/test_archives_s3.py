"""Archives and manifests on a real S3 server: the same images as on a disk, and only the bytes that are needed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from archive_files import KINDS, LAYOUT, contents, images, listed, pack

from differnet_ray.archives.fetch import read_images
from differnet_ray.archives.members import list_members
from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.storage import s3
from differnet_ray.storage.files import list_files, open_input, read_range, write_bytes
from differnet_ray.storage.locations import canonical, join


@pytest.fixture(scope="module")
def plant(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder in the bucket with the same images in files and in an archive of each kind."""
    root, local = join(bucket, "plant"), tmp_path_factory.mktemp("local")
    for name, data in images().items():
        write_bytes(join(root, "loose", name), data)
    for kind in KINDS:
        write_bytes(join(root, f"a{kind}"), pack(local / f"a{kind}", images()).read_bytes())
    return root


def test_a_range_of_an_object_is_read(plant: str) -> None:
    uri = join(plant, "loose", LAYOUT[0])
    data = images()[LAYOUT[0]]
    assert read_range(uri, 3, 50) == data[3:50]
    assert read_range(uri, 3, len(data) + 99) == data[3:]
    assert read_range(uri, 7, 7) == b""
    with open_input(uri) as file:
        file.seek(10)
        assert file.read(5) == data[10:15]
    with pytest.raises(FileNotFoundError):
        read_range(join(plant, "nothing"), 0, 1)
    with pytest.raises(FileNotFoundError), open_input(join(plant, "nothing")):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_lists_and_reads_as_on_a_disk(kind: str, plant: str, tmp_path: Path) -> None:
    local = pack(tmp_path / f"a{kind}", images())
    assert list_members(join(plant, f"a{kind}")) == list_members(canonical(str(local)))
    listing = listed(join(plant, f"a{kind}"))
    assert contents(listing.table) == images()
    (file,) = list_files(join(plant, f"a{kind}"))
    assert set(listing.table["etag"].to_pylist()) == {file.etag}


def test_a_prefix_is_looked_through_for_archives(plant: str) -> None:
    listing = listed(plant)
    assert listing.table.num_rows == (len(KINDS) + 1) * len(LAYOUT)
    assert sorted(read_images(listing.table)) == sorted([*images().values()] * (len(KINDS) + 1))  # type: ignore[type-var]


def test_names_in_a_manifest_may_be_relative_to_it(plant: str) -> None:
    manifest = join(plant, "manifests", "m.csv")
    rows = [f'"../loose/{LAYOUT[1]}",', f'"{join(plant, "loose", LAYOUT[0])}",', f'../a.zip,"{LAYOUT[4]}"']
    write_bytes(manifest, "\n".join(["uri,member", *rows]).encode())
    listing = listed(manifest)
    assert set(listing.table["uri"].to_pylist()) == {*(join(plant, "loose", name) for name in LAYOUT[:2]), join(plant, "a.zip")}
    assert sorted(read_images(listing.table)) == sorted(images()[LAYOUT[n]] for n in (0, 1, 4))  # type: ignore[type-var]


def test_a_cut_archive_is_refused(bucket: str, tmp_path: Path) -> None:
    for kind in KINDS:
        data = pack(tmp_path / f"a{kind}", images()).read_bytes()
        write_bytes(join(bucket, "cut", f"a{kind}"), data[: len(data) // 2])
        with pytest.raises(ConfigError, match=rf"s3://.*/a{kind} is damaged, cut short"):
            listed(join(bucket, "cut", f"a{kind}"))


@pytest.mark.parametrize("kind", [".tar", ".zip"])
def test_a_listing_leaves_the_content_where_it_is(
    kind: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"{n}.png": random.Random(n).randbytes(3 * 2**20) for n in range(4)}
    uri = join(bucket, "large", f"a{kind}")
    write_bytes(uri, pack(tmp_path / f"a{kind}", members).read_bytes())
    fetched, fetch_range = 0, s3.S3Object._fetch_range

    def counting(file: s3.S3Object, start: int, end: int) -> bytes:
        nonlocal fetched
        fetched += end - start
        return fetch_range(file, start, end)

    monkeypatch.setattr(s3.S3Object, "_fetch_range", counting)
    assert [member.name for member in list_members(uri)] == list(members)
    assert 0 < fetched < 3 * 2**20


def test_a_member_beyond_the_end_has_a_reason(bucket: str, tmp_path: Path) -> None:
    uri = join(bucket, "replaced", "a.tar")
    whole = pack(tmp_path / "a.tar", images()).read_bytes()
    write_bytes(uri, whole)
    rows = listed(uri).table
    write_bytes(uri, whole[:600])
    assert {type(found) is bytes for found in read_images(rows)} == {False}
    with pytest.raises(StorageError, match="no longer there"):
        list_members(join(bucket, "replaced", "b.tar"))

"""Images in a column of a Parquet file: each row is one image under a name of its own, and its bytes come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from differnet_ray.archives import parquet_archive
from differnet_ray.archives.fetch import decoded_image, read_images
from differnet_ray.archives.images import MAX_BYTES
from differnet_ray.archives.manifest import Listing, list_images
from differnet_ray.archives.parquet_archive import holds_images, list_rows, read_rows
from differnet_ray.config import ImageForm
from differnet_ray.errors import ConfigError, ImageError
from differnet_ray.storage.files import arrow_filesystem
from differnet_ray.storage.locations import canonical, join

N = 25


def image(n: int) -> bytes:
    """Returns what stands for an image; every one is another."""
    return f"image {n} ".encode() * (n + 1)


def table(kind: str = "binary", n: int = N, **columns: list[object]) -> pa.Table:
    """Returns a table of images in one of the forms that are found in the field."""
    contents: list[object] = [image(i) for i in range(n)]
    if kind == "struct":
        given = columns.pop("path", [None] * n)
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [{"bytes": content, "path": path} for content, path in zip(contents, given, strict=True)]
        return pa.table({"image": pa.array(rows, struct), **columns})
    if kind.startswith("list"):
        lists = pa.array(
            [list(image(i)) for i in range(n)], pa.large_list(pa.uint8()) if kind == "lists" else pa.list_(pa.uint8())
        )
        return pa.table({"picture": lists, **columns})
    pictures = pa.array(contents, pa.large_binary() if kind == "large" else pa.binary())
    return pa.table({"picture": pictures.dictionary_encode() if kind == "dictionary" else pictures, **columns})


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    """Writes a table as a Parquet file of several row groups and returns its URI."""

    def write(content: pa.Table, name: str = "parts.parquet") -> str:
        pq.write_table(content, tmp_path / name, row_group_size=10)
        return canonical(str(tmp_path / name))

    return write


def listed(*locations: str, **how: object) -> Listing:
    """Returns the listing of some locations."""
    return list_images(list(locations), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["binary", "large", "struct", "dictionary", "list", "lists"])
def test_every_row_is_an_image_whose_bytes_come_back(kind: str, stored: Callable[..., str]) -> None:
    uri = stored(table(kind))
    rows = listed(uri, category="lid").table
    assert rows["member"].to_pylist() == [f"row-{n:09d}" for n in range(N)]
    assert rows["offset"].to_pylist() == list(range(N))
    assert len(set(rows["image_id"].to_pylist())) == N
    assert list(read_images(rows)) == [image(n) for n in range(N)]
    assert list(read_images(rows.take([17, 3, 24, 3]))) == [image(n) for n in (17, 3, 24, 3)]


def test_names_are_data_and_each_is_the_name_of_one_image(stored: Callable[..., str]) -> None:
    names = ["a.png", "../../b.png", "/c.png", "", None, "ü 漢\n.png", "a.png", "a.png#6", "a.png"]
    uri = stored(table(n=9, file_name=names, key=["k"] * 9))
    rows = listed(uri, category="lid").table.sort_by("offset")
    expected = ["a.png", "../../b.png", "/c.png", "row-000000003", "row-000000004", "ü 漢\n.png", "a.png#6", "a.png#6#7"]
    assert rows["member"].to_pylist() == [*expected, "a.png#8"]
    assert {dict(attributes)["key"] for attributes in rows["attributes"].to_pylist()} == {"k"}
    assert list(read_images(rows)) == [image(n) for n in range(9)]


def test_a_path_in_the_struct_names_the_image(stored: Callable[..., str]) -> None:
    uri = stored(table("struct", n=3, path=["lid/test/good/1.png", "lid/test/dent/2.png", "nut/test/good/1.png"]))
    rows = listed(uri).table
    assert rows["category"].to_pylist() == ["lid", "lid", "nut"]
    assert [dict(attributes)["defect"] for attributes in rows["attributes"].to_pylist()] == ["good", "dent", "good"]
    assert list(read_images(rows)) == [image(0), image(1), image(2)]


def test_a_struct_may_hold_a_list_of_bytes(stored: Callable[..., str]) -> None:
    struct = pa.struct([("bytes", pa.list_(pa.uint8())), ("path", pa.string())])
    uri = stored(
        pa.table({"image": pa.array([{"bytes": list(image(n)), "path": f"lid/test/ok/{n}.png"} for n in range(3)], struct)})
    )
    rows = listed(uri).table
    assert rows["member"].to_pylist() == [f"lid/test/ok/{n}.png" for n in range(3)]
    assert list(read_images(rows)) == [image(n) for n in range(3)]


def test_lists_of_numbers_are_attributes_where_there_are_bytes(stored: Callable[..., str]) -> None:
    uri = stored(table(n=2).append_column("embedding", pa.array([[1, 2], None], pa.list_(pa.uint8()))))
    rows = listed(uri, category="lid").table
    assert [dict(attributes) for attributes in rows["attributes"].to_pylist()] == [{"embedding": "[1, 2]"}, {}]
    assert list(read_images(rows)) == [image(0), image(1)]
    assert not holds_images(stored(pa.table({"embedding": pa.array([[1]], pa.list_(pa.int64()))}), "other.parquet"))


def test_a_list_without_bytes_or_with_gaps_and_a_null_in_a_dictionary_have_a_reason(stored: Callable[..., str]) -> None:
    lists = stored(pa.table({"image": pa.array([[65, 66], None, [], [65, None]], pa.list_(pa.uint8()))}))
    whole, null, empty, gaps = read_rows(lists, range(4))
    assert (whole, empty) == (b"AB", b"")
    assert [str(reason) for reason in (null, gaps)] == [
        "unreadable: the row has no image in it",
        "unreadable: 1 of the 2 bytes of the image are null",
    ]
    encoded = stored(pa.table({"image": pa.array([b"1", None, b"1"]).dictionary_encode()}), "encoded.parquet")
    first, null, last = read_rows(encoded, range(3))
    assert (first, last, str(null)) == (b"1", b"1", "unreadable: the row has no image in it")


def test_dictionary_encoded_text_names_images_and_says_of_them(stored: Callable[..., str]) -> None:
    texts = {"name": ["1.png", "1.png"], "category": ["lid", "nut"], "line": ["3", None], "captured_at": ["2026-01-31", None]}
    encoded = {name: pa.array(values).dictionary_encode() for name, values in texts.items()}
    plain, other = (listed(stored(table("dictionary", n=2, **columns))).table for columns in (texts, encoded))
    assert other.drop_columns("etag").equals(plain.drop_columns("etag"))
    assert other["member"].to_pylist() == ["1.png", "1.png#1"]
    assert other["attributes"].to_pylist() == [[("line", "3")], []]


def test_a_manifest_is_none_also_where_its_column_is_called_otherwise(stored: Callable[..., str]) -> None:
    assert not holds_images(stored(table(URI=["a.png"] * N)))


def test_columns_say_category_time_and_attributes(stored: Callable[..., str]) -> None:
    columns = {"category": ["lid", "nut"], "captured_at": ["2026-01-31T12:00:00", None], "line": [3, None]}
    first, second = listed(stored(table(n=2, **columns))).table.to_pylist()
    assert (first["category"], second["category"]) == ("lid", "nut")
    assert (first["captured_at"].isoformat(), second["captured_at"]) == ("2026-01-31T12:00:00+00:00", None)
    assert (first["attributes"], second["attributes"]) == ([("line", "3")], [])


def test_only_one_column_of_images_makes_an_archive(stored: Callable[..., str], tmp_path: Path) -> None:
    assert holds_images(stored(table()))
    assert not holds_images(stored(table(thumbnail=[b"x"] * N), "two.parquet"))
    assert not holds_images(stored(pa.table({"a": [1]}), "none.parquet"))
    assert not holds_images(stored(table(uri=["a.png"] * N), "manifest.parquet"))
    listing = listed(str(tmp_path), category="lid")
    assert listing.table.num_rows == N
    assert listing.skipped == {"not an image": 3}
    with pytest.raises(ConfigError, match=r"two.parquet has the columns picture, thumbnail: expected a column uri"):
        listed(str(tmp_path / "two.parquet"), category="lid")


def test_a_file_without_rows_has_no_images(stored: Callable[..., str]) -> None:
    uri = stored(table(n=0))
    assert list(list_rows(uri)) == []
    with pytest.raises(ConfigError, match="no images among its 0 files"):
        listed(uri)


def test_a_row_without_an_image_and_one_that_is_too_large_have_a_reason(
    stored: Callable[..., str],
) -> None:
    uri = stored(pa.table({"image": pa.array([b"1", None, bytes(MAX_BYTES + 1), b"4"])}))
    first, null, large, last = read_rows(uri, [0, 1, 2, 3])
    assert (first, last) == (b"1", b"4")
    assert isinstance(null, ImageError)
    assert (null.status, null.reason) == ("unreadable", "the row has no image in it")
    assert isinstance(large, ImageError)
    assert large.status == "too_large"


def test_a_row_group_is_read_once_for_all_the_batches_in_it(
    stored: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = listed(stored(table()), category="lid").table
    parquet_archive._group.cache_clear()
    opened = []
    real = parquet_archive.open_input
    monkeypatch.setattr(parquet_archive, "open_input", lambda *a, **how: opened.append(a) or real(*a, **how))
    for start in range(0, N, 5):
        assert list(read_images(rows.slice(start, 5))) == [image(n) for n in range(start, start + 5)]
    assert parquet_archive._group.cache_info().misses == 3
    assert len(opened) == 1 + 3  # the footer, and three groups


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"x" * len(data), lambda data: b""])
def test_a_damaged_file_is_refused_by_name(damage: Callable[[bytes], bytes], stored: Callable[..., str]) -> None:
    path = Path(stored(table()).removeprefix("file://"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"parts.parquet is damaged, cut short or no Parquet file.*move it out of the way"):
        listed(str(path), category="lid")


def test_a_file_that_changes_after_it_was_listed_gives_reasons_and_no_images(stored: Callable[..., str]) -> None:
    uri = stored(table())
    rows = listed(uri, category="lid").table.slice(0, 3)
    stored(table(n=30))
    replaced = list(read_images(rows))
    assert [(reason.status, "was replaced" in reason.reason) for reason in replaced] == [("missing", True)] * 3  # type: ignore[union-attr]
    Path(uri.removeprefix("file://")).unlink()
    assert [reason.status for reason in read_images(rows)] == ["missing"] * 3  # type: ignore[union-attr]


def test_an_image_is_found_by_its_name_alone(stored: Callable[..., str], factory: Path) -> None:
    files = sorted((factory / "lid" / "test" / "good").iterdir())
    contents = pa.table({"image": [path.read_bytes() for path in files], "name": [path.name for path in files]})
    uri = stored(contents)
    by_name = decoded_image(uri, files[2].name, ImageForm(64))
    assert (by_name.pixels == decoded_image(canonical(str(files[2])), None, ImageForm(64)).pixels).all()
    with pytest.raises(ImageError, match="no such row"):
        decoded_image(uri, "another.jpg", ImageForm(64))


def test_a_given_manifest_may_name_rows(stored: Callable[..., str], tmp_path: Path) -> None:
    stored(table(n=3, name=["a", "b", "c"]))
    (tmp_path / "list.csv").write_text("uri,member,category\nparts.parquet,c,lid\nparts.parquet,a,lid\n")
    rows = listed(str(tmp_path / "list.csv")).table
    assert dict(zip(rows["member"].to_pylist(), read_images(rows), strict=True)) == {"a": image(0), "c": image(2)}


def test_in_s3_only_the_groups_that_are_asked_for_are_read(bucket: str) -> None:
    uri = join(bucket, "parts ü.parquet")
    filesystem, path = arrow_filesystem(uri)
    pq.write_table(table(name=[f"{n}.png" for n in range(N)]), path, filesystem=filesystem, row_group_size=10)
    rows = listed(bucket, category="lid").table.sort_by("offset")
    assert rows["member"].to_pylist() == [f"{n}.png" for n in range(N)]
    parquet_archive._group.cache_clear()
    assert list(read_images(rows.slice(22, 2))) == [image(22), image(23)]
    assert parquet_archive._group.cache_info().misses == 1

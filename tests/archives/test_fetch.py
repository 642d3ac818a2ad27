"""Every row gets its own image or the reason why there is none, in any order, with few reads and few images in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from archive_files import KINDS, contents, images, listed, pack, unpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import decode

from differnet_ray.archives import fetch
from differnet_ray.archives import members as archives
from differnet_ray.archives.fetch import FetchImages, decoded_images, read_images
from differnet_ray.archives.light import light_of
from differnet_ray.config import ImageForm
from differnet_ray.errors import ImageError, StorageError
from differnet_ray.storage.files import READ_THREADS
from differnet_ray.tables import FETCHED, MANIFEST

NAMES = [f"{n:03d}.png" for n in range(12)]


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The same images in a folder and in an archive of each kind."""
    root = tmp_path_factory.mktemp("everywhere")
    unpack(root / "folder", images(NAMES))
    for kind in KINDS:
        pack(root / f"a{kind}", images(NAMES))
    return listed(root, category="screw").table


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[tuple[object, ...]]:
    """Returns the list to which each call of a function adds its arguments."""
    calls: list[tuple[object, ...]] = []
    function: Callable[..., object] = getattr(module, name)

    def counting(*args: object, **options: object) -> object:
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(module, name, counting)
    return calls


def unchecked(rows: pa.Table) -> pa.Table:
    """Returns rows without an etag, so that a file may change after it was listed."""
    return rows.set_column(rows.schema.get_field_index("etag"), rows.schema.field("etag"), pa.nulls(rows.num_rows, pa.string()))


# --- in order ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 5 * len(NAMES) - 1), max_size=80))
def test_any_rows_in_any_order_get_their_images(chosen: list[int], everywhere: pa.Table) -> None:
    rows = everywhere.take(pa.array(chosen, pa.int64()))
    expected = [images(NAMES)[(row["member"] or row["uri"]).split("/")[-1]] for row in rows.to_pylist()]
    assert list(read_images(rows)) == expected


def test_rows_keep_their_columns_and_get_pixels(everywhere: pa.Table) -> None:
    rows = everywhere.take(random.Random(0).sample(range(everywhere.num_rows), everywhere.num_rows))
    fetched = FetchImages({"screw": ImageForm(8)})(rows)
    assert fetched.schema == FETCHED
    assert fetched.select(MANIFEST.schema.names).equals(rows)
    for row in fetched.to_pylist():
        data = images(NAMES)[(row["member"] or row["uri"]).split("/")[-1]]
        pixels = decode(data, size=8).pixels
        assert row["pixels"] == pixels.tobytes()
        assert {name: row[name] for name in ("brightness", "contrast", "sharpness")} == asdict(light_of(pixels))
        assert (row["width"], row["height"], row["status"], row["error"]) == (12, 9, None, None)


def test_images_have_sizes_of_their_own(everywhere: pa.Table) -> None:
    sizes = [4 + n % 5 for n in range(everywhere.num_rows)]
    found = [getattr(image, "pixels", None) for image in decoded_images(everywhere, map(ImageForm, sizes))]
    assert [pixels is not None and pixels.shape for pixels in found] == [(size, size, 3) for size in sizes]


# --- few reads --------------------------------------------------------------------------------------------------------


def test_neighbours_in_a_tar_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = fetch.MAX_GAP + 1
    members = {
        **images(NAMES),
        "gap.bin": bytes(far),
        **images(["x.png", "y.png"]),
        "near.bin": bytes(999),
        **images(["z.png"]),
    }
    rows = listed(pack(tmp_path / "a.tar", members), category="screw").table
    reads = counted(monkeypatch, fetch, "read_range")
    assert contents(rows) == {name: data for name, data in members.items() if name.endswith(".png")}
    assert len(reads) == 2
    assert sum(int(end) - int(start) for _, start, end, _ in reads) < (tmp_path / "a.tar").stat().st_size - far  # type: ignore[call-overload]


def test_a_read_has_a_bound(everywhere: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = everywhere.filter(pa.compute.is_valid(everywhere["offset"]))
    monkeypatch.setattr(fetch, "MAX_RANGE", 3000)
    reads = counted(monkeypatch, fetch, "read_range")
    assert contents(tar) == images(NAMES)
    assert 2 < len(reads) < len(NAMES)
    assert all(int(end) - int(start) <= 3000 for _, start, end, _ in reads)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
def test_other_archives_are_opened_once_for_a_batch(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = listed(pack(tmp_path / f"a{kind}", images(NAMES)), category="screw").table
    opened = counted(monkeypatch, archives, "open_input")
    assert contents(rows.take(list(reversed(range(rows.num_rows))))) == images(NAMES)
    assert len(opened) == 1


def test_members_that_wait_for_their_turn_may_do_so_on_disk(everywhere: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SPOOL", 1000)
    rows = everywhere.take(list(reversed(range(everywhere.num_rows))))
    assert list(read_images(rows)) == list(reversed(list(read_images(everywhere))))


# --- few images in memory ---------------------------------------------------------------------------------------------


def test_images_that_are_not_asked_for_are_not_read(everywhere: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = counted(monkeypatch, fetch, "read_bytes")
    loose = everywhere.filter(pa.compute.is_null(everywhere["member"]))
    found = read_images(pa.concat_tables([loose] * 9))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(reads) <= 2 * READ_THREADS + 1


# --- no image ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_gone_is_missing(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", images(NAMES))
    rows = listed(archive, category="screw").table
    archive.unlink()
    assert set(contents(rows).values()) == {"missing: the file was listed, but is no longer there"}


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
def test_a_member_that_is_gone_is_missing(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", images(NAMES))
    rows = unchecked(listed(archive, category="screw").table)
    pack(archive, {name: data for name, data in images(NAMES).items() if name != NAMES[3]})
    found = contents(rows)
    assert found.pop(NAMES[3]) == "missing: the archive has no such member any more"
    assert found == {name: data for name, data in images(NAMES).items() if name != NAMES[3]}


@pytest.mark.parametrize("kind", [".tar", ".tgz"])
def test_what_lies_before_a_cut_is_read(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", images(NAMES))
    rows = unchecked(listed(archive, category="screw").table)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    found = list(contents(rows).items())
    n_whole = sum(isinstance(content, bytes) for _, content in found)
    assert 0 < n_whole < len(NAMES)
    assert dict(found[:n_whole]) == dict(list(images(NAMES).items())[:n_whole])
    assert all(str(content).startswith("unreadable: ") for _, content in found[n_whole:])


def test_a_damaged_zip_is_unreadable(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", images(NAMES))
    rows = unchecked(listed(archive, category="screw").table)
    archive.write_bytes(archive.read_bytes()[:-30])
    assert {str(content).split(":")[0] for content in contents(rows).values()} == {"unreadable"}


@pytest.mark.parametrize("kind", [*KINDS, ".png"])
def test_a_fault_of_storage_is_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{kind}"
    if kind == ".png":
        path.write_bytes(b"x")
    else:
        pack(path, images(NAMES))
    rows = listed(tmp_path, category="screw").table
    path.unlink()
    path.mkdir()
    assert all(isinstance(found, StorageError) for found in read_images(rows))
    assert set(FetchImages({"screw": ImageForm(8)})(rows)["status"].to_pylist()) == {"failed"}


def test_a_tar_without_ranges_is_walked(tmp_path: Path) -> None:
    rows = listed(pack(tmp_path / "a.tar", images(NAMES)), category="screw").table
    for column in ("offset", "size"):
        nulls = pa.nulls(rows.num_rows, pa.int64())
        without = rows.set_column(rows.column_names.index(column), MANIFEST.schema.field(column), nulls)
        assert contents(without) == images(NAMES)


def test_each_reason_has_its_status(tmp_path: Path) -> None:
    root = unpack(
        tmp_path, {**images(["good.png", "gone.png"]), "text.png": b"no image", "empty.png": b"", "gif.png": b"GIF89a"}
    )
    rows = listed(root, category="screw").table
    (root / "gone.png").unlink()
    other = listed(root / "good.png", category="nut").table
    fetched = FetchImages({"screw": ImageForm(8)})(pa.concat_tables([other, rows])).to_pylist()
    assert [(row["category"], Path(row["uri"]).stem, row["status"]) for row in fetched] == [
        ("nut", "good", "no_model"),
        ("screw", "empty", "unreadable"),
        ("screw", "gif", "unsupported"),
        ("screw", "gone", "missing"),
        ("screw", "good", None),
        ("screw", "text", "unreadable"),
    ]
    assert all((row["error"] is None) == (row["status"] is None) == (row["pixels"] is not None) for row in fetched)


def test_a_file_that_is_listed_as_too_large_is_not_read(everywhere: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = everywhere.filter(pa.array([uri.endswith((".png", ".tar")) for uri in everywhere["uri"].to_pylist()]))
    sizes = pa.array([2**40] * direct.num_rows)
    rows = direct.set_column(direct.column_names.index("size"), MANIFEST.schema.field("size"), sizes)
    of_files, of_members = (counted(monkeypatch, fetch, name) for name in ("read_bytes", "read_range"))
    found = list(read_images(rows))
    assert len(found) == 2 * len(NAMES)
    assert all(isinstance(image, ImageError) and image.status == "too_large" for image in found)
    assert not of_files + of_members


def test_no_rows_are_no_images(everywhere: pa.Table) -> None:
    assert FetchImages({})(everywhere.slice(0, 0)).num_rows == 0
    assert set(FetchImages({})(everywhere)["status"].to_pylist()) == {"no_model"}

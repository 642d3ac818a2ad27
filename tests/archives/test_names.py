r"""Names of files as other systems write them: `\` between folders, code page 437, UTF-8 without a flag, rare suffixes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from archive_files import LAYOUT, contents, images, listed, pack, unpack
from image_files import saved, scene
from PIL import Image

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.index import Naming, index_source, sources_of
from differnet_ray.archives.manifest import list_images
from differnet_ray.archives.members import list_members
from differnet_ray.config import ImageForm
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MANIFEST

OTHERS = ("screw/ground_truth/bent/000_mask.png", "screw/.thumbnails/1.png", "screw/readme.txt")


def windows(names: Iterable[str]) -> dict[str, bytes]:
    """Returns small PNGs under these names, with backslashes."""
    return {name.replace("/", "\\"): data for name, data in images(names).items()}


def zip_of_names(path: Path, members: Mapping[bytes, bytes], **flagged: bytes) -> Path:
    """Writes a zip with these names, byte by byte, without the flag for UTF-8, and others with it; returns its path."""
    places = {f"{n:03d}".ljust(len(name), "_"): name for n, name in enumerate(members)}
    data = pack(path, dict(zip(places, members.values(), strict=True)) | flagged).read_bytes()
    for place, name in places.items():
        assert data.count(place.encode()) == 2  # before the content, and in the central directory
        data = data.replace(place.encode(), name)
    path.write_bytes(data)
    return path


# --- backslashes ------------------------------------------------------------------------------------------------------


def test_a_zip_with_backslashes_is_the_folder_that_it_was(tmp_path: Path) -> None:
    folder = listed(unpack(tmp_path / "plant", images([*LAYOUT, *OTHERS])))
    members = windows([*LAYOUT, *OTHERS])
    listing = listed(pack(tmp_path / "plant.zip", {"screw\\": b"", "screw\\test\\": b"", **members}))
    said = ("category", "attributes", "size")
    assert listing.table.select(said).equals(folder.table.select(said))
    assert listing.skipped == folder.skipped == {"mask": 1, "hidden": 1, "not an image": 1}
    assert set(listing.table["member"].to_pylist()) == set(windows(LAYOUT))  # as the archive has them
    assert contents(listing.table) == windows(LAYOUT)


def test_a_path_pattern_sees_slashes(tmp_path: Path) -> None:
    archive = pack(tmp_path / "hall.zip", windows(["line 3/screw/1.png", "line 4/nut/2.png"]))
    rows = listed(archive, path_pattern="{line}/{category}/{name}").table.to_pylist()
    assert [(row["category"], dict(row["attributes"])) for row in rows] == [
        ("nut", {"line": "line 4"}),
        ("screw", {"line": "line 3"}),
    ]


@pytest.mark.parametrize("other", ["readme/x.txt", "folder/"])
def test_where_any_name_has_a_slash_a_backslash_is_a_sign_like_others(other: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {**images(["screw\\test\\good\\1.png", "nut/test/a\\b/2.png"]), other: b""})
    assert [member.path for member in list_members(canonical(str(archive)))][:2] == [
        "screw\\test\\good\\1.png",
        "nut/test/a\\b/2.png",
    ]
    listing = listed(archive, category="screw")
    assert [dict(attributes) for attributes in listing.table["attributes"].to_pylist()] == [
        {"split": "test", "defect": "a\\b"},
        {},
    ]


def test_in_a_tar_a_backslash_is_a_sign_like_others(tmp_path: Path) -> None:
    listing = listed(pack(tmp_path / "a.tar", windows(["screw/test/good/1.png"])), category="lid")
    assert listing.table["attributes"].to_pylist() == [[]]


def test_what_is_remembered_of_an_archive_has_its_paths(tmp_path: Path) -> None:
    (source,) = sources_of([str(pack(tmp_path / "a.zip", windows(LAYOUT)))])
    cache = canonical(str(tmp_path / "cache"))
    first, again = (index_source(source, Naming(), cache=cache)[0] for _ in range(2))
    assert again.equals(first)
    assert set(again["category"].to_pylist()) == {"screw", "nut"}


def test_relative_names_of_a_manifest_may_have_backslashes(tmp_path: Path) -> None:
    root = unpack(tmp_path / "plant", images())
    lines = [name.replace("/", "\\") for name in LAYOUT]
    (tmp_path / "m.csv").write_text(
        "\n".join(["uri", *(f"plant\\{name}" for name in lines), f"..\\{tmp_path.name}\\x\\test\\ok\\1.png"])
    )
    expected = {canonical(str(root / name)) for name in LAYOUT} | {canonical(str(tmp_path / "x/test/ok/1.png"))}
    assert set(listed(tmp_path / "m.csv").table["uri"].to_pylist()) == expected


def test_absolute_names_of_a_manifest_do_not_decide_about_the_relative_ones(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\na\\test\\good\\1.png\ns3://plant/a/test/good/2\\3.png\n/a/test/good/4\\5.png\n")
    assert listed(tmp_path / "m.csv").table["uri"].to_pylist() == [
        "file:///a/test/good/4\\5.png",
        canonical(str(tmp_path / "a/test/good/1.png")),
        "s3://plant/a/test/good/2\\3.png",
    ]


def test_relative_names_with_a_slash_among_them_stay_as_they_are(tmp_path: Path) -> None:
    unpack(tmp_path, images(["a/test/good/1\\2.png"]))
    (tmp_path / "m.csv").write_text("uri,category\na/test/good/1\\2.png,a\n3\\4.png,a\n")
    uris = listed(tmp_path / "m.csv").table["uri"].to_pylist()
    assert uris == [canonical(str(tmp_path / name)) for name in ("3\\4.png", "a/test/good/1\\2.png")]


def test_a_manifest_of_members_says_the_same_as_their_archive(tmp_path: Path) -> None:
    archive = listed(pack(tmp_path / "a.zip", windows(LAYOUT))).table
    (tmp_path / "m.csv").write_text("\n".join(["uri,member", *(f"a.zip,{name}" for name in windows(LAYOUT))]))
    given = listed(tmp_path / "m.csv").table
    assert given.drop_columns(["size", "etag"]).equals(archive.drop_columns(["size", "etag"]))
    assert given.schema == MANIFEST.schema
    assert contents(given) == windows(LAYOUT)


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp437", "Größe/test/Ölfleck/Übersicht ß.png"),
        ("utf-8", "Größe/test/Ölfleck/Übersicht ß.png"),
        ("utf-8", "漢字/test/傷/🙂.png"),
        ("utf-8", "plain/test/dent/1.png"),
        ("cp437", "½ zoll/test/±0/π.png"),
    ],
)
def test_names_without_a_flag_are_read_as_they_were_written(encoding: str, name: str, tmp_path: Path) -> None:
    archive = zip_of_names(tmp_path / "a.zip", {name.encode(encoding): saved(scene(9, 12), "PNG")})
    with zipfile.ZipFile(archive) as file:
        assert not file.infolist()[0].flag_bits & 0x800
    (row,) = listed(archive).table.to_pylist()
    category, split, defect, _ = name.split("/")
    assert (row["member"], row["category"], dict(row["attributes"])) == (name, category, {"split": split, "defect": defect})
    assert contents(listed(archive).table) == {name: saved(scene(9, 12), "PNG")}


def test_names_of_both_encodings_stand_side_by_side_with_those_that_have_the_flag(tmp_path: Path) -> None:
    names = {"é.png": "cp437", "è.png": "utf-8"}
    members = {name.encode(code): name.encode() for name, code in names.items()}
    archive = zip_of_names(tmp_path / "a.zip", members, **{"ê.png": "ê.png".encode()})
    with zipfile.ZipFile(archive) as file:
        assert [bool(info.flag_bits & 0x800) for info in file.infolist()] == [False, False, True]
    assert contents(listed(archive, category="a").table) == {name: name.encode() for name in [*names, "ê.png"]}


# --- suffixes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "format"),
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".JPE", "JPEG"), (".pgm", "PPM"), (".ppm", "PPM"), (".pnm", "PPM"), (".PNM", "PPM")],
)
def test_images_of_rare_suffixes_are_listed_and_decoded(suffix: str, format: str, tmp_path: Path) -> None:
    pixels = scene(8, 8)
    grey = suffix == ".pgm"
    data = saved(pixels[..., 0] if grey else pixels, format)
    unpack(tmp_path, {f"a/test/good/1{suffix}": data})
    fetched = FetchImages({"a": ImageForm(8)})(list_images([str(tmp_path)]).table)
    assert (fetched["status"].to_pylist(), fetched["width"].to_pylist()) == ([None], [8])
    found = np.frombuffer(fetched["pixels"][0].as_py(), np.uint8).reshape(8, 8, 3)
    expected = np.asarray(Image.open(tmp_path / f"a/test/good/1{suffix}").convert("RGB"))
    assert (found == expected).all()
    if format == "PPM":
        assert (found == (pixels[..., :1] if grey else pixels)).all()

"""Members of tar, tar.gz and zip archives are the images that they would be as files; a damaged archive is refused."""

from __future__ import annotations

import functools
import gzip
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from archive_files import KINDS, LAYOUT, add, contents, images, listed, pack, unpack

from differnet_ray.archives import fetch
from differnet_ray.archives import members as archives
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.images import MAX_BYTES, check_size
from differnet_ray.archives.index import image_id
from differnet_ray.archives.manifest import Listing
from differnet_ray.archives.members import archive_kind, list_members
from differnet_ray.config import ImageForm
from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.storage.files import list_files
from differnet_ray.storage.locations import canonical

NASTY = (
    "../../outside.png",
    "/absolute.png",
    "./dot.png",
    "with space.png",
    "ü 漢字 🙂.png",
    "a\nb.png",
    "back\\slash.png",
    'it\'s "q".png',
    "#?*[x]&%20.png",
    "x" * 90 + "/" + "ü" * 90 + ".png",
    "C:/drive.png",
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The suffix of an archive."""
    return str(request.param)


def facts(listing: Listing, *columns: str) -> list[tuple[object, ...]]:
    """Returns these columns, and the pixels, of every image, sorted."""
    fetched = FetchImages(dict.fromkeys(listing.categories, ImageForm(8)))(listing.table)
    assert set(fetched["status"].to_pylist()) == {None}, fetched["error"]
    return sorted(zip(*(map(repr, fetched[name].to_pylist()) for name in (*columns, "pixels")), strict=True))


# --- listing ----------------------------------------------------------------------------------------------------------


def test_images_are_the_same_in_a_folder_and_in_an_archive(kind: str, tmp_path: Path) -> None:
    columns = ("category", "attributes", "size", "width", "height")
    folder = listed(unpack(tmp_path / "folder", images()))
    archive = pack(tmp_path / f"plant{kind}", images())
    assert facts(listed(archive), *columns) == facts(folder, *columns)
    assert listed(archive).categories == ["nut", "screw"]


def test_a_folder_is_looked_through_for_archives_too(tmp_path: Path) -> None:
    expected = images()
    for n, kind in enumerate(KINDS):
        pack(tmp_path / "root" / "deeper" / f"{n}{kind}", expected)
    unpack(tmp_path / "root" / "loose", expected)
    pack(tmp_path / "root" / ".hidden.tar", expected)
    pack(tmp_path / "root" / "ground_truth" / "masks.zip", expected)
    listing = listed(tmp_path / "root")
    assert listing.table.num_rows == 5 * len(expected)
    assert listing.skipped == {"hidden": 1, "mask": 1}
    assert len(set(facts(listing))) == len(expected)


def test_a_row_of_a_tar_says_where_the_member_is(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", images([*LAYOUT, "screw/test/good/" + "long " * 40 + ".png"]))
    rows = listed(archive).table.to_pylist()
    with tarfile.open(archive) as tar:
        expected = {entry.name: (entry.offset_data, entry.size) for entry in tar}
    assert {row["member"]: (row["offset"], row["size"]) for row in rows} == expected
    content = archive.read_bytes()
    assert {row["member"]: content[row["offset"] :][: row["size"]] for row in rows} == images(expected)


def test_rows_of_an_archive_have_its_uri_and_etag_and_ids_of_their_own(kind: str, tmp_path: Path) -> None:
    archive = canonical(str(pack(tmp_path / f"a{kind}", images())))
    (file,) = list_files(archive)
    for row in listed(archive).table.to_pylist():
        assert (row["uri"], row["etag"], row["captured_at"]) == (archive, file.etag, None)
        assert row["image_id"] == image_id(archive, row["member"])
        assert (row["offset"] is None) == (kind != ".tar")


def test_members_that_are_no_images_are_counted_as_files_are(kind: str, tmp_path: Path) -> None:
    others = ["screw/ground_truth/bent/000_mask.png", "screw/.hidden/1.png", "__MACOSX/._1.png", "readme.txt", "inner.zip"]
    listing = listed(pack(tmp_path / f"a{kind}", images([*LAYOUT, *others])))
    assert listing.table.num_rows == len(LAYOUT)
    assert listing.skipped == {"mask": 1, "hidden": 2, "not an image": 2}
    assert listed(tmp_path, tmp_path / f"a{kind}").skipped == listing.skipped


def test_an_archive_without_images_is_refused(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", {"1.txt": b"", "2.txt": b""})
    with pytest.raises(ConfigError, match=rf"a{kind}: no images among its 2 files; expected jpg, .* also inside tar, tar.gz"):
        listed(archive)


def test_the_path_pattern_sees_archive_and_member(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "hall 7" / f"screw{kind}", images(["2026-01-31/1.png", "./2026-01-31/2.png"]))
    for row in listed(archive, path_pattern=f"{{hall}}/{{category}}{kind}/{{date}}/{{name}}").table.to_pylist():
        assert (row["category"], dict(row["attributes"])["hall"]) == ("screw", "hall 7")
        assert dict(row["attributes"])["date"] == "2026-01-31"


@pytest.mark.parametrize("name", NASTY)
def test_names_are_data(name: str, kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "deep" / "er" / f"a{kind}", images([name]))
    before = sorted(tmp_path.rglob("*"))
    listing = listed(archive, category="screw")
    assert listing.table["member"].to_pylist() == [name]
    assert contents(listing.table) == images([name])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_no_unicode_is_counted(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", images(["caf\udce9.png", "1.png"]), encoding="utf-8", format=tarfile.GNU_FORMAT)
    assert listed(archive, category="screw").skipped == {"name is not UTF-8": 1}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_members_of_one_name_the_last_holds(kind: str, tmp_path: Path) -> None:
    first, second, third = images("123").values()
    archive = pack(tmp_path / f"a{kind}", [("1.png", first), ("2.png", second), ("1.png", third)])
    listing = listed(archive, category="screw")
    assert contents(listing.table) == {"1.png": third, "2.png": second}
    assert listing.skipped == {"replaced later in its archive": 1}


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_links_and_devices_are_counted_and_never_followed(suffix: str, tmp_path: Path) -> None:
    types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    with tarfile.open(tmp_path / f"a{suffix}", f"w:{'gz' if suffix == '.tgz' else ''}") as archive:
        for n, type_ in enumerate(types):
            add(archive, f"{n}.png", type=type_, linkname="real.png")
        add(archive, "folder.png", type=tarfile.DIRTYPE)
        add(archive, "real.png", *images(["real.png"]).values())
        add(archive, "real.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    listing = listed(tmp_path, category="screw")
    assert listing.skipped == {"not a regular file": len(types) + 1}
    assert contents(listing.table) == images(["real.png"])


def test_links_in_a_zip_are_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.png")
        archive.writestr("real.png", b"x")
    listing = listed(tmp_path, category="screw")
    assert listing.table["member"].to_pylist() == ["real.png"]
    assert listing.skipped == {"not a regular file": 1}


def test_a_sparse_member_is_unpacked(tmp_path: Path) -> None:
    (image,) = images(["1.png"]).values()
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        # one piece of data at 512, in a file of 512 zeros more
        numbers = b"".join(b"%011o\0" % n for n in (512, len(image)))
        header = tarfile.TarInfo("1.png")
        header.type, header.size = tarfile.GNUTYPE_SPARSE, len(image)
        block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
        block[386 : 386 + len(numbers)] = numbers
        block[483:495] = b"%011o\0" % (512 + len(image))
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        assert archive.fileobj is not None
        archive.fileobj.write(bytes(block) + image + bytes(-len(image) % 512))
        archive.offset = archive.fileobj.tell()
    listing = listed(tmp_path, category="screw")
    assert listing.table.to_pylist()[0]["offset"] is None
    assert contents(listing.table) == {"1.png": bytes(512) + image}


def test_the_digest_follows_the_archive(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", images())
    before = listed(archive).digest()
    assert listed(archive).digest() == before
    pack(archive, {**images(), "screw/train/good/new.png": b"x"})
    assert listed(archive).digest() != before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.tar", "tar"), ("a.b.TAR.GZ", "tar.gz"), ("a.tgz", "tar.gz"), ("a.Zip", "zip"), ("a.gz", None), ("tar", None)],
)
def test_the_kind_follows_from_the_name(name: str, expected: str | None) -> None:
    assert archive_kind(f"s3://bucket/{name}") == expected


# --- damage -----------------------------------------------------------------------------------------------------------


def refused(archive: Path) -> str:
    """Returns the error with which a listing refuses an archive."""
    with pytest.raises(ConfigError) as caught:
        listed(archive.parent, category="screw")
    assert str(caught.value).startswith(f"{canonical(str(archive))} is damaged, cut short or no")
    return str(caught.value)


def test_an_archive_that_is_cut_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / f"a{kind}", images())
    whole = archive.read_bytes()
    end = len(whole)
    if kind == ".tar":
        end = max(member.offset + member.size for member in list_members(canonical(str(archive))) if member.offset)
        end += -end % 512 + 512  # the end mark
    for length in {*range(0, end, 512), *range(1, end, 733), end - 1}:
        archive.write_bytes(whole[:length])
        refused(archive)
    archive.write_bytes(whole[:end])
    assert listed(archive).table.num_rows == len(LAYOUT)


@pytest.mark.parametrize("content", [b"", b"x", b"not an archive " * 99, bytes(range(256)) * 8, b"\x1f\x8b" + b"x" * 99])
def test_anything_else_is_no_archive(content: bytes, kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"a{kind}"
    archive.write_bytes(content)
    assert "; mend it" in refused(archive)


def test_a_tar_that_is_packed_but_not_called_so_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", images()).rename(tmp_path / "a.tar")
    assert "no tar archive" in refused(archive)


def test_a_damaged_header_does_not_end_the_archive(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", images())
    with tarfile.open(archive) as tar:
        third = tar.getmembers()[2].offset
    content = bytearray(archive.read_bytes())
    content[third + 5] ^= 1
    archive.write_bytes(content)
    assert "bad checksum" in refused(archive)


def test_a_damaged_gzip_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tgz", images())
    whole = archive.read_bytes()
    for position in range(30, len(whole), 97):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        refused(archive)


@pytest.mark.parametrize("size", [-1, -1024])
def test_a_negative_size_does_not_turn_the_walk_around(size: int, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "1.png", b"x", pax_headers={"size": str(size)})
        add(archive, "2.png", b"x")
    refused(tmp_path / "a.tar")


def test_a_long_name_has_a_limit(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    assert "a header declares 8,589,934,592 bytes" in refused(tmp_path / "a.tgz")


def test_an_archive_that_cannot_be_read_is_no_damage(kind: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="was listed, but is no longer there"):
        list_members(canonical(str(tmp_path / f"a{kind}")))
    (tmp_path / f"b{kind}").mkdir()
    with pytest.raises(StorageError, match=f"cannot read .*b{kind}"):
        list_members(canonical(str(tmp_path / f"b{kind}")))


# --- members that are refused -----------------------------------------------------------------------------------------


def zip_of(path: Path, data: bytes, compression: int = zipfile.ZIP_DEFLATED, **central: int) -> Path:
    """Writes a zip with a good member and one whose entry in the central directory is changed; returns its path."""
    pack(path, [*images(["good.png"]).items(), ("bad.png", data)], compression=compression)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    fields = {"flags": ("<H", 8), "method": ("<H", 10), "size": ("<I", 24)}
    for name, value in central.items():
        form, offset = fields[name]
        struct.pack_into(form, content, entry + offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("compression", "central", "reason"),
    [
        (zipfile.ZIP_DEFLATED, {"flags": 1}, "unsupported: the member is encrypted"),
        (zipfile.ZIP_DEFLATED, {"method": 97}, "unsupported: the member is compressed by"),
        (zipfile.ZIP_DEFLATED, {"size": MAX_BYTES + 1}, "too_large: the file has 104,857,601 bytes"),
        (zipfile.ZIP_DEFLATED, {"size": 10}, "unreadable: the member is damaged: Bad CRC"),
        (zipfile.ZIP_DEFLATED, {"flags": 1 << 5}, "unreadable: the member is damaged: compressed patched data"),
        (zipfile.ZIP_STORED, {"size": 10}, "unreadable: the member is damaged: Bad CRC"),
        (zipfile.ZIP_STORED, {"method": 8}, "unreadable: the member is damaged: "),
    ],
)
def test_a_zip_member_that_cannot_be_read_says_why_and_spoils_no_other(
    compression: int, central: dict[str, int], reason: str, tmp_path: Path
) -> None:
    found = contents(listed(zip_of(tmp_path / "a.zip", b"x" * 999, compression, **central), category="screw").table)
    assert str(found.pop("bad.png")).startswith(reason)
    assert found == images(["good.png"])


@pytest.mark.parametrize(("compression", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_compressions_are_unsupported(compression: int, name: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", images(["1.png"]), compression=compression)
    assert str(contents(listed(archive, category="screw").table)["1.png"]).startswith(
        f"unsupported: the member is compressed by {name}"
    )


def test_a_zip_member_that_lies_about_its_size_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "a.zip", bytes(30 * 2**20), size=1000)
    rows, most = listed(archive, category="screw").table, 0
    make = zlib.decompressobj

    class Counting:
        def __init__(self, *args: int) -> None:
            self.wrapped = make(*args)

        def __getattr__(self, name: str) -> object:
            return getattr(self.wrapped, name)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            nonlocal most
            unpacked = self.wrapped.decompress(data, max_length)
            most = max(most, len(unpacked))
            return unpacked

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert str(contents(rows)["bad.png"]).startswith("unreadable")
    assert 0 < most <= 4096


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_tar_member_over_the_limit_is_not_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archives, fetch):
        monkeypatch.setattr(module, "check_size", functools.partial(check_size, max_bytes=999))
    monkeypatch.setattr(fetch, "MAX_RANGE", 999)
    archive = pack(tmp_path / f"a{suffix}", {"1.png": bytes(1000), "2.png": bytes(999)})
    assert contents(listed(archive, category="screw").table) == {
        "1.png": "too_large: the file has 1,000 bytes, more than the limit of 999",
        "2.png": bytes(999),
    }

"""A given manifest names the same images as a folder does, says more of them, and is refused by row where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from archive_files import KINDS, LAYOUT, contents, images, listed, pack, unpack

from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MANIFEST

FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet")


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    """The suffix of a manifest."""
    return str(request.param)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes a manifest of the format that its name says; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    match path.suffix:
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case _:
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    return path


def attributes(manifest: Path) -> list[dict[str, str]]:
    """Returns the attributes of each row, without those of the path."""
    return [dict(row) for row in listed(manifest, category="screw").table["attributes"].to_pylist()]


# --- the same images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_a_listing_that_is_written_as_a_manifest_lists_the_same(form: str, kind: str, tmp_path: Path) -> None:
    root = pack(tmp_path / f"a{kind}", images()) if kind else unpack(tmp_path / "a", images())
    expected = listed(root)
    rows = [
        {name: row[name] for name in ("uri", "member", "offset", "size", "etag", "category")} | dict(row["attributes"])
        for row in expected.table.to_pylist()
    ]
    listing = listed(write(tmp_path / f"m{form}", rows))
    assert listing.table.equals(expected.table)
    assert listing.digest() == expected.digest()
    assert listing.skipped == {}


def test_names_may_be_relative_to_the_manifest(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpack(tmp_path / "root", images())
    (tmp_path / "link").mkdir()
    monkeypatch.chdir(tmp_path / "link")
    for folder, prefix in (("root", ""), ("root/x", "../"), (".", "./root/"), ("root/screw", f"{root}/")):
        manifest = write(tmp_path / folder / f"m{form}", [{"uri": prefix + name} for name in LAYOUT])
        assert listed(manifest).table["image_id"].equals(listed(root).table["image_id"])


def test_what_a_manifest_does_not_say_is_null(form: str, tmp_path: Path) -> None:
    (row,) = listed(write(tmp_path / f"m{form}", [{"uri": "1.png", "category": "screw"}])).table.to_pylist()
    assert row | {"image_id": None} == {
        **dict.fromkeys(MANIFEST.schema.names),
        "uri": canonical(str(tmp_path / "1.png")),
        "category": "screw",
        "attributes": [],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_a_manifest_names_are_read(form: str, kind: str, tmp_path: Path) -> None:
    pack(tmp_path / f"a{kind}", images())
    rows = [{"uri": f"a{kind}", "member": name} for name in LAYOUT[1:3]]
    listing = listed(write(tmp_path / f"m{form}", rows))
    assert listing.table["size"].null_count == 2
    assert contents(listing.table) == {name: images()[name] for name in LAYOUT[1:3]}


def test_a_manifest_may_name_what_does_not_look_like_an_image(form: str, tmp_path: Path) -> None:
    names = ["hash/4711", ".hidden/ground_truth/1.png", "100%20%.png", 'ü 漢,🙂".png']
    listing = listed(write(tmp_path / f"m{form}", [{"uri": name} for name in names]), category="screw")
    assert set(listing.table["uri"].to_pylist()) == {canonical(str(tmp_path / name)) for name in names}


def test_a_name_in_a_csv_may_hold_a_newline(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('uri\n"a\nb.png"\n')
    assert listed(tmp_path / "m.csv", category="screw").table["uri"].to_pylist() == [canonical(str(tmp_path / "a\nb.png"))]


def test_manifests_and_other_locations_mix(tmp_path: Path) -> None:
    root = unpack(tmp_path / "root", images())
    archive = pack(tmp_path / "a.tar", images())
    manifest = write(tmp_path / "m.csv", [{"uri": "elsewhere/screw/test/good/1.png"}, {"uri": f"root/{LAYOUT[0]}"}])
    assert listed(root, archive, manifest).table.num_rows == 2 * len(LAYOUT) + 1


def test_a_manifest_in_a_folder_is_no_image(form: str, tmp_path: Path) -> None:
    root = unpack(tmp_path / f"folder{form}", images())
    write(root / f"m{form}", [{"uri": "x.png"}])
    listing = listed(root)
    assert listing.table.num_rows == len(LAYOUT)
    assert listing.skipped == {"not an image": 1}


# --- what it says of them ---------------------------------------------------------------------------------------------


def test_the_category_is_the_options_then_the_columns_then_the_paths(form: str, tmp_path: Path) -> None:
    rows = [{"uri": f"screw/test/good/{n}.png", "category": name} for n, name in enumerate(["nut", None, "0042", "NA"])]
    manifest = write(tmp_path / f"m{form}", rows)
    found = {row["uri"][-5]: row["category"] for row in listed(manifest).table.to_pylist()}
    assert found == {"0": "nut", "1": "screw", "2": "0042", "3": "NA"}
    assert listed(manifest, category="washer").categories == ["washer"]
    assert listed(manifest, path_pattern="{category}/{_}/{x}/{name}").categories == ["0042", "NA", "nut", "screw"]


def test_an_image_without_a_category_is_named(form: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 images have no category, the first is .*a.tar/x/1.png"):
        listed(write(tmp_path / f"m{form}", [{"uri": "a.tar", "member": "x/1.png"}]))


def test_split_and_defect_of_a_column_go_before_those_of_the_path(form: str, tmp_path: Path) -> None:
    rows = [{"uri": "screw/test/good/1.png", "split": "train"}, {"uri": "screw/test/bent/2.png", "split": None}]
    assert attributes(write(tmp_path / f"m{form}", rows)) == [
        {"split": "test", "defect": "bent"},
        {"split": "train", "defect": "good"},
    ]


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        *[(form, "0042", "0042") for form in FORMATS],
        *[(form, "2026-01-31", "2026-01-31") for form in FORMATS],
        *[(form, "2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z") for form in FORMATS],
        *[(form, "null", "null") for form in FORMATS],
        *[(form, 7, "7") for form in FORMATS],
        *[(form, 1.5, "1.5") for form in FORMATS],
        *[(form, True, "true") for form in FORMATS],
        *[(form, 'a "b", ü\nc', 'a "b", ü\nc') for form in FORMATS],
        (".parquet", date(2026, 1, 31), "2026-01-31"),
        (".parquet", [1, 2], "[1, 2]"),
        (".jsonl", {"x": [1, None]}, '{"x": [1, null]}'),
    ],
)
def test_other_columns_become_text(form: str, value: object, text: str, tmp_path: Path) -> None:
    rows = [{"uri": "1.png", "batch no": value}, {"uri": "2.png", "batch no": None}]
    assert attributes(write(tmp_path / f"m{form}", rows)) == [{"batch no": text}, {}]


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        *[(form, "2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)) for form in FORMATS],
        *[(form, "2026-01-31 10:00:00.5", datetime(2026, 1, 31, 10, 0, 0, 500_000, tzinfo=UTC)) for form in FORMATS],
        *[(form, "2026-01-31T10:00:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)) for form in FORMATS],
        *[(form, "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)) for form in FORMATS],
        (".parquet", datetime(2026, 1, 31, 10), datetime(2026, 1, 31, 10, tzinfo=UTC)),  # noqa: DTZ001, RUF100
        (".parquet", datetime(2026, 1, 31, 10, tzinfo=UTC), datetime(2026, 1, 31, 10, tzinfo=UTC)),
        (".parquet", date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_times_are_in_utc(form: str, value: object, expected: datetime, tmp_path: Path) -> None:
    rows = [{"uri": "1.png", "captured_at": value}, {"uri": "2.png", "captured_at": None}]
    listing = listed(write(tmp_path / f"m{form}", rows), category="screw")
    assert listing.table["captured_at"].to_pylist() == [expected, None]


def test_nanoseconds_are_cut_to_microseconds(tmp_path: Path) -> None:
    table = pa.table({"uri": ["1.png"], "captured_at": pa.array([1_000_000_001], pa.timestamp("ns"))})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    (moment,) = listed(tmp_path / "m.parquet", category="screw").table["captured_at"].to_pylist()
    assert moment == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_the_digest_changes_with_all_that_a_manifest_says(form: str, tmp_path: Path) -> None:
    row: dict[str, object] = {"uri": "a.tar", "member": "1.png", "offset": 512, "size": 9, "etag": "x", "category": "screw"}
    changes = {
        "member": "2.png",
        "offset": 1024,
        "size": 8,
        "etag": "y",
        "category": "nut",
        "captured_at": "2026-01-31",
        "line": 1,
    }
    variants = [row, *({**row, name: value} for name, value in changes.items())]
    digests = {listed(write(tmp_path / f"m{form}", [variant])).digest() for variant in variants}
    assert len(digests) == len(variants)


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(manifest: Path) -> str:
    """Returns the error with which a listing refuses a manifest, which it names."""
    with pytest.raises(ConfigError) as caught:
        listed(manifest, category="screw")
    assert str(caught.value).startswith(canonical(str(manifest)))
    return str(caught.value)


def test_a_manifest_needs_a_column_uri(form: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / f"m{form}", [{"name": "1.png", "Where": "1.png"}]))
    assert (
        "has the columns name, Where: expected a column uri (or path, file, filename, image), and optionally member," in message
    )


@pytest.mark.parametrize("content", ["uri,member\n", "uri\n"])
def test_a_manifest_needs_rows(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(content)
    pyarrow.parquet.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "m.parquet")
    assert "has no rows" in refused(tmp_path / "m.csv")
    assert "has no rows" in refused(tmp_path / "m.parquet")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"uri,x\n1.png\n", b'{"uri": "1.png"', b"PAR1" * 9, b'["uri"]\n'])
def test_a_malformed_file_is_named(content: bytes, form: str, tmp_path: Path) -> None:
    (tmp_path / f"m{form}").write_bytes(content)
    message = refused(tmp_path / f"m{form}")
    if f"m{form} is damaged" in message:
        return
    assert f"cannot be read as {form}" in message or "has the columns" in message
    assert "expected a column uri" in message


def test_columns_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,line,line\n1.png,2,3\n")
    assert "uri, line, line: expected" in refused(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"uri": None}, "no uri: expected that of an image"),
        ({"uri": ""}, "no uri: expected that of an image"),
        ({"uri": "http://host/1.png"}, "location of scheme 'http': expected a local path or s3://bucket/key"),
        ({"uri": "a.zip"}, "a.zip is an archive: expected the column member, or the archive itself as a location"),
        ({"uri": "1.png", "member": "2.png"}, "has a member, but is no archive: expected .tar, .tar.gz, .tgz, .zip"),
        ({"uri": "a.zip", "member": "2.png", "offset": 1}, "expected one only for members of a .tar"),
        ({"uri": "1.png", "offset": 1}, "expected one only for members of a .tar"),
        ({"uri": "a.tar", "member": "2.png", "offset": -1, "size": 3}, "offset -1, size 3: expected 0 or more bytes"),
        ({"uri": "1.png", "size": -1}, "offset None, size -1: expected 0 or more bytes"),
    ],
)
def test_a_row_that_is_no_image_is_named(row: dict[str, object], reason: str, form: str, tmp_path: Path) -> None:
    good = {"uri": "ok.tar", "member": "1.png", "offset": 0, "size": 1}
    message = refused(write(tmp_path / f"m{form}", [good, {**dict.fromkeys(good), **row}]))
    assert ", row 2: " in message
    assert reason in message


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("size", "large", "int64"),
        ("offset", "12 kB", "int64"),
        ("captured_at", "yesterday", "timestamp"),
        ("size", 1.5, "int64"),
    ],
)
def test_a_column_of_another_type_is_named(column: str, value: object, kind: str, form: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / f"m{form}", [{"uri": "1.png", column: value}]))
    assert f"column {column!r} of type" in message
    assert f"expected {kind}" in message


def test_bytes_are_no_text(tmp_path: Path) -> None:
    assert "column 'image' of type binary, expected string" in refused(
        write(tmp_path / "m.parquet", [{"uri": "1.png", "image": b"\xff"}])
    )


def test_credentials_are_never_repeated(form: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / f"m{form}", [{"uri": "s3://AKIAEXAMPLE:swordfish@bucket/1.png"}]))
    assert "without credentials in it" in message
    assert "AKIA" not in message
    assert "swordfish" not in message


def test_a_manifest_that_is_not_there_is_named(form: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"m{form}: no such file or folder"):
        listed(tmp_path / f"m{form}")

"""Manifests as people have them: other delimiters, encodings, headers and column types say the same."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_files import listed

from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical

Write = Callable[[list[str], list[list[str | None]]], Path]
HEADER = ["uri", "category", "split", "line"]
ROWS: list[list[str | None]] = [["a ü,;\t漢.png", "screw", "test", "0042"], ["b.png", "nut", "train", None]]


def rows_in(manifest: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Returns name, category and attributes of each image."""
    folder = canonical(str(manifest.parent)) + "/"
    rows = listed(manifest).table.to_pylist()
    return sorted((row["uri"].removeprefix(folder), row["category"], dict(row["attributes"])) for row in rows)


EXPECTED = [
    ("a ü,;\t漢.png", "screw", {"split": "test", "line": "0042"}),
    ("b.png", "nut", {"split": "train"}),
]


def csv(delimiter: str, header: list[str], rows: list[list[str | None]]) -> str:
    """Returns a CSV in which text with a delimiter is quoted, as Excel writes it."""
    lines = [[value or "" for value in row] for row in [header, *rows]]
    quoted = [[f'"{value}"' if any(sign in value for sign in ",;\t") else value for value in line] for line in lines]
    return "".join(delimiter.join(line) + "\r\n" for line in quoted)


@pytest.fixture(params=[".csv", ".jsonl", ".parquet"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes a manifest with these columns and rows in one of the formats; returns its path."""

    def write(header: list[str], rows: list[list[str | None]]) -> Path:
        path = tmp_path / f"m{request.param}"
        if path.suffix == ".csv":
            path.write_text(csv(",", header, rows))
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
        else:
            columns = zip(*rows, strict=True)
            pq.write_table(pa.table([pa.array(column, pa.string()) for column in columns], header), path)
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("delimiter", "suffix"), [(",", "csv"), (";", "csv"), ("\t", "csv"), ("\t", "tsv"), (",", "CSV")])
def test_delimiters_and_encodings_change_nothing(delimiter: str, suffix: str, encoding: str, tmp_path: Path) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    manifest = tmp_path / f"m.{suffix}"
    manifest.write_bytes(mark + csv(delimiter, HEADER, ROWS).encode(encoding))
    assert rows_in(manifest) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines_of_other_encodings_change_nothing(encoding: str, tmp_path: Path) -> None:
    lines = [json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in ROWS]
    (tmp_path / "m.jsonl").write_bytes("\n".join(lines).encode(encoding))
    assert rows_in(tmp_path / "m.jsonl") == EXPECTED


@pytest.mark.parametrize(
    "content", [codecs.BOM_UTF16_LE + b"u\0r\0i", codecs.BOM_UTF16_BE + b"\xd8\0", "uri;Größe\n1;2\n".encode("cp1252")]
)
def test_text_that_is_not_in_its_encoding_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=r"m.csv cannot be read as .csv: .*expected a column uri"):
        listed(tmp_path / "m.csv")


def test_a_manifest_of_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\na;b.png\n")
    assert listed(tmp_path / "m.csv", category="a").table["uri"].to_pylist() == [canonical(str(tmp_path / "a;b.png"))]


@pytest.mark.parametrize("header", [["URI", "CATEGORY", "SPLIT", "line"], ["Uri", "Category", "Split", "line"]])
def test_known_columns_count_in_any_case(header: list[str], write: Write) -> None:
    assert rows_in(write(header, ROWS)) == EXPECTED


@pytest.mark.parametrize("name", ["path", "file", "filename", "image", "Path", "FileName", "Image"])
def test_the_column_of_images_has_many_names(name: str, write: Write) -> None:
    assert rows_in(write([name, *HEADER[1:]], ROWS)) == EXPECTED


def test_of_several_names_the_first_counts_and_the_others_are_attributes(write: Write) -> None:
    rows: list[list[str | None]] = [["shown", "b.png", "screw", "bent"]]
    assert rows_in(write(["image", "path", "category", "label"], rows)) == [
        ("b.png", "screw", {"image": "shown", "label": "bent"})
    ]
    assert rows_in(write(["path", "URI", "category", "label"], rows)) == [
        ("b.png", "screw", {"path": "shown", "label": "bent"})
    ]


def test_a_label_is_an_attribute_and_other_columns_keep_their_case(write: Write) -> None:
    found = rows_in(write(["file", "category", "label", "Line No"], [["a.png", "screw", "OK", "7"]]))
    assert found == [("a.png", "screw", {"label": "OK", "Line No": "7"})]


def test_a_column_that_stands_twice_in_other_cases_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"has the columns uri, Category, category: expected a column uri .* each once"):
        listed(write(["uri", "Category", "category"], [["a.png", "b", "c"]]))


@pytest.mark.parametrize(
    "kind", [pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.dictionary(pa.int32(), pa.large_string())]
)
def test_columns_of_a_parquet_file_may_be_encoded_in_other_ways(kind: pa.DataType, tmp_path: Path) -> None:
    columns = [pa.array(column, pa.string()).cast(kind) for column in zip(*ROWS, strict=True)]
    moments = pa.array(["2026-01-31T10:00:00", None]).dictionary_encode()
    sizes = pa.array([7, None], pa.int64()).dictionary_encode()
    pq.write_table(pa.table([*columns, moments, sizes], ["Path", *HEADER[1:], "captured_at", "size"]), tmp_path / "m.parquet")
    assert pa.types.is_dictionary(pq.read_schema(tmp_path / "m.parquet").field("Path").type) == pa.types.is_dictionary(kind)
    assert rows_in(tmp_path / "m.parquet") == EXPECTED
    rows = {row["category"]: row for row in listed(tmp_path / "m.parquet").table.to_pylist()}
    assert (rows["screw"]["size"], rows["nut"]["size"], rows["nut"]["captured_at"]) == (7, None, None)
    assert rows["screw"]["captured_at"].isoformat() == "2026-01-31T10:00:00+00:00"

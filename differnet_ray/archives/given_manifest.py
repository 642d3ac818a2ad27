"""Manifests that a user gives: a CSV, JSON Lines or Parquet file that names images, one a row.

    column               of every row; known ones in any case
    uri                  the image, or the archive that holds it; absolute, or relative to the folder of the manifest
    member               its name inside the archive; an archive itself is a location, not a row
    offset, size         of the image in bytes; the offset only inside a tar
    etag                 changes when the content does
    category             product category
    captured_at          ISO 8601 or a timestamp; UTC where it names no zone
    any other            becomes an attribute, as text; split and defect are such columns

All but `uri` are optional, and so is every value of theirs. What the manifest does not say stays null. Where there is no `uri`,
the first of `path`, `file`, `filename` and `image` that is there is it. A CSV has commas, semicolons or tabs: what its
first line has most of. Text is UTF-8, or UTF-16 with a byte order mark.
"""

from __future__ import annotations

import codecs
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from differnet_ray.archives.members import ARCHIVE_SUFFIXES, archive_kind, as_paths
from differnet_ray.errors import ConfigError
from differnet_ray.storage.files import read_bytes
from differnet_ray.storage.locations import canonical

_UTC = pa.timestamp("us", tz="UTC")
COLUMNS = {
    "uri": pa.string(),
    "member": pa.string(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "etag": pa.string(),
    "category": pa.string(),
    "captured_at": _UTC,
}
URI_NAMES = ("uri", "path", "file", "filename", "image")  # of the column that names the image, the first that is there
_IN_ANY_CASE = (*COLUMNS, *URI_NAMES, "split", "defect")
_EXPECTED = (
    f"expected a column uri (or {', '.join(URI_NAMES[1:])}), "
    f"and optionally {', '.join(name for name in COLUMNS if name != 'uri')} and attributes"
)
_DELIMITERS, _LONGEST_HEADER = ",;\t", 2**16
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # by their marks


@dataclass(frozen=True)
class GivenImage:
    """An image as a manifest names it; the columns of the manifest, None where it does not say.

    Attributes:
        path: the member with `/` between folders, as `members.as_paths` has it; None where `member` is.
    """

    uri: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    etag: str | None = None
    category: str | None = None
    captured_at: datetime | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    path: str | None = None


def is_manifest(uri: str) -> bool:
    """Whether the name of a file is that of a manifest."""
    return uri.lower().endswith(tuple(_READERS))


def read_manifest(uri: str) -> Iterator[GivenImage]:
    """Reads the images that a manifest names.

    Args:
        uri: canonical URI of the manifest.

    Raises:
        ConfigError: the file is malformed, has no rows or no column that names images, or a row cannot be one.
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    folder, table = uri.rpartition("/")[0], _parse(uri)
    relative = as_paths([name if _is_relative(name) else "" for name in _names(table, "uri", uri)])
    members = as_paths(_names(table, "member", uri))
    for n, (columns, attributes) in enumerate(rows_of(table, uri, COLUMNS)):
        try:
            columns["uri"] = _resolved(relative[n] or columns["uri"], folder)
            image = GivenImage(**columns, attributes=attributes, path=members[n] or None)
            _check(image)
        except ConfigError as error:
            raise ConfigError(f"{uri}, row {n + 1}: {error}") from error
        yield image


def rows_of(table: pa.Table, uri: str, known: Mapping[str, pa.DataType]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """The rows of a table that names images.

    Args:
        table: of any columns.
        uri: of its file.
        known: columns that have a meaning, and their types.

    Yields:
        The known columns of each row, empty text as null; and those of the others that are not null, as text.

    Raises:
        ConfigError: a known column has values of another type.
    """
    names = [name for name in known if name in table.column_names]
    given = [_as(table[name], name, known[name], uri).to_pylist() for name in names]
    others = [name for name in table.column_names if name not in known]
    texts = [_as(table[name], name, pa.string(), uri).to_pylist() for name in others]
    for n in range(table.num_rows):
        columns = {name: None if values[n] == "" else values[n] for name, values in zip(names, given, strict=True)}
        yield columns, {name: values[n] for name, values in zip(others, texts, strict=True) if values[n] is not None}


def read_columns(uri: str) -> pa.Table:
    """The columns of a CSV, JSON Lines or Parquet file, whatever they are; errors as of `read_manifest`."""
    data = read_bytes(uri)
    suffix, read = next(((suffix, read) for suffix, read in _READERS.items() if uri.lower().endswith(suffix)), ("", None))
    if read is None:
        raise ConfigError(f"{uri}: expected a file {', '.join(_READERS)}")
    try:
        return read(pa.BufferReader(data if suffix == ".parquet" else _in_utf8(data)))
    except (pa.ArrowException, OSError, ValueError) as error:  # all of them mean the content: it is in memory
        raise ConfigError(f"{uri} cannot be read as {suffix}: {error}; {_EXPECTED}") from error


def _parse(uri: str) -> pa.Table:
    table = read_columns(uri)
    known = known_names(table.schema)
    if "uri" not in known or len(set(known)) < len(known):
        raise ConfigError(f"{uri} has the columns {', '.join(table.column_names)}: {_EXPECTED}, each once")
    if table.num_rows == 0:
        raise ConfigError(f"{uri} has no rows: expected one for each image")
    return table.rename_columns(known)


def known_names(schema: pa.Schema) -> list[str]:
    """The columns of a manifest by the names that this module knows, with the one that names the images as `uri`; others stay.

    Example:
        >>> known_names(pa.schema({"Filename": pa.string(), "CATEGORY": pa.string(), "Line": pa.int8()}))
        ['uri', 'category', 'Line']
    """
    names = [name.lower() if name.lower() in _IN_ANY_CASE else name for name in schema.names]
    texts = [name for name, kind in zip(names, schema.types, strict=True) if _is_text(kind)]
    uri = next((name for name in URI_NAMES if name in texts), None)
    return names if "uri" in names else ["uri" if name == uri else name for name in names]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _in_utf8(data: bytes) -> bytes:
    encoding = next((encoding for mark, encoding in _ENCODINGS.items() if data.startswith(mark)), None)
    return data.decode(encoding).encode() if encoding else data


def _read_csv(data: pa.NativeFile) -> pa.Table:
    header = data.read(_LONGEST_HEADER).partition(b"\n")[0].decode(errors="replace")
    parse = pyarrow.csv.ParseOptions(delimiter=max(_DELIMITERS, key=header.count), newlines_in_values=True)
    data.seek(0)
    names = pyarrow.csv.open_csv(data, parse_options=parse).schema.names
    data.seek(0)
    as_text = pyarrow.csv.ConvertOptions(  # types would be guessed: 0042 is a category, NA may be one
        column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
    )
    return pyarrow.csv.read_csv(data, parse_options=parse, convert_options=as_text)


def _read_json(data: pa.NativeFile) -> pa.Table:
    table = pyarrow.json.read_json(data)
    times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if not times:
        return table
    data.seek(0)  # text that looks like a time is text all the same
    as_text = pa.schema([(name, pa.string()) for name in times])
    return pyarrow.json.read_json(data, parse_options=pyarrow.json.ParseOptions(explicit_schema=as_text))


_READERS: dict[str, Callable[[pa.NativeFile], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": pyarrow.parquet.read_table,
}


def _as(column: pa.ChunkedArray, name: str, kind: pa.DataType, uri: str) -> pa.ChunkedArray:
    """The column with the values that its name calls for; nested ones become JSON where text is expected."""
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type) and kind == pa.string():
            texts = (None if value is None else json.dumps(value, default=str) for value in column.to_pylist())
            return pa.chunked_array([pa.array(texts, kind)])
        if kind == _UTC and not pa.types.is_timestamp(column.type):
            return pa.chunked_array([pa.array(map(_moment, column.to_pylist()), kind)])
        return column.cast(kind, safe=kind != _UTC)  # of nanoseconds, the microseconds will do
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigError(f"{uri}: column {name!r} of type {column.type}, expected {kind}: {error}") from error


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _resolved(uri: str | None, folder: str) -> str:
    if not uri:
        raise ConfigError("no uri: expected that of an image")
    if _is_relative(uri):
        scheme, path = folder.split("://", 1)
        uri = f"{scheme}://{posixpath.normpath(posixpath.join(path, uri))}"
    return canonical(uri)


def _names(table: pa.Table, column: str, uri: str) -> list[str]:
    if column not in table.column_names:
        return [""] * table.num_rows
    return [name or "" for name in _as(table[column], column, pa.string(), uri).to_pylist()]


def _is_relative(uri: str) -> bool:
    return "://" not in uri and not uri.startswith("/")


def _check(image: GivenImage) -> None:
    archive = archive_kind(image.uri)
    if archive and not image.member:
        raise ConfigError(f"{image.uri} is an archive: expected the column member, or the archive itself as a location")
    if image.member and not archive:
        raise ConfigError(f"{image.uri} has a member, but is no archive: expected {', '.join(ARCHIVE_SUFFIXES)}")
    if image.offset is not None and archive not in ("tar", "parquet"):
        raise ConfigError(f"an offset in {image.uri}: expected one only for members of a .tar or rows of a .parquet")
    if (image.offset or 0) < 0 or (image.size or 0) < 0:
        raise ConfigError(f"offset {image.offset}, size {image.size}: expected 0 or more bytes")

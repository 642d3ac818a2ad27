"""Images in a column of a Parquet file: which rows there are, and their bytes.

    column                                                of every row
    the only one of type binary or struct<bytes: binary>  the image (Hugging Face datasets writes structs, with a path in them);
                                                          where there is none, the only one of lists of uint8 instead of binary
    member, name, path, filename, file_name or key        its name; the first that is there, else the path in the struct
    category, captured_at                                 as in a given manifest
    any other                                             becomes an attribute, as text

A row without a name is `row-000000012`, and a name that stood before in the file gets its row: `0001.png#12`. A batch of images
costs the row groups that they lie in, of which the last few are remembered.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.archives.given_manifest import COLUMNS, GivenImage, rows_of
from differnet_ray.archives.images import check_size
from differnet_ray.errors import ImageError
from differnet_ray.storage.files import open_input

NAMES = ("member", "name", "path", "filename", "file_name", "key")
BYTES, PATH = "bytes", "path"  # fields of the struct
ROWS_AT_ONCE = 10_000
GROUPS_IN_MEMORY = 2
READ_AHEAD = 2**20  # bytes

_KNOWN = {name: COLUMNS[name] for name in ("category", "captured_at")}


def holds_images(uri: str, etag: str | None = None) -> bool:
    """Whether a Parquet file is an archive of images: it has one column of them, and none that says where images are.

    Raises:
        ImageError: it is damaged or no Parquet file.
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    with _opened(uri, etag) as file:
        schema = file.schema_arrow
        return "uri" not in map(str.lower, schema.names) and len(_image_columns(schema)) == 1


def list_rows(uri: str, etag: str | None = None) -> Iterator[GivenImage]:
    """The images of a Parquet file; their bytes are not read, so that their sizes are not known.

    Raises:
        ConfigError: a known column has values of another type.
        ImageError, FileNotFoundError, StorageError: as `holds_images`.
    """
    with _opened(uri, etag) as file:
        (images,) = _image_columns(file.schema_arrow)
        names = next((name for name in NAMES if name in file.schema_arrow.names and name != images.name), None)
        if names is None and pa.types.is_struct(images.type) and PATH in {field.name for field in images.type}:
            names = f"{images.name}.{PATH}"
        columns = [name for name in file.schema_arrow.names if name not in (images.name, names)]
        seen = set[str]()
        n = 0
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*columns, *([names] if names else [])]):
            rows = pa.Table.from_batches([batch])
            given = rows_of(rows.select(columns), uri, _KNOWN)
            for name in _names(rows, names):
                known, attributes = next(given, ({}, {}))
                member = name or f"row-{n:09d}"
                while member in seen:
                    member += f"#{n}"
                seen.add(member)
                yield GivenImage(uri, member, offset=n, etag=etag, **known, attributes=attributes)
                n += 1


def read_rows(uri: str, rows: Sequence[int | None], etag: str | None = None) -> Iterator[bytes | ImageError]:
    """Reads the images of some rows.

    Args:
        uri: canonical URI of the Parquet file.
        rows: their numbers in it; None for one that it has not.
        etag: that the file had when it was listed; not compared if None.

    Yields:
        For each row, in order, the image, or why there is none (`missing`, `unreadable`, `too_large`).

    Raises:
        ImageError: the file is damaged.
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    ends = _group_ends(uri, etag)
    for row in rows:
        group = len(ends) if row is None else bisect_right(ends, row)
        if row is None or group == len(ends):
            yield ImageError("missing", "the file has no such row any more")
        else:
            yield _content(_group(uri, etag, group)[row - (ends[group - 1] if group else 0)])


@contextmanager
def _opened(uri: str, etag: str | None) -> Iterator[pq.ParquetFile]:
    with open_input(uri, etag=etag, read_ahead=READ_AHEAD) as source:
        try:
            with pq.ParquetFile(source) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of storage; Arrow's own have no number
                raise
            raise ImageError("unreadable", f"{uri} is damaged, cut short or no Parquet file: {error}") from error


def _image_columns(schema: pa.Schema) -> list[pa.Field]:
    found = [[field for field in schema if fits(field.type) or fits(_field_type(field.type, BYTES))] for fits in _IMAGE_TYPES]
    return next(filter(None, found), [])


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list_of_bytes(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_uint8(kind.value_type))


_IMAGE_TYPES = (_is_binary, _is_list_of_bytes)


def _field_type(kind: pa.DataType, name: str) -> pa.DataType:
    return kind.field(name).type if pa.types.is_struct(kind) and kind.get_field_index(name) >= 0 else pa.null()


def _names(rows: pa.Table, column: str | None) -> Sequence[str | None]:
    if column is None:
        return [None] * rows.num_rows
    values = rows[column] if column in rows.column_names else pc.struct_field(rows[column.removesuffix(f".{PATH}")], PATH)
    return [None if value is None else str(value) for value in values.to_pylist()]


@lru_cache(maxsize=64)
def _group_ends(uri: str, etag: str | None) -> tuple[int, ...]:
    with _opened(uri, etag) as file:
        return tuple(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))


@lru_cache(maxsize=GROUPS_IN_MEMORY)
def _group(uri: str, etag: str | None, group: int) -> pa.ChunkedArray:
    with _opened(uri, etag) as file:
        (images,) = _image_columns(file.schema_arrow)
        column = file.read_row_group(group, columns=[images.name])[images.name]
    return pc.struct_field(column, BYTES) if pa.types.is_struct(images.type) else column


def _content(image: pa.Scalar) -> bytes | ImageError:
    if isinstance(image, pa.DictionaryScalar) and image.is_valid:
        image = image.value
    if not image.is_valid:
        return ImageError("unreadable", "the row has no image in it")
    values = image.values if isinstance(image, pa.ListScalar) else None
    if values is not None and values.null_count:
        return ImageError("unreadable", f"{values.null_count} of the {len(values):,} bytes of the image are null")
    try:
        check_size(image.as_buffer().size if values is None else len(values))
    except ImageError as error:
        return error
    return bytes(image.as_py()) if values is None else values.to_numpy().tobytes()

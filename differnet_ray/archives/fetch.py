"""The first stage of scoring: manifest rows -> the same rows with decoded pixels, or with the reason why there are none.

    FetchImages -> decoded_images -> read_images -> files, ranges of tars, read_members of zip and tar.gz, read_rows of Parquet

It needs no torch, so that the workers that fetch stay small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from differnet_ray.archives.decoders import DECODERS
from differnet_ray.archives.images import DecodedImage, check_size
from differnet_ray.archives.light import light_of
from differnet_ray.archives.members import archive_kind, read_members
from differnet_ray.archives.parquet_archive import list_rows, read_rows
from differnet_ray.config import ImageForm
from differnet_ray.errors import DifferNetError, ImageError, ReplacedError, StorageError, UnavailableError
from differnet_ray.storage.files import READ_THREADS, read_bytes, read_range, wait_until_available
from differnet_ray.storage.retries import note_retry
from differnet_ray.tables import FETCHED, GREY_CLIPPED, extend
from differnet_ray.threads import map_ahead

MAX_GAP, MAX_RANGE = 64 * 2**10, 8 * 2**20  # bytes between members of a tar that one read gets, and of them all


class FetchImages:
    """Reads and decodes the images that manifest rows name.

    Args:
        forms: category to what its model wants; rows of other categories get the status `no_model` and are not read.
    """

    def __init__(self, forms: Mapping[str, ImageForm]) -> None:
        self.forms = forms

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `tables.MANIFEST` -> the same rows of `tables.FETCHED`, with the attribute `GREY_CLIPPED` where it holds."""
        categories = rows["category"].to_pylist()
        forms = [self.forms.get(category) for category in categories]
        known = rows.filter(pa.array([form is not None for form in forms], pa.bool_()))
        decoded = decoded_images(known, (form for form in forms if form is not None))
        images = [None if form is None else next(decoded) for form in forms]
        return with_pixels(rows, images)


def with_pixels(rows: pa.Table, images: Sequence[DecodedImage | DifferNetError | None]) -> pa.Table:
    """Rows of `tables.MANIFEST` and their images -> the same rows of `tables.FETCHED`.

    Args:
        rows: what `FetchImages` is called with.
        images: of each row its image, or why there is none; None where no model is of its category.
    """
    fetched = [
        _no_model(category) if image is None else _fetched(image)
        for category, image in zip(rows["category"].to_pylist(), images, strict=True)
    ]
    return extend(_with_clipped(rows, [_clipped(image) for image in images]), fetched, FETCHED)


def _clipped(image: DecodedImage | DifferNetError | None) -> float:
    """Share of the pixels of an image that were clipped."""
    return image.grey.outside if isinstance(image, DecodedImage) and image.grey is not None else 0.0


def _with_clipped(rows: pa.Table, shares: Sequence[float]) -> pa.Table:
    if not any(shares):
        return rows
    attributes = [
        list({**dict(known), GREY_CLIPPED: f"{share:.2g}"}.items()) if share else known
        for known, share in zip(rows["attributes"].to_pylist(), shares, strict=True)
    ]
    at = rows.schema.get_field_index("attributes")
    return rows.set_column(at, rows.schema.field(at), pa.array(attributes, rows.schema.field(at).type))


def decoded_images(rows: pa.Table, forms: Iterable[ImageForm]) -> Iterator[DecodedImage | DifferNetError]:
    """Reads and decodes the images that manifest rows name, a few ahead, by several threads.

    Args:
        rows: of `tables.MANIFEST`.
        forms: what to make of each image.

    Yields:
        For each row, in order, its image, or why there is none: an `ImageError` with a status, or a `StorageError`.
    """
    # decoding releases the interpreter lock
    return map_ahead(_decoded, zip(read_images(rows), forms, strict=True), READ_THREADS)


def decoded_image(uri: str, member: str | None, form: ImageForm) -> DecodedImage:
    """Reads and decodes one image by its name alone, as the tables have it; of a member, that is slower than by its offset.

    Raises:
        DifferNetError: as `decoded_images` yields.
    """
    member_name, none = pa.array([member], pa.string()), pa.nulls(1, pa.int64())
    rows = pa.table({"uri": [uri], "member": member_name, "offset": none, "size": none, "etag": pa.nulls(1, pa.string())})
    (image,) = decoded_images(rows, [form])
    if isinstance(image, DifferNetError):
        raise image
    return image


def read_images(rows: pa.Table) -> Iterator[bytes | DifferNetError]:
    """Reads the images that manifest rows name.

    Files and members of tars are read a few ahead, by several threads. The members of another archive are read in turn;
    it is opened once for rows that stand together, as they do in a listing.

    Args:
        rows: with the columns uri, member, offset, size and etag of `tables.MANIFEST`.

    Yields:
        For each row, in order, the content of its image, or why there is none: an `ImageError` with the status of the row
        (`missing`, `unreadable`, `unsupported`, `too_large`), or a `StorageError` of that image.

    Raises:
        UnavailableError: the storage as a whole does not work any more.
    """
    wanted = map(_Wanted, *(rows[name].to_pylist() for name in _Wanted._fields))
    for archive, images in groupby(wanted, lambda image: image.walked_archive):
        if archive is None:
            for contents in map_ahead(_read_together, _neighbours(images), READ_THREADS):
                yield from contents
        else:
            yield from _walk(list(images))


def _decoded(image: tuple[bytes | DifferNetError, ImageForm]) -> DecodedImage | DifferNetError:
    content, form = image
    if isinstance(content, DifferNetError):
        return content
    try:
        return DECODERS.decode(content, form)
    except ImageError as error:
        return error


def _fetched(image: DecodedImage | DifferNetError) -> dict[str, Any]:
    match image:
        case DecodedImage():
            seen = {"width": image.width, "height": image.height, "pixels": image.pixels.tobytes()}
            return seen | asdict(light_of(image.pixels))
        case ImageError():
            return {"status": image.status, "error": image.reason}
        case _:
            return {"status": "failed", "error": str(image)}


def _no_model(category: str) -> dict[str, Any]:
    return {"status": "no_model", "error": f"the model store has no model of category {category!r}"}


class _Wanted(NamedTuple):
    """Where an image lies: the columns of the manifest that say so."""

    uri: str
    member: str | None
    offset: int | None
    size: int | None
    etag: str | None

    @property
    def walked_archive(self) -> str | None:
        """The archive that must be walked to find the image; None where its bytes can be asked for."""
        is_range = archive_kind(self.uri) == "tar" and self.offset is not None and self.size is not None
        return None if self.member is None or is_range else self.uri

    @property
    def start(self) -> int:
        return self.offset or 0

    @property
    def end(self) -> int:
        return self.start + (self.size or 0)

    def follows(self, others: Sequence[_Wanted]) -> bool:
        """Whether the read that gets the others had better get this image too."""
        first, last = others[0], others[-1]
        near = 0 <= self.start - last.end <= MAX_GAP and self.end - first.start <= MAX_RANGE
        return near and self.uri == first.uri and None not in (self.member, last.member)


def _neighbours(images: Iterable[_Wanted]) -> Iterator[list[_Wanted]]:
    """Files one by one, and members of tars with those that they lie next to."""
    together: list[_Wanted] = []
    for image in images:
        if together and not image.follows(together):
            yield together
            together = []
        together.append(image)
    if together:
        yield together


def _read_together(images: Sequence[_Wanted]) -> list[bytes | DifferNetError]:
    first, last = images[0], images[-1]
    while True:
        try:
            check_size(first.size or 0)  # one that is too large has no neighbours
            if first.member is None:
                return [read_bytes(first.uri, first.etag)]
            data = read_range(first.uri, first.start, last.end, first.etag)
            return [_cut(data, image, first.start) for image in images]
        except (FileNotFoundError, ImageError, StorageError) as error:
            if not _worth_another_try(error, first.uri):
                return [_reason(error)] * len(images)


def _cut(data: bytes, image: _Wanted, start: int) -> bytes | ImageError:
    content = data[image.start - start : image.end - start]
    if len(content) == image.size:
        return content
    found = f"found {len(content):,} of its {image.size:,} bytes"
    return ImageError("unreadable", f"the archive ends inside the member {image.member!r}: {found}")


def _walk(images: Sequence[_Wanted]) -> Iterator[bytes | DifferNetError]:
    """Reads images of one archive."""
    done = 0
    while done < len(images):
        try:
            for content in _contents(images[done:]):
                yield content
                done += 1
        except (FileNotFoundError, ImageError, StorageError) as error:
            if not _worth_another_try(error, images[0].uri):
                yield from [_reason(error)] * (len(images) - done)
                return


def _contents(images: Sequence[_Wanted]) -> Iterator[bytes | ImageError]:
    uri, etag = images[0].uri, images[0].etag
    if archive_kind(uri) != "parquet":
        return read_members(uri, [image.member or "" for image in images], etag)
    rows = [image.offset for image in images]
    if None in rows:
        known = {image.member: image.offset for image in list_rows(uri, etag)}
        rows = [known.get(image.member) if image.offset is None else image.offset for image in images]
    return read_rows(uri, rows, etag)


def _worth_another_try(error: Exception, uri: str) -> bool:
    """Whether the storage as a whole was away when a read failed, and is back; raises where it stays away."""
    if isinstance(error, UnavailableError):
        raise error
    if isinstance(error, ReplacedError) or not isinstance(error, StorageError):
        return False
    again = wait_until_available(uri, error)
    note_retry(int(again))
    return again


def _reason(error: Exception) -> DifferNetError:
    match error:
        case FileNotFoundError():
            return ImageError("missing", "the file was listed, but is no longer there")
        case ReplacedError():
            return ImageError("missing", f"{error}; another run lists it anew")
        case DifferNetError():
            return error
        case _:
            raise error

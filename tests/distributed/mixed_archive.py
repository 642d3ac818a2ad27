"""An archive as factories have them: loose images, tar, zip and Parquet files, good images and every kind of broken one."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import cycle

import pyarrow as pa
import pyarrow.parquet as pq
from deadly_images import POISON
from PIL import Image

from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import join

PATTERN = "line {line}/{category}/{name}"
KINDS = ("loose", "tar", "zip", "parquet")


def broken(good: bytes) -> dict[str, tuple[bytes, str]]:
    """Returns name -> content and status of images that cannot be scored, made from a good one."""
    sink = io.BytesIO()
    Image.open(io.BytesIO(good)).save(sink, "JPEG", comment=POISON)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR" + header) + _chunk(b"IDAT" + zlib.compress(b""))
    return {
        "empty.jpg": (b"", "unreadable"),
        "text.png": (b"not an image", "unreadable"),
        "cut.jpg": (good[: len(good) // 2], "unreadable"),
        "photoshop.jpg": (b"8BPS" + bytes(99), "unsupported"),
        "huge.png": (huge, "too_large"),
        "poison.jpg": (sink.getvalue(), "failed"),
    }


def _chunk(data: bytes) -> bytes:
    """Returns a chunk of a PNG, of its name and content."""
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def make(root: str, good: dict[str, Sequence[bytes]], per_kind: int) -> dict[str, str]:
    """Writes the archive: as many images of each category loose and in each kind of file, and the broken ones in each.

    Beside them lie files that are no images, hidden ones, and two images of which nothing says the category.

    Args:
        root: canonical URI.
        good: category to images, which are used in turn; those of `unknown` have no model.
        per_kind: good images of each category in each kind of place.

    Returns:
        `PLACE/CATEGORY/NAME` -> the status that a broken image must get.
    """
    planted: dict[str, str] = {}
    for kind in KINDS:
        members = list(_members(kind, good, per_kind, planted))
        if kind == "loose":
            for name, data in members:
                write_bytes(join(root, f"line {kind}", name), data)
        else:
            write_bytes(join(root, f"line {kind}.{kind}"), _packed(kind, members))
    for name in ("readme.txt", ".hidden.jpg", "stray.jpg", "another stray.png"):
        write_bytes(join(root, name), b"x")
    return planted


def _members(
    kind: str, good: dict[str, Sequence[bytes]], per_kind: int, planted: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    for category, images in good.items():
        for n, data in zip(range(per_kind), cycle(images), strict=False):
            yield f"{category}/{n:04d} ü.jpg", data
        if category == "unknown":
            continue
        for name, (data, status) in broken(images[0]).items():
            planted[f"{kind}/{category}/{name}"] = status
            yield f"{category}/{name}", data


def _packed(kind: str, members: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        names, contents = zip(*members, strict=True)
        pq.write_table(pa.table({"image": contents, "name": names}), sink, row_group_size=64)
    elif kind == "zip":
        with zipfile.ZipFile(sink, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=sink, mode="w") as archive:
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()

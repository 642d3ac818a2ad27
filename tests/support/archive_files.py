"""Archives for the tests, written by the standard library, and the images in them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
from image_files import saved, scene

from differnet_ray.archives.fetch import read_images
from differnet_ray.archives.manifest import Listing, list_images

KINDS = (".tar", ".tar.gz", ".tgz", ".zip")
LAYOUT = (
    "screw/train/good/000.png",
    "screw/train/good/001.png",
    "screw/test/good/000.png",
    "screw/test/scratch head/000.png",
    "nut/test/bent/ü 漢 🙂.png",
)


def images(names: Iterable[str] = LAYOUT) -> dict[str, bytes]:
    """Returns a small PNG for each name, all different."""
    return {name: saved(scene(9, 12, seed=n), "PNG") for n, name in enumerate(names)}


def pack(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], **options: object) -> Path:
    """Writes an archive of the kind that its name says, with these members in this order; returns its path."""
    members = members.items() if isinstance(members, Mapping) else members
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
            for name, data in members:
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz", **options) as archive:  # type: ignore[call-overload]
            for name, data in members:
                add(archive, name, data)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **header: object) -> None:
    """Appends a member to a tar, with further fields of its header."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for field, value in header.items():
        setattr(entry, field, value)
    archive.addfile(entry, io.BytesIO(data))


def unpack(root: Path, members: Mapping[str, bytes]) -> Path:
    """Writes the members as files below a folder; returns the folder."""
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def listed(*locations: Path | str, category: str | None = None, path_pattern: str | None = None) -> Listing:
    """Returns the listing of some locations."""
    return list_images([str(location) for location in locations], category=category, path_pattern=path_pattern)


def contents(rows: pa.Table) -> dict[str, object]:
    """Returns member (or URI) -> its content, or the status and reason why there is none."""
    names = [member or uri for uri, member in zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), strict=True)]
    found = dict(zip(names, read_images(rows), strict=True))
    assert len(found) == rows.num_rows
    return {name: data if isinstance(data, bytes) else str(data) for name, data in found.items()}

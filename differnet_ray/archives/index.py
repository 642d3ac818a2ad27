"""What is in the locations of an archive, source by source, so that many can be read side by side.

    locations -> sources_of -> Source -> index_source -> manifest rows, and further sources that it found

A source is a folder, a tar, zip or Parquet file of images, or a given manifest. The category of an image comes from
`--category`, from a given manifest or Parquet file, from `--path-pattern`, or from the MVTec AD layout
`<category>/<train|test>/<defect>/<name>`; further names in the pattern become attributes. The attribute `defect` of good images
is `good`, whatever they are called (`labels.py`). The path of an image inside an archive is `<archive>/<member>`, so that
`{category}.zip/{name}` finds categories that have an archive each; backslashes of Windows count as `/` in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.archives.given_manifest import GivenImage, is_manifest, read_manifest
from differnet_ray.archives.members import ARCHIVE_SUFFIXES, archive_kind, list_members, listing_an_archive
from differnet_ray.archives.parquet_archive import holds_images, list_rows
from differnet_ray.errors import ConfigError
from differnet_ray.labels import kind_of
from differnet_ray.storage.files import StoredFile, list_files, list_level, read_bytes, write_bytes
from differnet_ray.storage.locations import canonical, join, name_of
from differnet_ray.tables import MANIFEST

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
MASK_FOLDERS = ("ground_truth", "Data/Masks")  # of MVTec AD, BTAD and MPDD, and of VisA
NOT_AN_IMAGE = "not an image"
ROWS_AT_ONCE = 10_000
CACHE_FORMAT = "2"  # grows when what is cached, or how an archive is read, changes

# Rows of a manifest in the making: the category may be unknown
FOUND = MANIFEST.schema.set(MANIFEST.schema.get_field_index("category"), MANIFEST.schema.field("category").with_nullable(True))
_CACHED = pa.schema(
    [
        *(FOUND.field(name) for name in ("member", "category", "offset", "size", "captured_at", "attributes")),
        pa.field("path", pa.string()),
    ]
)
_MVTEC_AD = re.compile(r"(?:.*/)?(?P<category>[^/]+)/(?P<split>train|test)/(?P<defect>[^/]+)/[^/]+", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A part of a location that is read in one go.

    Attributes:
        uri: canonical URI of a folder, an archive or a manifest.
        kind: which of them.
        location: that it belongs to, as a canonical URI: what is hidden is judged below it.
        etag: of the archive.
    """

    uri: str
    kind: Literal["folder", "archive", "manifest"]
    location: str
    etag: str | None = None

    @property
    def rank(self) -> tuple[str, str]:
        """Of sources that name the same image the last by this order counts: a manifest, rather than what it names."""
        return self.kind, self.uri


@dataclass(frozen=True)
class Naming:
    """What paths say about images.

    Attributes:
        category: of all images; overrides manifests and paths.
        path_pattern: such as `{line}/{date}/{category}/{name}`, matched with the end of each image's path.
        good: names of good images, beside those of `labels.GOOD_NAMES`.

    Raises:
        ConfigError: the pattern is malformed.
    """

    category: str | None = None
    path_pattern: str | None = None
    good: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.compiled()

    def compiled(self) -> re.Pattern[str]:
        """The pattern over whole paths; a name matches within one folder level."""
        return _compile(self.path_pattern) if self.path_pattern else _MVTEC_AD


@dataclass(frozen=True)
class Found:
    """What a source holds, beside its rows.

    Attributes:
        n_images: its rows.
        skipped: files or members that are not images to score, counted by reason.
        sources: that lie in it and are to be read on their own.
    """

    n_images: int
    skipped: Counter[str]
    sources: list[Source]


class Tally:
    """What has been found in all sources so far.

    Attributes:
        n_images, skipped: as in `Found`, summed.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.n_images, self.skipped = 0, Counter[str]()
        self._files = {source.location: [0, 0] for source in sources}

    def add(self, source: Source, found: Found) -> None:
        """Counts what one source held."""
        self.n_images += found.n_images
        self.skipped += found.skipped
        counts = self._files[source.location]
        counts[0] += found.n_images
        counts[1] += found.n_images + found.skipped.total()

    def check(self) -> None:
        """Once all sources are read, refuses locations without images.

        Raises:
            ConfigError: there is one.
        """
        for location, (n_images, n_files) in self._files.items():
            if n_images == 0:
                raise ConfigError(
                    f"{location}: no images among its {n_files} files; expected {', '.join(s[1:] for s in IMAGE_SUFFIXES)}, "
                    f"also inside {', '.join(s[1:] for s in ARCHIVE_SUFFIXES)}"
                )


def image_id(uri: str, member: str | None = None) -> str:
    """The stable id of an image: 128-bit hex digest of its canonical URI and member name.

    Example:
        >>> image_id("s3://plant/line1/0001.jpg")
        'b376d05539358d860c0660a819c97fce'
    """
    return hashlib.blake2b(f"{uri}\0{member or ''}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


def sources_of(locations: Sequence[str]) -> list[Source]:
    """One source for each location, those that lie inside another one left out.

    Raises:
        ConfigError: there is no such location, or it is a Parquet file of neither images nor names of images.
    """
    uris = list(dict.fromkeys(canonical(location) for location in locations))
    sources = [_source(uri) for uri in uris]
    folders = [source.uri for source in sources if source.kind == "folder"]
    return [
        source
        for source in sources
        if source.kind == "manifest" or not any(_found_below(source.uri, folder) for folder in folders)
    ]


def index_source(source: Source, naming: Naming, *, deep: bool = True, cache: str | None = None) -> tuple[pa.Table, Found]:
    """Reads what a source holds.

    Args:
        source: a folder, archive or manifest.
        naming: what paths say.
        deep: a folder with all that is below it; else the folders in it are sources of their own.
        cache: URI of a folder that remembers, for the etag of each archive, what is in it; None for none.

    Returns:
        Manifest rows (`FOUND`; the category is null where nothing says it), and what else there is.

    Raises:
        ConfigError: an archive or manifest is damaged.
        StorageError: the source cannot be read.
    """
    skipped, sources = Counter[str](), list[Source]()
    if source.kind == "folder":
        images = _folder_images(source, deep, skipped, sources)
    elif source.kind == "archive":
        images = _archive_images(source, skipped, cache)
    else:
        images = read_manifest(source.uri)
    pattern = naming.compiled()
    rows = (_row(image, pattern, naming) for image in images)
    tables = [FOUND.empty_table()]
    while some := list(islice(rows, ROWS_AT_ONCE)):
        tables.append(pa.Table.from_pylist(some, schema=FOUND))
    table = pa.concat_tables(tables)
    return table, Found(table.num_rows, skipped, sources)


def _source(uri: str) -> Source:
    try:
        first = next(iter(list_level(uri)), None)
    except FileNotFoundError as error:
        raise ConfigError(f"{uri}: no such file or folder; expected a folder of images, an archive or a manifest") from error
    if not isinstance(first, StoredFile) or first.uri != uri:
        return Source(uri, "folder", uri)
    if _is_archive(first):
        return Source(uri, "archive", uri, first.etag)
    return Source(uri, "manifest" if is_manifest(uri) else "folder", uri)


def _found_below(uri: str, folder: str) -> bool:
    """Whether what is at a URI is found in that folder as well."""
    path = uri.removeprefix(folder)
    return path.startswith("/") and uri.startswith(folder) and _not_an_image(path) in (None, NOT_AN_IMAGE)


def _folder_images(source: Source, deep: bool, skipped: Counter[str], sources: list[Source]) -> Iterator[GivenImage]:
    for entry in (list_files if deep else list_level)(source.uri):
        if isinstance(entry, str):
            sources.append(replace(source, uri=entry))
            continue
        reason = _not_an_image(entry.uri.removeprefix(source.location) or name_of(entry.uri))
        if reason == NOT_AN_IMAGE and _is_archive(entry):
            sources.append(Source(entry.uri, "archive", source.location, entry.etag))
        elif reason:
            skipped[reason] += 1
        else:
            yield GivenImage(entry.uri, size=entry.size, etag=entry.etag)


def _is_archive(file: StoredFile) -> bool:
    kind = archive_kind(file.uri)
    with listing_an_archive(file.uri):
        return kind is not None and (kind != "parquet" or holds_images(file.uri, file.etag))


def _archive_images(source: Source, skipped: Counter[str], cache: str | None) -> Iterator[GivenImage]:
    at = cache and join(cache, f"{image_id(source.uri)}.parquet")
    known = _cached(at, source) if at else None
    if known is None:
        with listing_an_archive(source.uri):
            images, others = _members(source)
            rows = [{**vars(image), "attributes": sorted(image.attributes.items())} for image in images]
        known = pa.Table.from_pylist(rows, schema=_CACHED).replace_schema_metadata(
            {"source": json.dumps([CACHE_FORMAT, source.uri, source.etag]), "skipped": json.dumps(others)}
        )
        if at:
            sink = io.BytesIO()
            pq.write_table(known, sink, compression="zstd")
            write_bytes(at, sink.getvalue())
    skipped.update(json.loads(known.schema.metadata[b"skipped"]))
    for batch in known.to_batches(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield GivenImage(source.uri, etag=source.etag, **row | {"attributes": dict(row["attributes"])})


def _cached(uri: str, source: Source) -> pa.Table | None:
    try:
        known = pq.read_table(io.BytesIO(read_bytes(uri)))
        right = json.loads(known.schema.metadata[b"source"]) == [CACHE_FORMAT, source.uri, source.etag]
        return known.cast(_CACHED.with_metadata(known.schema.metadata)) if right and source.etag else None
    except (FileNotFoundError, pa.ArrowException, TypeError, KeyError, ValueError):  # none, or damaged
        return None


def _members(source: Source) -> tuple[Iterator[GivenImage], Counter[str]]:
    """The images of an archive, and how much else is in it, by reason."""
    if archive_kind(source.uri) == "parquet":
        return list_rows(source.uri, source.etag), Counter()
    members = [(member, member.skipped or _not_an_image(member.path)) for member in list_members(source.uri, source.etag)]
    images = (
        GivenImage(source.uri, member.name, member.offset, member.size, path=member.path) for member, why in members if not why
    )
    return images, Counter(why for _, why in members if why)


def _not_an_image(path: str) -> str | None:
    if not path.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in path):
        return "name is not UTF-8"
    parts = path.strip("/").split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in parts):  # those two are names only in archives
        return "hidden"
    if any(f"/{folder}/" in f"/{'/'.join(parts)}" for folder in MASK_FOLDERS):
        return "mask"
    return None if parts[-1].lower().endswith(IMAGE_SUFFIXES) else NOT_AN_IMAGE


def _row(image: GivenImage, pattern: re.Pattern[str], naming: Naming) -> dict[str, object]:
    match = pattern.fullmatch(path_of(image.uri, image.path or image.member).split("://", 1)[1])
    attributes = match.groupdict() if match else {}
    from_path = attributes.pop("category", None)
    attributes.pop("name", None)
    attributes |= image.attributes
    if "defect" in attributes:
        attributes["defect"] = kind_of(attributes["defect"], naming.good)
    return {
        "image_id": image_id(image.uri, image.member),
        "uri": image.uri,
        "member": image.member,
        "category": naming.category or image.category or from_path,
        "offset": image.offset,
        "size": image.size,
        "etag": image.etag,
        "captured_at": image.captured_at,
        "attributes": sorted(attributes.items()),
    }


def path_of(uri: str, member: str | None) -> str:
    """Where an image lies, as the path pattern sees it."""
    return uri if member is None else f"{uri}/{member.removeprefix('./')}"


def _compile(path_pattern: str) -> re.Pattern[str]:
    names = re.findall(r"{([^{}]*)}", path_pattern)
    rest = re.sub(r"{[^{}]*}", "", path_pattern)
    valid = bool(names) and len(set(names)) == len(names) and all(name.isascii() and name.isidentifier() for name in names)
    if not valid or "{" in rest or "}" in rest:
        raise ConfigError(
            f"path pattern {path_pattern!r}: expected distinct names in braces, such as "
            "'{line}/{date}/{category}/{name}'"
        )
    parts = re.split(r"{[^{}]*}", path_pattern.strip("/"))
    regex = "".join(re.escape(text) + (f"(?P<{names[i]}>[^/]+)" if i < len(names) else "") for i, text in enumerate(parts))
    return re.compile(r"(?:.*/)?" + regex, re.DOTALL)

"""Image archives -> manifest rows: which images there are, of which category, under which stable id.

Images lie in folders, inside tar, tar.gz and zip files, or where a given manifest says (`given_manifest.py`). The category of
an image comes from `--category`, from the given manifest, from `--path-pattern`, or from the MVTec AD layout
`<category>/<train|test>/<defect>/<name>`; further names in the pattern become attributes. The path of an image inside an
archive is `<archive>/<member>`, so that `{category}.zip/{name}` finds categories that have an archive each.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.data.archives import ARCHIVE_SUFFIXES, archive_kind, list_members
from differnet_ray.data.given_manifest import GivenImage, is_manifest, read_manifest
from differnet_ray.data.storage import READ_THREADS, canonical, list_files, name_of
from differnet_ray.data.tables import MANIFEST, conform
from differnet_ray.errors import ConfigError
from differnet_ray.threads import map_ahead

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_FOLDER = "ground_truth"
NOT_AN_IMAGE = "not an image"
LONGEST_FOLDER = 255 - len("category=")  # bytes of a percent-encoded category in the name of its partition
_MVTEC_AD = re.compile(r"(?:.*/)?(?P<category>[^/]+)/(?P<split>train|test)/(?P<defect>[^/]+)/[^/]+", re.DOTALL)
_CATEGORY_NAME = re.compile(r"[^/\\\x00-\x1f=]{1,100}")
_RESERVED = ("backbones",)


@dataclass(frozen=True)
class Listing:
    """The images of some locations.

    Attributes:
        table: manifest rows (`tables.MANIFEST`), sorted by category, URI and offset, ids unique.
        skipped: files that are not images to score, counted by reason (`hidden`, `mask`, `not an image`, and of members of
            archives `not a regular file` and `replaced later in its archive`).
    """

    table: pa.Table
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def categories(self) -> list[str]:
        """The categories, sorted."""
        return sorted(pc.unique(self.table["category"]).to_pylist())

    def digest(self) -> str:
        """SHA-256 of the rows: changes when an image is added, removed, replaced, or its path read otherwise."""
        digest = hashlib.sha256()
        columns = [self.table[name] for name in ("image_id", "offset", "size", "etag", "category", "attributes")]
        columns.append(self.table["captured_at"].cast(pa.int64()))
        for row in zip(*(column.to_pylist() for column in columns), strict=True):
            digest.update(repr(row).encode())
        return digest.hexdigest()


def image_id(uri: str, member: str | None = None) -> str:
    """The stable id of an image: 128-bit hex digest of its canonical URI and member name.

    Example:
        >>> image_id("s3://plant/line1/0001.jpg")
        'b376d05539358d860c0660a819c97fce'
    """
    return hashlib.blake2b(f"{uri}\0{member or ''}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


def list_images(
    locations: Sequence[str], *, category: str | None = None, path_pattern: str | None = None, limit: int | None = None
) -> Listing:
    """Lists the images of some locations.

    Args:
        locations: folders or prefixes, where archives are looked into as well; single image files or archives; manifests
            (.csv, .jsonl, .ndjson, .parquet; see `given_manifest.py`). Local or s3://.
        category: of all images; overrides manifests and paths.
        path_pattern: such as `{line}/{date}/{category}/{name}`, matched with the end of each image's path.
        limit: keep the first so many rows.

    Raises:
        ConfigError: a location is missing or holds no image, an archive or manifest is damaged, the pattern is malformed, or
            an image has no category.
    """
    pattern = _compile(path_pattern) if path_pattern else _MVTEC_AD
    if category is not None:
        check_category(category)
    rows: dict[str, dict[str, object]] = {}
    skipped: dict[str, Counter[str]] = {}
    unplaced: list[str] = []
    for location in locations:
        n_images = n_files = 0
        for uri, images, others in _contents(location):
            skipped[uri] = others
            n_images += len(images)
            n_files += len(images) + others.total()
            for image in images:
                row = _row(image, pattern, category)
                if row["category"] is None:
                    unplaced.append(_path(image))
                else:
                    rows[str(row["image_id"])] = row
        if n_images == 0:
            raise ConfigError(
                f"{location}: no images among its {n_files} files; expected {', '.join(s[1:] for s in IMAGE_SUFFIXES)}, "
                f"also inside {', '.join(s[1:] for s in ARCHIVE_SUFFIXES)}"
            )
    if unplaced:
        raise ConfigError(
            f"{len(unplaced)} images have no category, the first is {min(unplaced)}: give --category NAME, a --path-pattern "
            "such as '{line}/{category}/{name}', or use the layout <category>/test/<defect>/<name>"
        )
    table = pa.Table.from_pylist(list(rows.values()), schema=MANIFEST.schema)
    table = table.sort_by([("category", "ascending"), ("uri", "ascending"), ("offset", "ascending")])
    for name in pc.unique(table["category"]).to_pylist():
        check_category(name)
    return Listing(conform(table.slice(0, limit), MANIFEST.schema), dict(sum(skipped.values(), Counter())))


def select(listing: Listing, *, categories: Sequence[str] = (), split: str | None = None, defect: str | None = None) -> Listing:
    """The rows of some categories (all if empty), and of one split and defect of the MVTec AD layout.

    An image of which the listing says neither is a good one to train on.
    """
    keep = [
        (not categories or row_category in categories)
        and (split is None or attributes.get("split", "train") == split)
        and (defect is None or attributes.get("defect", "good") == defect)
        for row_category, attributes in zip(
            listing.table["category"].to_pylist(), map(dict, listing.table["attributes"].to_pylist()), strict=True
        )
    ]
    return Listing(listing.table.filter(pa.array(keep, pa.bool_())), listing.skipped)


def sample(listing: Listing, n: int, seed: int) -> Listing:
    """At most n images of each category, drawn from the seed."""
    rng = np.random.default_rng([seed, 4])
    names = np.array(listing.table["category"].to_pylist())
    rows = [np.flatnonzero(names == category) for category in listing.categories]
    drawn = [np.sort(rng.choice(positions, min(n, len(positions)), replace=False)) for positions in rows]
    return Listing(listing.table.take(np.concatenate([np.empty(0, np.int64), *drawn])), listing.skipped)


def together(listing: Listing, name: str) -> Listing:
    """All images as those of one category; what they are of becomes the attribute `product`.

    Raises:
        ConfigError: the name cannot be a category.
    """
    check_category(name)
    table, rows = listing.table, listing.table.num_rows
    products = [
        [*attributes, ("product", category)]
        for attributes, category in zip(table["attributes"].to_pylist(), table["category"].to_pylist(), strict=True)
    ]
    for column, values in {"category": [name] * rows, "attributes": products}.items():
        field = MANIFEST.schema.field(column)
        table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    return Listing(table, listing.skipped)


def defects(rows: pa.Table) -> list[str]:
    """The defect of each row by the MVTec AD layout, `good` for none; empty where the path does not say."""
    return [dict(attributes).get("defect", "") for attributes in rows["attributes"].to_pylist()]


def check_category(name: str) -> None:
    """Refuses names that cannot be a folder of the model store and a partition of the tables.

    Raises:
        ConfigError: the name is empty, too long, reserved, starts with `.` or `_`, or holds a slash, `=` or control character.
    """
    fits = bool(_CATEGORY_NAME.fullmatch(name)) and len(quote(name, safe="")) <= LONGEST_FOLDER
    if not fits or name[0] in "._" or name in _RESERVED:
        raise ConfigError(
            f"category {name!r} is not a usable name: expected 1 to 100 characters without / \\ = or control characters, "
            f"not beginning with . or _, and not {', '.join(_RESERVED)}"
        )


def _contents(location: str) -> Iterator[tuple[str, list[GivenImage], Counter[str]]]:
    """For each file of a location: its URI, the images in it, and how much else is in it, by reason."""
    root = canonical(location)
    try:
        files = list(list_files(root))
        if [file.uri for file in files] == [root] and is_manifest(root):
            yield root, list(read_manifest(root)), Counter()
            return
    except FileNotFoundError as error:
        raise ConfigError(f"{location}: no such file or folder; expected a folder of images") from error
    archives = []
    for file in files:
        reason = _not_an_image(file.uri.removeprefix(root) or name_of(root))
        if reason == NOT_AN_IMAGE and archive_kind(file.uri):
            archives.append(file)
        elif reason:
            yield file.uri, [], Counter([reason])
        else:
            yield file.uri, [GivenImage(file.uri, size=file.size, etag=file.etag)], Counter()
    listed = map_ahead(list_members, [file.uri for file in archives], READ_THREADS)
    for file, members in zip(archives, listed, strict=True):
        images, others = [], Counter[str]()
        for member in members:
            if reason := member.skipped or _not_an_image(member.name):
                others[reason] += 1
            else:
                images.append(GivenImage(file.uri, member.name, member.offset, member.size, file.etag))
        yield file.uri, images, others


def _not_an_image(path: str) -> str | None:
    if not path.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in path):
        return "name is not UTF-8"
    parts = path.strip("/").split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in parts):  # those two are names only in archives
        return "hidden"
    if MASK_FOLDER in parts[:-1]:
        return "mask"
    return None if parts[-1].lower().endswith(IMAGE_SUFFIXES) else NOT_AN_IMAGE


def _row(image: GivenImage, pattern: re.Pattern[str], category: str | None) -> dict[str, object]:
    match = pattern.fullmatch(_path(image).split("://", 1)[1])
    attributes = match.groupdict() if match else {}
    from_path = attributes.pop("category", None)
    attributes.pop("name", None)
    return {
        "image_id": image_id(image.uri, image.member),
        "uri": image.uri,
        "member": image.member,
        "category": category or image.category or from_path,
        "offset": image.offset,
        "size": image.size,
        "etag": image.etag,
        "captured_at": image.captured_at,
        "attributes": sorted((attributes | image.attributes).items()),
    }


def _path(image: GivenImage) -> str:
    """Where the image lies, as the path pattern sees it."""
    return image.uri if image.member is None else f"{image.uri}/{image.member.removeprefix('./')}"


def _compile(path_pattern: str) -> re.Pattern[str]:
    """`{line}/{category}/{name}` -> a pattern over whole paths; a name matches within one folder level."""
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

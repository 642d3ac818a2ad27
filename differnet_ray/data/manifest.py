"""Image archives -> manifest rows: which images there are, of which category, under which stable id.

The category of an image comes from `--category`, from `--path-pattern`, or from the MVTec AD layout
`<category>/<train|test>/<defect>/<name>`; further names in the pattern become attributes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.data.storage import StoredFile, canonical, list_files, name_of
from differnet_ray.data.tables import MANIFEST, conform
from differnet_ray.errors import ConfigError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_FOLDER = "ground_truth"
LONGEST_FOLDER = 255 - len("category=")  # bytes of a percent-encoded category in the name of its partition
_MVTEC_AD = re.compile(r"(?:.*/)?(?P<category>[^/]+)/(?P<split>train|test)/(?P<defect>[^/]+)/[^/]+", re.DOTALL)
_CATEGORY_NAME = re.compile(r"[^/\\\x00-\x1f=]{1,100}")
_RESERVED = ("backbones",)


@dataclass(frozen=True)
class Listing:
    """The images of some locations.

    Attributes:
        table: manifest rows (`tables.MANIFEST`), sorted by category, URI and offset, ids unique.
        skipped: files that are not images to score, counted by reason (`hidden`, `mask`, `not an image`).
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
        columns = ("image_id", "size", "etag", "category", "attributes")
        for row in zip(*(self.table[name].to_pylist() for name in columns), strict=True):
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
    """Lists the images below some locations.

    Args:
        locations: folders, prefixes or single image files; local or s3://.
        category: of all images; overrides the path.
        path_pattern: such as `{line}/{date}/{category}/{name}`, matched with the end of each image's path.
        limit: keep the first so many rows.

    Raises:
        ConfigError: a location is missing or holds no image, the pattern is malformed, or an image has no category.
    """
    pattern = _compile(path_pattern) if path_pattern else _MVTEC_AD
    if category is not None:
        check_category(category)
    rows: dict[str, dict[str, object]] = {}
    skipped: dict[str, str] = {}
    unplaced: list[str] = []
    for location in locations:
        root = canonical(location)
        try:
            files = list(list_files(root))
        except FileNotFoundError as error:
            raise ConfigError(f"{location}: no such file or folder; expected a folder of images") from error
        images = 0
        for file in files:
            reason = _not_an_image(file.uri.removeprefix(root) or name_of(root))
            if reason:
                skipped[file.uri] = reason
                continue
            images += 1
            row = _row(file, pattern, category)
            if row["category"] is None:
                unplaced.append(file.uri)
            else:
                rows[str(row["image_id"])] = row
        if images == 0:
            raise ConfigError(
                f"{location}: no images among its {len(files)} files; expected {', '.join(s[1:] for s in IMAGE_SUFFIXES)}"
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
    return Listing(conform(table.slice(0, limit), MANIFEST.schema), dict(Counter(skipped.values())))


def select(listing: Listing, *, categories: Sequence[str] = (), split: str | None = None, defect: str | None = None) -> Listing:
    """The rows of some categories (all if empty), and of one split and defect of the MVTec AD layout."""
    keep = [
        (not categories or row_category in categories)
        and (split is None or attributes.get("split") == split)
        and (defect is None or attributes.get("defect") == defect)
        for row_category, attributes in zip(
            listing.table["category"].to_pylist(), map(dict, listing.table["attributes"].to_pylist()), strict=True
        )
    ]
    return Listing(listing.table.filter(pa.array(keep, pa.bool_())), listing.skipped)


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


def _not_an_image(path: str) -> str | None:
    if not path.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in path):
        return "name is not UTF-8"
    parts = path.strip("/").split("/")
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if MASK_FOLDER in parts[:-1]:
        return "mask"
    return None if parts[-1].lower().endswith(IMAGE_SUFFIXES) else "not an image"


def _row(file: StoredFile, pattern: re.Pattern[str], category: str | None) -> dict[str, object]:
    match = pattern.fullmatch(file.uri.split("://", 1)[1])
    attributes = match.groupdict() if match else {}
    from_path = attributes.pop("category", None)
    attributes.pop("name", None)
    return {
        "image_id": image_id(file.uri),
        "uri": file.uri,
        "category": category or from_path,
        "size": file.size,
        "etag": file.etag,
        "attributes": sorted(attributes.items()),
    }


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

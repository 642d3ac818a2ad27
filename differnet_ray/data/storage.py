"""One way to list, read, write and publish files on local disks and S3-compatible object stores.

A location is a local path or an `s3://bucket/key` URI; `canonical` turns both into the URI that tables and image ids use.
Endpoint and credentials of S3 come from the usual AWS variables, profiles and roles, never from a URI.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import make_path_posix
from pyarrow import fs as arrow_fs

from differnet_ray.errors import ConfigError, StorageError

FILE, S3 = "file://", "s3://"


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it.

    Attributes:
        uri: canonical URI.
        size: bytes.
        etag: changes when the content does: the store's etag, or modification time and size of a local file.
    """

    uri: str
    size: int
    etag: str


def canonical(location: str) -> str:
    """The canonical URI of a location: `file:///absolute/path` or `s3://bucket/key`, without a slash at the end.

    Raises:
        ConfigError: another scheme, or credentials inside the URI.
    """
    if location.startswith(S3):
        bucket = location.removeprefix(S3).split("/", 1)[0]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
            raise ConfigError(
                "an s3:// location needs the form s3://bucket/key, without credentials in it: give those by AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, a profile or a role"
            )
        return location.rstrip("/")
    path = location.removeprefix(FILE)
    if not path:
        raise ConfigError("an empty location: expected a local path or s3://bucket/key")
    if "://" in path:
        scheme = path.split("://")[0]
        raise ConfigError(f"location of scheme {scheme!r}: expected a local path or s3://bucket/key")
    absolute = str(make_path_posix(os.path.abspath(os.path.expanduser(path))))
    return FILE + "/" + absolute.strip("/")


def join(uri: str, *parts: str) -> str:
    """The URI of something below another."""
    return "/".join([uri.removesuffix("/"), *parts])


def name_of(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    filesystem, path = _filesystem(uri)
    with _explained("read", uri, missing_is_an_answer=True):
        return bytes(filesystem.cat_file(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file whole: a reader sees the old content or the new, never a part.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, path = _filesystem(uri)
    with _explained("write", uri):
        if uri.startswith(S3):
            filesystem.pipe_file(path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


def exists(uri: str) -> bool:
    """Whether a file, or anything below this prefix, exists."""
    filesystem, path = _filesystem(uri)
    with _explained("look up", uri):
        return bool(filesystem.exists(path))


def list_files(uri: str) -> Iterator[StoredFile]:
    """All files below a location, in no particular order; the file itself if it is one.

    Raises:
        FileNotFoundError: nothing is there.
        StorageError: it cannot be listed.
    """
    filesystem, path = _filesystem(uri)
    with _explained("list", uri, missing_is_an_answer=True):
        if not filesystem.exists(path):
            raise FileNotFoundError(uri)
        if uri.startswith(FILE):
            yield from _walk(path)
            return
        found: dict[str, dict[str, Any]] = filesystem.find(path, detail=True)
    for name, info in found.items():
        yield StoredFile(S3 + name, int(info["size"]), str(info["ETag"]).strip('"'))


def _walk(path: str) -> Iterator[StoredFile]:
    def refuse(error: OSError) -> None:  # by default a folder that may not be opened is left out
        raise error

    folders = [("", [], [path])] if os.path.isfile(path) else os.walk(path, onerror=refuse)
    for folder, _, names in folders:
        for name in names:
            file = os.path.join(folder, name)
            stat = os.stat(file) if os.path.exists(file) else os.lstat(file)  # of a broken link, the link
            yield StoredFile(FILE + file, stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}")


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a location, sorted; empty where nothing is there."""
    filesystem, path = _filesystem(uri)
    with _explained("list", uri):
        if not filesystem.exists(path):
            return []
        entries = filesystem.ls(path, detail=True)
    return sorted(name_of(entry["name"]) for entry in entries if entry["type"] == "directory")


def delete(uri: str) -> None:
    """Removes a file, or a folder with all that is in it; nothing happens where there is none."""
    filesystem, path = _filesystem(uri)
    with _explained("delete", uri):
        if uri.startswith(FILE):
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                Path(path).unlink(missing_ok=True)
        elif filesystem.exists(path):
            filesystem.rm(path, recursive=True)


def check_writable(uri: str) -> None:
    """Writes and removes a small file below a location.

    Raises:
        ConfigError: that is not possible.
    """
    probe = join(uri, f".differnet-ray-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"")
        delete(probe)
    except StorageError as error:
        raise ConfigError(f"{uri} is not writable: {error.__cause__ or error}") from error


def arrow_filesystem(uri: str) -> tuple[arrow_fs.FileSystem, str]:
    """Pyarrow's filesystem for a URI, with the path in it: what Ray Data and datasets read and write through."""
    if uri.startswith(FILE):
        return arrow_fs.LocalFileSystem(), uri.removeprefix(FILE)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return arrow_fs.S3FileSystem(endpoint_override=endpoint, region=region), uri.removeprefix(S3)


def _filesystem(uri: str) -> tuple[Any, str]:
    if uri.startswith(FILE):
        return fsspec.filesystem("file"), uri.removeprefix(FILE)
    return fsspec.filesystem("s3", use_listings_cache=False), uri.removeprefix(S3)


@contextmanager
def _explained(verb: str, uri: str, *, missing_is_an_answer: bool = False) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if missing_is_an_answer:
            raise
        raise StorageError(f"cannot {verb} {uri}: it does not exist") from error
    except OSError as error:
        raise StorageError(f"cannot {verb} {uri}: {error}") from error
    except Exception as error:  # botocore and aiohttp have exceptions of their own for the same faults
        raise StorageError(f"cannot {verb} {uri}: {type(error).__name__}: {error}") from error

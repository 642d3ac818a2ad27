"""One way to list, read, write and publish files on local disks and S3-compatible object stores.

A location is a local path or an `s3://bucket/key` URI; `canonical` turns both into the URI that tables and image ids use.
Endpoint and credentials of S3 come from the usual AWS variables, profiles and roles, never from a URI.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import make_path_posix
from pyarrow import fs as arrow_fs

from differnet_ray.errors import ConfigError, DifferNetError, StorageError

FILE, S3 = "file://", "s3://"
READ_THREADS = 8  # that may read side by side: they wait for storage
PRECONDITION_FAILED, NOT_IMPLEMENTED = 412, 501  # HTTP
DELETED_AT_ONCE, DELETE_ATTEMPTS = 1000, 4  # S3 takes no more in one call
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # exFAT, SMB and some FUSE file systems


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


def read_range(uri: str, start: int, end: int) -> bytes:
    """The bytes of a file from `start` up to `end`, fewer where it ends before.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    if start >= end:  # for S3 a range is never empty
        return b""
    filesystem, path = _filesystem(uri)
    with _explained("read", uri, missing_is_an_answer=True):
        return bytes(filesystem.cat_file(path, start=start, end=end))


@contextmanager
def open_input(uri: str, *, read_ahead: int = 2**18) -> Iterator[IO[bytes]]:
    """Opens a file to read parts of it, as a context manager: of an object in S3 only those are fetched.

    Errors of storage in the body of the `with` are explained as those of opening are.

    Args:
        uri: canonical URI.
        read_ahead: bytes to fetch beyond what is asked for.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be read.
    """
    filesystem, path = _filesystem(uri)
    with _explained("read", uri, missing_is_an_answer=True), filesystem.open(path, "rb", block_size=read_ahead) as file:
        yield file


def write_bytes(uri: str, data: bytes, *, create_only: bool = False) -> None:
    """Writes a file whole: a reader sees the old content or the new, never a part.

    Args:
        uri: canonical URI.
        data: its content.
        create_only: write a new file, never over another: of several writers at once one succeeds. Where that cannot be
            had (a disk without hard links, an S3 server without `If-None-Match`), it looks first.

    Raises:
        FileExistsError: `create_only`, and the file is there. It can be our own, where an answer of S3 got lost.
        StorageError: it cannot be written.
    """
    filesystem, path = _filesystem(uri)
    with _explained("write", uri):
        written = _put(filesystem, path, data, create_only) if uri.startswith(S3) else _save(path, data, create_only)
    if not written:
        raise FileExistsError(uri)


def _put(filesystem: Any, path: str, data: bytes, create_only: bool) -> bool:
    try:
        filesystem.pipe_file(path, data, mode="create" if create_only else "overwrite")
    except OSError as error:  # s3fs has one error number for many answers
        response: dict[str, Any] = getattr(error.__cause__, "response", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if not create_only or status not in (PRECONDITION_FAILED, NOT_IMPLEMENTED):
            raise
        if status == PRECONDITION_FAILED or filesystem.exists(path):
            return False
        filesystem.pipe_file(path, data)
    return True


def _save(path: str, data: bytes, create_only: bool) -> bool:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            if create_only:
                return _move_new(file.name, path)
            os.replace(file.name, path)
            return True
        finally:
            Path(file.name).unlink(missing_ok=True)


def _move_new(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            return False
        os.replace(source, target)
    return True


def exists(uri: str) -> bool:
    """Whether a file, or anything below this prefix, exists."""
    filesystem, path = _filesystem(uri)
    with _explained("look up", uri):
        return _exists(filesystem, path)


def _exists(filesystem: Any, path: str) -> bool:
    try:  # s3fs's `exists` takes any refusal of a bucket for its absence
        return bool(filesystem.exists(path) if "/" in path else filesystem.info(path))
    except FileNotFoundError:
        return False


def list_files(uri: str) -> Iterator[StoredFile]:
    """All files below a location, in no particular order; the file itself if it is one.

    Raises:
        FileNotFoundError: nothing is there.
        StorageError: it cannot be listed.
    """
    filesystem, path = _filesystem(uri)
    with _explained("list", uri, missing_is_an_answer=True):
        if not _exists(filesystem, path):
            raise FileNotFoundError(uri)
        if uri.startswith(FILE):
            yield from _walk(path)
            return
        found: dict[str, dict[str, Any]] = filesystem.find(path, detail=True)
    for name, info in found.items():
        if name.endswith("/"):  # an empty object that stands for a folder
            continue
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
        if not _exists(filesystem, path):
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
        elif _exists(filesystem, path):
            _delete_objects(filesystem, sorted({path, *filesystem.find(path)}))


def _delete_objects(filesystem: Any, paths: list[str]) -> None:
    """Removes objects by name: s3fs's `rm` takes names for patterns, and failures for successes."""
    bucket = paths[0].split("/", 1)[0]
    keys = [key for path in paths if (key := path.removeprefix(bucket).removeprefix("/"))]
    for attempt in range(DELETE_ATTEMPTS):
        refused: list[dict[str, Any]] = []
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = {"Objects": [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]], "Quiet": True}
            refused += filesystem.call_s3("delete_objects", Bucket=bucket, Delete=some).get("Errors", [])
        if not refused:
            return
        keys = [error["Key"] for error in refused]  # a busy store refuses some objects of a call that succeeds
        time.sleep(0.2 * 2**attempt)
    raise OSError(f"{len(refused)} objects remain; {keys[0]}: {refused[0].get('Code')}: {refused[0].get('Message')}")


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
    return arrow_fs.S3FileSystem(endpoint_override=endpoint, region=_region()), uri.removeprefix(S3)


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _filesystem(uri: str) -> tuple[Any, str]:
    if uri.startswith(FILE):
        return fsspec.filesystem("file"), uri.removeprefix(FILE)
    region = {"region_name": _region()}  # of its own accord botocore knows AWS_DEFAULT_REGION alone
    return fsspec.filesystem("s3", use_listings_cache=False, client_kwargs=region), uri.removeprefix(S3)


@contextmanager
def _explained(verb: str, uri: str, *, missing_is_an_answer: bool = False) -> Iterator[None]:
    try:
        yield
    except DifferNetError:  # from the body of `open_input`: explained already
        raise
    except FileNotFoundError as error:
        if missing_is_an_answer:
            raise
        raise StorageError(f"cannot {verb} {uri}: it does not exist") from error
    except PermissionError as error:
        mend = "; check the credentials, and what they may do" if uri.startswith(S3) else ""
        raise StorageError(f"cannot {verb} {uri}: {error}{mend}") from error
    except OSError as error:
        raise StorageError(f"cannot {verb} {uri}: {error}") from error
    except Exception as error:  # botocore and aiohttp have exceptions of their own for the same faults
        raise StorageError(f"cannot {verb} {uri}: {type(error).__name__}: {error}") from error

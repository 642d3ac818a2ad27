"""One way to list, read and write files on local disks and S3-compatible object stores, by their canonical URI."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
from botocore.exceptions import NoCredentialsError
from pyarrow import fs as arrow_fs

from differnet_ray.errors import ConfigError, DifferNetError, StorageError, UnavailableError
from differnet_ray.storage import s3
from differnet_ray.storage.locations import FILE, S3, join, name_of

PATIENCE, SECONDS_BETWEEN_LOOKS = 60.0, 2.0  # with a store that does not answer at all
READ_THREADS = 8  # that may read side by side: they wait for storage
NAMED = 60  # characters of a file's name in that of its temporary file: a name has at most 255 bytes
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # exFAT, SMB and some FUSE file systems


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it.

    Attributes:
        uri: canonical URI.
        size: bytes.
        etag: changes when the content does: the store's etag, or modification time and size of a local file.
        modified: when it was written, seconds since 1970.
    """

    uri: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)


def read_bytes(uri: str, etag: str | None = None) -> bytes:
    """The content of a file.

    Args:
        uri: canonical URI.
        etag: that the file had when it was listed; not compared if None.

    Raises:
        FileNotFoundError: there is none.
        ReplacedError: the etag is another one.
        StorageError: it cannot be read.
    """
    filesystem, path = _filesystem(uri)
    with _explained("read", uri, missing_is_an_answer=True):
        if etag is None:
            return s3.cat(filesystem, path)
        return _read(filesystem, uri, path, etag)


def read_range(uri: str, start: int, end: int, etag: str | None = None) -> bytes:
    """The bytes of a file from `start` up to `end`, fewer where it ends before; arguments and errors as of `read_bytes`."""
    if start >= end:  # for S3 a range is never empty
        return b""
    filesystem, path = _filesystem(uri)
    with _explained("read", uri, missing_is_an_answer=True):
        return _read(filesystem, uri, path, etag, start, end)


def _read(filesystem: Any, uri: str, path: str, etag: str | None, start: int = 0, end: int | None = None) -> bytes:
    if uri.startswith(S3):
        return s3.get(filesystem, path, etag, start, end)
    with open(path, "rb") as file:
        s3.check_etag(uri, etag, _local_etag(os.fstat(file.fileno())))
        file.seek(start)
        return file.read(-1 if end is None else end - start)


def _local_etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


@contextmanager
def open_input(uri: str, *, etag: str | None = None, read_ahead: int = 2**18) -> Iterator[IO[bytes]]:
    """Opens a file to read parts of it, as a context manager: of an object in S3 only those are fetched.

    Errors of storage in the body of the `with` are explained as those of opening are.

    Args:
        uri: canonical URI.
        etag: that the file had when it was listed; not compared if None.
        read_ahead: bytes to fetch beyond what is asked for.

    Raises:
        FileNotFoundError: there is none.
        ReplacedError: the etag is another one.
        StorageError: it cannot be read.
    """
    filesystem, path = _filesystem(uri)
    with (
        _explained("read", uri, missing_is_an_answer=True),
        s3.S3Object(filesystem, path, block_size=read_ahead) if uri.startswith(S3) else open(path, "rb") as file,
    ):
        s3.check_etag(
            uri, etag, file.details["ETag"] if isinstance(file, s3.S3Object) else _local_etag(os.fstat(file.fileno()))
        )
        yield file


def wait_until_available(uri: str, failure: StorageError) -> bool:
    """After a read failed: waits until the storage that it was from answers, and returns whether that took any waiting.

    Args:
        uri: of the file.
        failure: what reading it raised. Where we may not list either, it says whether we are refused altogether.

    Raises:
        UnavailableError: it refuses us, or does not answer within a minute.
    """
    if uri.startswith(FILE):
        return False
    filesystem, path = _filesystem(uri)
    bucket, _, key = path.partition("/")
    began, waited = time.monotonic(), False
    while True:
        try:
            filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1, timeout=s3.TIMEOUT)
            return waited
        except Exception as error:  # botocore and aiohttp have exceptions of their own
            forbidden = s3.response(error).get("Error", {}).get("Code") == "AccessDenied"
            if forbidden and not isinstance(failure.__cause__, PermissionError):
                return waited  # it answers, and knows us: we may read, and not list
            if isinstance(error, PermissionError | NoCredentialsError) or time.monotonic() - began > PATIENCE:
                raise UnavailableError(
                    f"the storage {S3}{bucket} does not work any more: {type(error).__name__}: {_said(error)}; check endpoint, "
                    "credentials and what they may do (reading and listing), and run the same command again: what is finished "
                    "is kept"
                ) from error
        waited = True
        time.sleep(SECONDS_BETWEEN_LOOKS)


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
        written = s3.put(filesystem, path, data, create_only) if uri.startswith(S3) else _save(path, data, create_only)
    if not written:
        raise FileExistsError(uri)


def _save(path: str, data: bytes, create_only: bool) -> bool:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    prefix = f".{name[:NAMED]}."  # what a kill leaves is hidden, and says what it was of
    with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, delete=False) as file:
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
    """All files below a location, in no particular order, a page at a time; the file itself if it is one.

    Raises:
        FileNotFoundError: nothing is there.
        StorageError: it cannot be listed.
    """
    for entry in _entries(uri, everything=True):
        if isinstance(entry, StoredFile):
            yield entry


def list_level(uri: str) -> Iterator[StoredFile | str]:
    """The files directly in a location, and the URIs of the folders there, as `list_files` finds them."""
    return _entries(uri, everything=False)


def _entries(uri: str, *, everything: bool) -> Iterator[StoredFile | str]:
    filesystem, path = _filesystem(uri)
    with _explained("list", uri, missing_is_an_answer=True):
        if uri.startswith(FILE):
            if not os.path.exists(path):
                raise FileNotFoundError(uri)
            yield from _walk(path, everything)
            return
        empty = True
        for found in s3.objects(filesystem, path, "" if everything else "/"):
            empty = False
            yield S3 + found if isinstance(found, str) else StoredFile(S3 + found[0], *found[1:])
        if empty and not _exists(filesystem, path):
            raise FileNotFoundError(uri)
        if empty and (info := filesystem.info(path))["type"] == "file":
            yield StoredFile(uri, int(info["size"]), str(info["ETag"]).strip('"'), info["LastModified"].timestamp())


def _walk(path: str, everything: bool) -> Iterator[StoredFile | str]:
    def refuse(error: OSError) -> None:  # by default a folder that may not be opened is left out
        raise error

    levels = [("", [], [path])] if os.path.isfile(path) else os.walk(path, onerror=refuse)
    for folder, folders, names in levels:
        for name in names:
            file = os.path.join(folder, name)
            stat = os.stat(file) if os.path.exists(file) else os.lstat(file)  # of a broken link, the link
            yield StoredFile(FILE + file, stat.st_size, _local_etag(stat), stat.st_mtime)
        if not everything:
            yield from (FILE + below for name in folders if not os.path.islink(below := os.path.join(folder, name)))
            return


def open_uploads(uri: str) -> list[StoredFile]:
    """Uploads to S3 in parts below a location that were begun and not ended, with their ids as etags: no listing has them."""
    if uri.startswith(FILE):
        return []
    filesystem, path = _filesystem(uri)
    with _explained("list the uploads to", uri):
        return [StoredFile(S3 + key, 0, upload, begun) for key, upload, begun in s3.open_uploads(filesystem, path)]


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
            s3.delete_objects(filesystem, sorted({path, *filesystem.find(path)}))


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
    return s3.arrow_filesystem(), uri.removeprefix(S3)


def _filesystem(uri: str) -> tuple[Any, str]:
    if uri.startswith(FILE):
        return fsspec.filesystem("file"), uri.removeprefix(FILE)
    return s3.filesystem(), uri.removeprefix(S3)


@contextmanager
def _explained(verb: str, uri: str, *, missing_is_an_answer: bool = False) -> Iterator[None]:
    try:
        yield
    except DifferNetError:  # from the body of `open_input`: explained already
        raise
    except FileNotFoundError as error:
        if verb == "read" and s3.response(error).get("Error", {}).get("Code") == "NoSuchBucket":
            raise UnavailableError(f"cannot read {uri}: there is no such bucket") from error
        if missing_is_an_answer:
            raise
        raise StorageError(f"cannot {verb} {uri}: it does not exist") from error
    except PermissionError as error:
        mend = "; check the credentials, and what they may do" if uri.startswith(S3) else ""
        raise StorageError(f"cannot {verb} {uri}: {error}{mend}") from error
    except OSError as error:
        raise StorageError(f"cannot {verb} {uri}: {_said(error)}") from error
    except Exception as error:  # botocore and aiohttp have exceptions of their own for the same faults
        raise StorageError(f"cannot {verb} {uri}: {type(error).__name__}: {error}") from error


def _said(error: Exception) -> str:
    return str(error) or "no answer in time"  # fsspec has no words for a timeout

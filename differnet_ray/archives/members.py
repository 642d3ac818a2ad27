"""Images inside tar, tar.gz and zip archives: which there are, and their content. Those in Parquet: `parquet_archive.py`.

A member of a tar is one range of bytes, which the manifest names, so that it costs one small read. A tar.gz has no ranges:
each batch of rows unpacks it from its beginning, which suits small archives only. A zip is read through its central directory.
Names of members are data: nothing is ever unpacked under them.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import IO, Literal, Self

from differnet_ray.archives.images import check_size
from differnet_ray.errors import ConfigError, ImageError, StorageError
from differnet_ray.storage.files import open_input

Kind = Literal["tar", "tar.gz", "zip", "parquet"]
ARCHIVE_SUFFIXES: dict[str, Kind] = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip", ".parquet": "parquet"}

READ_AHEAD = 4 * 2**20  # bytes, where the members of an archive are read one after the other
SPOOL = 64 * 2**20  # bytes of unpacked members that stay in memory; more go to a temporary file
MAX_HEADER = 2**20  # bytes of a long name in a tar: tarfile holds it in memory

NOT_REGULAR, REPLACED = "not a regular file", "replaced later in its archive"

_ENCRYPTED, _UTF_8 = 0x1, 0x800  # flags of a zip member
_PLAIN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others without a bound
_EXTENDED_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGE = (  # what the readers raise for bytes that are not what they should be
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """A file inside an archive.

    Attributes:
        name: exactly as the archive has it.
        path: the name with `/` between folders, as `as_paths` has it.
        offset: where its content begins; None where that is no range of the archive's bytes (tar.gz, zip, sparse files).
        size: of its content, in bytes.
        skipped: why it is no file to read, or None.
    """

    name: str
    path: str
    offset: int | None
    size: int
    skipped: str | None = None


def archive_kind(uri: str) -> Kind | None:
    """What kind of archive a name stands for, None for none; a Parquet file may be something else (`parquet_archive.py`).

    Example:
        >>> archive_kind("s3://plant/2026-01-31.TGZ")
        'tar.gz'
    """
    return next((kind for suffix, kind in ARCHIVE_SUFFIXES.items() if uri.lower().endswith(suffix)), None)


def as_paths(names: Sequence[str]) -> list[str]:
    r"""Names of files with `/` between folders: some programs of Windows write `\`, which counts where no name has a `/`.

    Example:
        >>> as_paths([r"screw\good\1.png", "2.png"])
        ['screw/good/1.png', '2.png']
    """
    return list(names) if any("/" in name for name in names) else [name.replace("\\", "/") for name in names]


def list_members(uri: str, etag: str | None = None) -> list[Member]:
    """The members of a tar or zip, folders left out, in its order. Of members of the same name, the last holds.

    Raises:
        ConfigError: the archive is damaged, cut short or of another format.
        StorageError: it cannot be read.
    """
    with listing_an_archive(uri), open_input(uri, etag=etag) as file, _intact(uri):
        members = list(_zip_members(file) if archive_kind(uri) == "zip" else _tar_members(file, uri))
    last = {member.name: n for n, member in enumerate(members) if not member.skipped}
    return [
        member if member.skipped or last[member.name] == n else replace(member, skipped=REPLACED)
        for n, member in enumerate(members)
    ]


@contextmanager
def listing_an_archive(uri: str) -> Iterator[None]:
    """Names the mend where an archive that is being listed is damaged or gone.

    Raises:
        ConfigError: it is damaged.
        StorageError: it is gone.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri} was listed, but is no longer there") from error
    except ImageError as error:
        raise ConfigError(f"{error.reason}; mend it, or move it out of the way") from error


def read_members(uri: str, names: Sequence[str], etag: str | None = None) -> Iterator[bytes | ImageError]:
    """Reads members of a tar or zip, which is opened once.

    Args:
        uri: canonical URI of the archive.
        names: of members.
        etag: that the archive had when it was listed; not compared if None.

    Yields:
        For each name, in order, the content, or why there is none (`missing`, `unreadable`, `unsupported`, `too_large`).

    Raises:
        FileNotFoundError: there is no such archive.
        ImageError: it is damaged, cut short or of another format.
        StorageError: it cannot be read.
    """
    with open_input(uri, etag=etag, read_ahead=READ_AHEAD) as file, _intact(uri):
        yield from _zip_contents(file, names) if archive_kind(uri) == "zip" else _tar_contents(file, uri, names)


@contextmanager
def _intact(uri: str) -> Iterator[None]:
    """Gives the many complaints of the readers about an archive one form."""
    try:
        yield
    except _DAMAGE as error:
        found = str(error) or type(error).__name__
        kind = archive_kind(uri) or "known"
        raise ImageError("unreadable", f"{uri} is damaged, cut short or no {kind} archive: {found}") from error


class _StrictHeader(tarfile.TarInfo):
    """A header of a tar that is an error where tarfile would take a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if bytes(buf) == tarfile.NUL * tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)  # raises: the true end
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            found = str(error) if buf else "it ends without an end mark"
            raise tarfile.ReadError(found) from error
        if header.size < 0 or (header.type in _EXTENDED_HEADERS and header.size > MAX_HEADER):
            raise tarfile.ReadError(f"a header declares {header.size:,} bytes")
        return header


@contextmanager
def _open_tar(file: IO[bytes], uri: str) -> Iterator[tarfile.TarFile]:
    unpacked = gzip.GzipFile(fileobj=file) if archive_kind(uri) == "tar.gz" else nullcontext(file)
    with unpacked as plain, tarfile.open(fileobj=plain, mode="r:", encoding="utf-8", tarinfo=_StrictHeader) as archive:
        yield archive


def _tar_entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for entry in archive:
        if entry.size < 0:  # by an extended header; tarfile would walk backwards, for ever
            raise tarfile.ReadError(f"the member {entry.name!r} declares {entry.size:,} bytes")
        if not entry.isdir():
            yield entry


def _tar_members(file: IO[bytes], uri: str) -> Iterator[Member]:
    ranges = archive_kind(uri) == "tar"
    with _open_tar(file, uri) as archive:
        for entry in _tar_entries(archive):
            offset = entry.offset_data if ranges and not entry.issparse() else None
            yield Member(entry.name, entry.name, offset, entry.size, None if entry.isreg() else NOT_REGULAR)
        while not ranges and archive.fileobj and archive.fileobj.read(2**20):  # gzip's checksum is at its very end
            pass


def _tar_contents(file: IO[bytes], uri: str, names: Sequence[str]) -> Iterator[bytes | ImageError]:
    """One pass over the archive, however the names are ordered; what it finds waits in a spool, not all in memory."""
    wanted = set(names)
    found: dict[str, tuple[int, int] | ImageError] = {}
    otherwise = ImageError("missing", "the archive has no such member any more")
    with tempfile.SpooledTemporaryFile(max_size=SPOOL) as spool:
        try:
            with _intact(uri), _open_tar(file, uri) as archive:
                for entry in _tar_entries(archive):
                    if entry.name in wanted and entry.isreg():
                        found[entry.name] = _spool(archive, entry, spool)
        except ImageError as error:  # what was found before the damage is whole
            otherwise = error
        for name in names:
            place = found.get(name, otherwise)
            if isinstance(place, ImageError):
                yield place
            else:
                spool.seek(place[0])
                yield spool.read(place[1])


def _spool(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, spool: tempfile.SpooledTemporaryFile[bytes]
) -> tuple[int, int] | ImageError:
    """Appends the content of a member; returns where it is and how long."""
    try:
        check_size(entry.size)
    except ImageError as error:
        return error
    stream = archive.extractfile(entry)
    content = stream.read() if stream else b""  # a regular file has one
    start = spool.tell()
    spool.write(content)
    return start, len(content)


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [_zip_name(info) for info in infos]
        for info, name, path in zip(infos, names, as_paths(names), strict=True):
            mode = stat.S_IFMT(info.external_attr >> 16)  # of Unix; 0 where another system wrote it
            if not path.endswith("/"):
                yield Member(name, path, None, info.file_size, NOT_REGULAR if mode not in (0, stat.S_IFREG) else None)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member: without the flag for UTF-8 it is CP437 by the rule, but many programs write UTF-8 and no flag."""
    if info.flag_bits & _UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:  # text of CP437 is hardly ever valid in UTF-8
        return info.filename


def _zip_contents(file: IO[bytes], names: Sequence[str]) -> Iterator[bytes | ImageError]:
    with zipfile.ZipFile(file) as archive:
        infos = {_zip_name(info): info for info in archive.infolist()}
        for name in names:
            try:
                content: bytes | ImageError = _zip_content(archive, infos[name])
            except KeyError:
                content = ImageError("missing", "the archive has no such member any more")
            except ImageError as error:
                content = error
            except _DAMAGE as error:
                content = ImageError("unreadable", f"the member is damaged: {str(error) or type(error).__name__}")
            yield content


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & _ENCRYPTED:
        raise ImageError("unsupported", "the member is encrypted; expected one without a password")
    if info.compress_type not in _PLAIN_ZIP:
        method = zipfile.compressor_names.get(info.compress_type, "unknown")  # type: ignore[attr-defined]
        found = f"{method} ({info.compress_type})"
        raise ImageError("unsupported", f"the member is compressed by {found}; expected deflate or no compression")
    check_size(info.file_size)
    with archive.open(info) as member:
        return member.read(info.file_size)  # without a number, a member that lies about its size is unpacked whole

"""What a location does: read, list, write, create-only, its clock, and what it does with uploads that nobody ends."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from differnet_ray.checks import FREE_DISK, Check, enough
from differnet_ray.errors import DifferNetError, StorageError
from differnet_ray.storage import s3
from differnet_ray.storage.files import delete, list_files, read_bytes, read_range, write_bytes
from differnet_ray.storage.locations import FILE, S3, canonical, join

SECONDS_APART = 30.0  # of two clocks: a lease counts as left when it was not renewed for a minute, S3 refuses at 15 minutes
LIFECYCLE = (
    "aws s3api put-bucket-lifecycle-configuration --bucket {} --lifecycle-configuration file://cluster/aws/lifecycle.json"
)
ACCESS = "check the name, the permissions and the credentials"


def check_location(location: str, *, writes: bool = True) -> Iterator[Check]:
    """Checks a location by doing with it what jobs do; what was written is removed.

    Args:
        location: a local path or S3 URI.
        writes: whether jobs write there.
    """
    try:
        uri = canonical(location)
        yield _readable(location, uri, may_be_new=writes and uri.startswith(S3))
        if writes:
            yield from _writable(location, uri)
            if uri.startswith(FILE):
                free = shutil.disk_usage(uri.removeprefix(FILE)).free
                yield enough(f"{location} disk", free, FREE_DISK, "free", "free 5 GiB, or take another disk")
        if uri.startswith(S3):
            yield from _of_bucket(location, uri, writes=writes)
    except FileNotFoundError:
        yield Check(location, "FAIL", "does not exist", "create it, or correct the name")
    except DifferNetError as error:
        yield Check(location, "FAIL", str(error), ACCESS)


def _readable(location: str, uri: str, *, may_be_new: bool) -> Check:
    try:
        some = list(islice(list_files(uri), 1))
    except FileNotFoundError:
        if not may_be_new:
            raise
        return Check(location, "ok", "nothing is there yet")
    if not some:
        return Check(location, "ok", "can be listed, is empty")
    read_range(some[0].uri, 0, min(1, some[0].size))
    return Check(location, "ok", "can be listed and read")


def _writable(location: str, uri: str) -> Iterator[Check]:
    probe, name = join(uri, f".differnet-ray-{uuid.uuid4().hex}"), f"{location} writes"
    content = probe.encode()
    write_bytes(probe, content)
    try:
        if read_bytes(probe) != content:
            yield Check(name, "FAIL", "what was written is not what is read", "this storage cannot be used")
        elif probe not in {file.uri for file in list_files(probe)}:
            yield Check(name, "FAIL", "what was written is not listed at once", "use a storage that lists what it has")
        else:
            yield Check(name, "ok", "what was written is listed and read")
        yield _create_only(f"{location} create-only", probe)
    finally:
        delete(probe)


def _create_only(name: str, probe: str) -> Check:
    if probe.startswith(S3) and not _is_kept(probe.removeprefix(S3)):
        return Check(
            name,
            "note",
            "the store writes over what is there in spite of If-None-Match: this package looks first instead",
            "do not start the same job twice in the same second",
        )
    try:
        write_bytes(probe, b"another", create_only=True)
    except FileExistsError:
        return Check(name, "ok", "what is there is kept")
    return Check(name, "FAIL", "a file was written over", "use a storage with exclusive creation: leases need it")


def _is_kept(path: str) -> bool:
    """Whether the store itself refuses to write over an object."""
    bucket, key = path.split("/", 1)
    try:
        s3.filesystem().call_s3("put_object", Bucket=bucket, Key=key, Body=b"another", IfNoneMatch="*")
    except OSError as error:
        return bool(s3.response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") == s3.PRECONDITION_FAILED)
    return False


def _of_bucket(location: str, uri: str, *, writes: bool) -> Iterator[Check]:
    bucket, _, key = uri.removeprefix(S3).partition("/")
    try:
        answer = s3.filesystem().call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except OSError as error:
        raise StorageError(f"cannot list {uri}: {error}") from error
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date:
        yield clock(location, parsedate_to_datetime(date).timestamp() - time.time())
    if writes:
        yield _uploads_end(location, bucket)


def clock(location: str, ahead: float) -> Check:
    """Judges by how many seconds a store's clock is ahead of ours."""
    far = abs(ahead) > SECONDS_APART
    mend = "set the clock of this machine by NTP: leases go by it, and S3 refuses requests of another time"
    return Check(f"{location} clock", "FAIL" if far else "ok", f"{ahead:+.0f} s from this machine's", mend if far else "")


def _uploads_end(location: str, bucket: str) -> Check:
    name = f"{location} lifecycle"
    try:
        rules = s3.filesystem().call_s3("get_bucket_lifecycle_configuration", Bucket=bucket).get("Rules", [])
    except OSError as error:
        code = s3.response(error).get("Error", {}).get("Code", str(error))
        if code != "NoSuchLifecycleConfiguration":
            return Check(name, "note", f"cannot be looked up ({code})", "see that a rule ends uploads in parts")
        rules = []
    if any(ends_uploads(rule) for rule in rules):
        return Check(name, "ok", "a rule ends uploads in parts that were left open")
    return Check(name, "note", "uploads in parts that a kill leaves open stay for ever, and cost", LIFECYCLE.format(bucket))


def ends_uploads(rule: Mapping[str, Any]) -> bool:
    """Whether a rule of a bucket ends uploads in parts, wherever in it they are.

    >>> ends_uploads({"Status": "Enabled", "Filter": {}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}})
    True
    """
    return rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule

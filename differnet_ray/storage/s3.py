"""What object stores that speak S3 take: bounded retries, one request for a part of one version, errors by their codes.

Paths are `bucket/key`. Errors come as s3fs, botocore and aiohttp raise them: `storage.py` explains them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import fsspec
from botocore.handlers import add_expect_header
from fsspec.asyn import sync
from pyarrow import fs as arrow_fs
from s3fs.core import S3_RETRYABLE_ERRORS, S3File
from tenacity import retry, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential

from differnet_ray.errors import ReplacedError
from differnet_ray.storage.retries import note_retry

ATTEMPTS = 5  # of a request to S3, and of one whose answer was cut short; the waits in between are random, and double
TIMEOUT = 15.0  # seconds to connect, and between bytes
PRECONDITION_FAILED, NOT_IMPLEMENTED = 412, 501  # HTTP
DELETED_AT_ONCE, DELETE_ATTEMPTS = 1000, 4  # S3 takes no more in one call


def filesystem() -> Any:
    """s3fs, which fsspec keeps: one for each process."""
    found = fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        client_kwargs={"region_name": _region()},  # of its own accord botocore knows AWS_DEFAULT_REGION alone
        config_kwargs={
            # "standard" gives up at once after some hundred faults, as a busy store has them in a minute
            "retries": {"mode": "legacy", "total_max_attempts": ATTEMPTS},
            "connect_timeout": TIMEOUT,
            "read_timeout": TIMEOUT,
        },
    )
    found.retries = 1  # of s3fs, by which those of botocore would be multiplied
    return found


def arrow_filesystem() -> arrow_fs.S3FileSystem:
    """Pyarrow's filesystem of S3, by the usual AWS variables."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return arrow_fs.S3FileSystem(
        endpoint_override=endpoint,
        region=_region(),
        # "standard", as botocore's, gives up at once after a hundred faults
        retry_strategy=arrow_fs.AwsDefaultS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=TIMEOUT,
        request_timeout=TIMEOUT,
    )


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


# Reads again what botocore does not: answers that were cut short
_again = retry(
    retry=retry_if_exception_type(S3_RETRYABLE_ERRORS),
    wait=wait_random_exponential(multiplier=0.1, max=5),
    stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(TIMEOUT),  # a request that failed has been tried long enough
    before_sleep=lambda state: note_retry(),
    reraise=True,
)


@_again
def cat(filesystem: Any, path: str) -> bytes:
    """Reads an object."""
    return bytes(filesystem.cat_file(path))  # parts of a large object side by side


@_again
def get(filesystem: Any, path: str, etag: str | None, start: int, end: int | None) -> bytes:
    """Reads an object and compares its etag by one request."""
    bucket, key = path.split("/", 1)
    wanted = {} if (start, end) == (0, None) else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}

    async def body() -> bytes:
        answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, **wanted)
        try:
            check_etag("s3://" + path, etag, answer["ETag"])
            note_retry(int(answer["ResponseMetadata"].get("RetryAttempts", 0)))  # botocore's own
            return bytes(await answer["Body"].read())
        finally:
            answer["Body"].close()

    content: bytes = sync(filesystem.loop, body)
    return content


class S3Object(S3File):  # type: ignore[misc]
    """An object of which parts are read: all of the same version."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return get(self.fs, self.path, self.details["ETag"], start, end) if start < end else b""


def check_etag(uri: str, listed: str | None, found: str) -> None:
    """Raises ReplacedError where a file has another etag than was listed; None: it is not compared."""
    found = found.strip('"')
    if listed is not None and listed.strip('"') != found:
        raise ReplacedError(f"{uri} was replaced after it was listed: its etag was {listed} and is {found} now")


def put(filesystem: Any, path: str, data: bytes, create_only: bool) -> bool:
    """Writes an object; returns False where it was to be a new one and is there."""
    # A server is not asked whether it would take the data: for that answer aiohttp waits without end
    filesystem.connect().meta.events.unregister("before-call.s3", add_expect_header)
    try:
        filesystem.pipe_file(path, data, mode="create" if create_only else "overwrite")
    except OSError as error:  # s3fs has one error number for many answers
        status = response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if not create_only or status not in (PRECONDITION_FAILED, NOT_IMPLEMENTED):
            raise
        if status == PRECONDITION_FAILED or filesystem.exists(path):
            return False
        filesystem.pipe_file(path, data)
    return True


def objects(filesystem: Any, path: str, delimiter: str) -> Iterator[tuple[str, int, str, float] | str]:
    """Path, size, etag and time of each object below a prefix, or the path of a folder; s3fs itself lists into memory."""
    bucket, _, key = path.partition("/")
    page = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": delimiter}
    while page:
        answer = filesystem.call_s3("list_objects_v2", **page)
        for folder in answer.get("CommonPrefixes", []):
            yield f"{bucket}/{folder['Prefix'].removesuffix('/')}"
        for found in answer.get("Contents", []):
            if not found["Key"].endswith("/"):  # an empty object that stands for a folder
                yield (
                    f"{bucket}/{found['Key']}",
                    int(found["Size"]),
                    str(found["ETag"]).strip('"'),
                    found["LastModified"].timestamp(),
                )
        page = page | {"ContinuationToken": answer["NextContinuationToken"]} if answer.get("IsTruncated") else {}


def open_uploads(filesystem: Any, path: str) -> Iterator[tuple[str, str, float]]:
    """Path, id and time of each upload in parts below a prefix that was begun and not ended."""
    bucket, _, key = path.partition("/")
    page = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    while page:
        answer = filesystem.call_s3("list_multipart_uploads", **page)
        for found in answer.get("Uploads", []):
            yield f"{bucket}/{found['Key']}", str(found["UploadId"]), found["Initiated"].timestamp()
        markers = {"KeyMarker": answer.get("NextKeyMarker"), "UploadIdMarker": answer.get("NextUploadIdMarker")}
        page = page | markers if answer.get("IsTruncated") else {}


def delete_objects(filesystem: Any, paths: list[str]) -> None:
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


def response(error: Exception) -> dict[str, Any]:
    """The answer of S3 that s3fs made an exception of."""
    found: dict[str, Any] = getattr(error.__cause__, "response", {})
    return found

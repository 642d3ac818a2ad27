"""A store in trouble: what passes is waited for, what stays is a row with a reason, what was not listed is not scored."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from archive_files import KINDS, images, pack
from fault_proxy import FaultProxy, faulty
from PIL import Image
from s3fs import S3FileSystem

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import list_images
from differnet_ray.config import ImageForm
from differnet_ray.errors import ReplacedError, StorageError, UnavailableError
from differnet_ray.storage import files as storage
from differnet_ray.storage import s3
from differnet_ray.storage.files import arrow_filesystem, delete, list_files, open_input, read_bytes, read_range, write_bytes
from differnet_ray.storage.locations import canonical, join
from differnet_ray.storage.retries import n_retries

NAMES = [f"{n:03d}.png" for n in range(12)]


@pytest.fixture
def proxy(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy without faults in front of the server, through which everything goes."""
    with faulty(s3_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        S3FileSystem.clear_instance_cache()
        yield running
    S3FileSystem.clear_instance_cache()


def fetched(rows: pa.Table) -> list[tuple[str, str]]:
    """Returns status and reason of each row, empty for an image."""
    table = FetchImages({"screw": ImageForm(8)})(rows)
    return [
        (status or "", error or "") for status, error in zip(*(table[n].to_pylist() for n in ("status", "error")), strict=True)
    ]


def plant(root: str) -> pa.Table:
    """Writes images to a folder and returns their manifest rows."""
    for name, data in images(NAMES).items():
        write_bytes(join(root, name), data)
    return list_images([root], category="screw").table


def test_what_passes_is_waited_for(bucket: str, proxy: FaultProxy) -> None:
    root = join(bucket, "passes")
    written = {join(root, f"{n:03d} ü"): os.urandom(1000 + 100 * n) for n in range(100)}
    proxy.faults |= {"slow_down": 0.05, "cut": 0.05, "reset": 0.02}
    retries = n_retries()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: write_bytes(*item), written.items()))
        etags = {file.uri: file.etag for file in list_files(root)}
        assert etags.keys() == written.keys()
        assert list(pool.map(lambda uri: read_bytes(uri, etags[uri]), written)) == list(written.values())
        assert list(pool.map(lambda uri: read_range(uri, 10, 600), written)) == [data[10:600] for data in written.values()]
        assert list(pool.map(read_bytes, written)) == list(written.values())
    cut = sum(request.fault == "cut" for request in proxy.requests)
    assert cut <= n_retries() - retries <= sum(request.fault is not None for request in proxy.requests)
    for uri, data in list(written.items())[:10]:  # through which Ray Data reads and writes
        filesystem, path = arrow_filesystem(uri)
        with filesystem.open_output_stream(path + " again") as sink:
            sink.write(data)
        with filesystem.open_input_stream(path + " again") as source:
            assert source.read() == data
    faults = {request.fault for request in proxy.requests}
    assert faults == {None, "slow_down", "cut", "reset"}


@pytest.mark.parametrize(("fault", "said"), [("cut", "not completed"), ("slow_down", "reduce your request rate")])
def test_what_stays_is_a_row_with_the_reason(fault: str, said: str, bucket: str, proxy: FaultProxy) -> None:
    rows = plant(join(bucket, f"stays-{fault}"))
    proxy.always[NAMES[3]] = fault  # type: ignore[assignment]
    proxy.requests.clear()
    found = fetched(rows)
    assert found[3][0] == "failed"
    assert said in found[3][1]
    assert NAMES[3] in found[3][1]
    assert {status for status, _ in found[:3] + found[4:]} == {""}
    assert sum(NAMES[3] in request.key for request in proxy.requests) == s3.ATTEMPTS


def test_credentials_that_stop_working_stop_the_work(bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plant(join(bucket, "refused"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UnavailableError, match=r"does not work any more.*credentials.*run the same command again"):
        fetched(rows)


def test_a_bucket_that_is_gone_stops_the_work(bucket: str) -> None:
    rows = plant(join(bucket, "deleted"))
    uris = pa.array([uri.replace(bucket, f"{bucket}-gone") for uri in rows["uri"].to_pylist()])
    with pytest.raises(UnavailableError, match="there is no such bucket"):
        fetched(rows.set_column(rows.schema.get_field_index("uri"), rows.schema.field("uri"), uris))


def test_an_image_that_is_forbidden_is_a_row(bucket: str, proxy: FaultProxy) -> None:
    rows = plant(join(bucket, "forbidden"))
    proxy.always[NAMES[3]] = "denied"
    found = fetched(rows)
    assert found[3][0] == "failed"
    assert "Access Denied" in found[3][1]
    assert {status for status, _ in found[:3] + found[4:]} == {""}


def test_where_nothing_may_be_read_the_work_stops(bucket: str, proxy: FaultProxy) -> None:
    rows = plant(join(bucket, "all-forbidden"))
    proxy.faults["denied"] = 1.0
    with pytest.raises(UnavailableError, match=r"Access Denied.*reading and listing"):
        fetched(rows)


def test_a_fault_of_one_image_is_a_row_where_listing_is_forbidden(bucket: str, proxy: FaultProxy) -> None:
    rows = plant(join(bucket, "unlisted")).slice(3, 1)
    proxy.faults["denied"] = 1.0
    proxy.always[NAMES[3]] = "cut"
    ((status, reason),) = fetched(rows)
    assert status == "failed"
    assert "not completed" in reason


@pytest.mark.timeout(60)
def test_a_store_that_is_silent_is_not_waited_for_without_end(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = join(bucket, "silent")
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    monkeypatch.setattr(s3, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        S3FileSystem.clear_instance_cache()
        for wait in (
            lambda: write_bytes(uri, b"content"),
            lambda: list(list_files(uri)),
            lambda: delete(uri),
        ):
            with pytest.raises(StorageError, match=r"cannot .*[Tt]imeout"):
                wait()
    S3FileSystem.clear_instance_cache()


def test_a_store_that_is_gone_stops_the_work(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plant(join(bucket, "gone"))
    monkeypatch.setattr(storage, "PATIENCE", 1.0)
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    with faulty(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        assert {status for status, _ in fetched(rows.slice(0, 1))} == {""}
    with pytest.raises(UnavailableError, match=r"s3://\S+ does not work any more"):
        fetched(rows)
    S3FileSystem.clear_instance_cache()


def test_a_store_that_was_away_for_a_while_is_asked_again(
    bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = plant(join(bucket, "away")).slice(0, 1)
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    S3FileSystem.clear_instance_cache()
    proxy.faults["slow_down"] = 1.0
    looks = []

    def come_back(seconds: float) -> None:
        looks.append(seconds)
        proxy.faults["slow_down"] = 0.0

    monkeypatch.setattr(storage.time, "sleep", come_back)
    assert fetched(rows) == [("", "")]
    assert looks == [storage.SECONDS_BETWEEN_LOOKS]


def other_images() -> dict[str, bytes]:
    """Returns other images than those that are packed, under their names."""
    return {name: png(n) for n, name in enumerate(NAMES)}


def png(n: int) -> bytes:
    """Returns a small image."""
    sink = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), n, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize("kind", [*KINDS, ""])
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_what_was_replaced_after_it_was_listed_is_not_scored(
    kind: str, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = join(request.getfixturevalue("bucket"), f"replaced{kind}") if place == "s3" else canonical(str(tmp_path / "root"))

    def write(contents: dict[str, bytes]) -> None:
        if kind:
            archive = pack(tmp_path / f"packed{kind}", contents)
            write_bytes(join(root, f"a{kind}"), archive.read_bytes())
            return
        for name, data in contents.items():
            write_bytes(join(root, name), data)

    write(images(NAMES))
    rows = list_images([root], category="screw").table
    assert set(fetched(rows)) == {("", "")}
    write(other_images())
    found = fetched(rows)
    assert {status for status, _ in found} == {"missing"}
    assert all("was replaced after it was listed" in reason and "lists it anew" in reason for _, reason in found)


def test_what_is_replaced_while_it_is_read_is_not_mixed(bucket: str) -> None:
    uri = join(bucket, "while")
    write_bytes(uri, b"1" * 2**20)
    with open_input(uri, read_ahead=1000) as file:
        assert file.read(10) == b"1" * 10
        write_bytes(uri, b"2" * 2**20)
        file.seek(2**19)
        with pytest.raises(ReplacedError):
            file.read(10)


def test_etags_are_compared_where_there_is_one(bucket: str) -> None:
    uri = join(bucket, "one")
    write_bytes(uri, b"content")
    (file,) = list_files(uri)
    assert read_bytes(uri) == read_bytes(uri, file.etag) == read_bytes(uri, f'"{file.etag}"') == b"content"
    for read in (lambda: read_bytes(uri, "another"), lambda: read_range(uri, 0, 3, "another")):
        with pytest.raises(ReplacedError, match="its etag was another"):
            read()
    with pytest.raises(FileNotFoundError):
        read_bytes(join(bucket, "none"), "any")
    with pytest.raises(StorageError, match=r"cannot read s3://.*one"):
        read_range(uri, 100, 200)  # behind its end

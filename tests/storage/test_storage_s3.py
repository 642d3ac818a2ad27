"""Storage on a real S3 server: the same answers as on a disk, and a clear one where it refuses."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem

from differnet_ray.errors import ConfigError, StorageError, UnavailableError
from differnet_ray.storage.files import (
    StoredFile,
    arrow_filesystem,
    check_writable,
    delete,
    exists,
    list_files,
    list_folders,
    read_bytes,
    write_bytes,
)
from differnet_ray.storage.locations import join

AWKWARD = ["plain.png", "with space.png", "Größe 漢字 🙂.png", 'it\'s "q".png', "100%20.png", "#?*[x]&+.png"]


@pytest.fixture
def root(bucket: str, request: pytest.FixtureRequest) -> str:
    """A place of its own for each test."""
    return join(bucket, hashlib.sha256(request.node.name.encode()).hexdigest()[:8])


def listed(uri: str) -> dict[str, int]:
    """Returns path below `uri` -> size."""
    return {file.uri.removeprefix(uri + "/"): file.size for file in list_files(uri)}


def put(uri: str, data: bytes = b"") -> None:
    """Puts an object by the client itself: keys that `write_bytes` does not make."""
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    S3FileSystem(use_listings_cache=False).call_s3("put_object", Bucket=bucket, Key=key, Body=data)


@pytest.mark.parametrize("name", AWKWARD)
def test_what_is_written_is_read_listed_and_removed_under_any_name(name: str, root: str) -> None:
    write_bytes(join(root, "folder", name), b"content")
    write_bytes(join(root, "folder", "other"), b"other")
    assert read_bytes(join(root, "folder", name)) == b"content"
    assert exists(join(root, "folder", name))
    assert listed(root) == {f"folder/{name}": 7, "folder/other": 5}
    (only,) = list_files(join(root, "folder", name))
    assert (only.uri, only.size) == (join(root, "folder", name), 7)
    delete(join(root, "folder", name))
    assert not exists(join(root, "folder", name))
    assert listed(root) == {"folder/other": 5}


@pytest.mark.parametrize("name", AWKWARD)
def test_a_folder_of_any_name_is_listed_and_removed(name: str, root: str) -> None:
    for path in (f"{name}/1", f"{name}/deep/2", "other/3", "file"):
        write_bytes(join(root, path), b"x")
    assert list_folders(root) == sorted([name, "other"])
    assert listed(join(root, name)) == {"1": 1, "deep/2": 1}
    delete(join(root, name))
    assert listed(root) == {"other/3": 1, "file": 1}


def test_a_name_with_a_star_is_no_pattern(root: str) -> None:
    for name in ("a*", "ab", "a*b/1", "axb/2"):
        write_bytes(join(root, name), b"")
    delete(join(root, "a*"))
    delete(join(root, "a*b"))
    assert listed(root) == {"ab": 0, "axb/2": 0}


def test_many_files_are_removed_at_once_and_a_neighbour_is_not(root: str) -> None:
    for i in range(12):
        write_bytes(join(root, "screw", str(i), "x"), b"")
    write_bytes(join(root, "screws"), b"")
    assert len(listed(join(root, "screw"))) == 12
    delete(join(root, "screw"))
    assert listed(root) == {"screws": 0}
    delete(join(root, "screw"))


def test_only_what_is_there_exists(root: str) -> None:
    assert not exists(root)
    write_bytes(join(root, "folder", "file"), b"")
    assert exists(root)
    assert exists(join(root, "folder"))
    assert exists(join(root, "folder", "file"))
    for name in ("fold", "folder/f", "folder/file/x", "other"):
        assert not exists(join(root, name))


def test_the_bucket_itself_is_a_location(bucket: str, root: str) -> None:
    write_bytes(join(root, "file"), b"abc")
    assert exists(bucket)
    assert StoredFile(join(root, "file"), 3, hashlib.md5(b"abc").hexdigest()) in list(list_files(bucket))
    assert root.removeprefix(bucket + "/") in list_folders(bucket)
    check_writable(bucket)


def test_what_is_not_there_is_an_answer_and_no_storage_error(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "nothing"))
    with pytest.raises(FileNotFoundError):
        list(list_files(join(root, "nothing")))
    assert list_folders(join(root, "nothing")) == []


def test_a_change_by_another_process_is_seen_at_once(root: str) -> None:
    assert not exists(join(root, "a"))
    put(join(root, "a", "1"), b"one")
    assert listed(root) == {"a/1": 3}
    assert list_folders(root) == ["a"]
    (before,) = list_files(root)
    put(join(root, "a", "1"), b"two")
    put(join(root, "b", "2"), b"two")
    assert read_bytes(join(root, "a", "1")) == b"two"
    assert listed(root) == {"a/1": 3, "b/2": 3}
    assert list_folders(root) == ["a", "b"]
    (after,) = list_files(join(root, "a"))
    assert after.etag != before.etag


def test_a_marker_of_a_folder_is_a_folder_and_no_file(root: str) -> None:
    put(root + "/")
    put(join(root, "empty") + "/")
    put(join(root, "full") + "/")
    put(join(root, "full", "1"), b"x")
    assert listed(root) == {"full/1": 1}
    assert list_folders(root) == ["empty", "full"]
    assert exists(join(root, "empty"))
    assert list(list_files(join(root, "empty"))) == []
    delete(root)
    assert not exists(root)


def test_a_file_beside_a_folder_of_its_name(root: str) -> None:
    put(join(root, "a"), b"file")
    put(join(root, "a", "1"), b"below")
    assert read_bytes(join(root, "a")) == b"file"
    assert list_folders(root) == ["a"]
    delete(join(root, "a"))
    assert not exists(root)


@pytest.mark.parametrize("size", [0, 1, 110 * 2**20], ids=["empty", "small", "in parts"])
def test_a_new_file_is_not_written_over_another(size: int, root: str) -> None:
    uri = join(root, "file")
    write_bytes(uri, b"1" * size, create_only=True)
    with pytest.raises(FileExistsError, match=uri):
        write_bytes(uri, b"2" * size, create_only=True)
    assert listed(root) == {"file": size}
    assert read_bytes(uri) == b"1" * size
    write_bytes(uri, b"3")
    assert read_bytes(uri) == b"3"


def test_many_writers_of_a_new_file_leave_that_of_one_who_was_told_so(root: str) -> None:
    start, written = threading.Barrier(6), []

    def write(data: bytes) -> None:
        start.wait()
        try:
            write_bytes(join(root, "file"), data, create_only=True)
        except FileExistsError:
            return
        written.append(data)

    writers = [threading.Thread(target=write, args=(f"writer {i}".encode(),)) for i in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read_bytes(join(root, "file")) in written  # Swift lets more than one through, S3 does not


def test_check_writable_leaves_no_file(root: str) -> None:
    check_writable(root)
    assert not exists(root)


def test_arrow_sees_the_same(root: str) -> None:
    for name in AWKWARD:
        write_bytes(join(root, name), name.encode())
        filesystem, path = arrow_filesystem(join(root, name))
        with filesystem.open_input_file(path) as file:
            assert file.read() == name.encode()
    filesystem, path = arrow_filesystem(join(root, "by arrow"))
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"arrow")
    assert read_bytes(join(root, "by arrow")) == b"arrow"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_secret(root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A location with one file, and credentials that the server refuses."""
    write_bytes(join(root, "file"), b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    S3FileSystem.clear_instance_cache()
    yield root
    S3FileSystem.clear_instance_cache()


def test_wrong_credentials_are_said_and_not_repeated(wrong_secret: str, bucket: str) -> None:
    for refused in (
        lambda: read_bytes(join(wrong_secret, "file")),
        lambda: write_bytes(join(wrong_secret, "new"), b""),
        lambda: write_bytes(join(wrong_secret, "new"), b"", create_only=True),
        lambda: list(list_files(wrong_secret)),
        lambda: list(list_files(bucket)),
        lambda: list_folders(wrong_secret),
        lambda: list_folders(bucket),
        lambda: exists(join(wrong_secret, "file")),
        lambda: exists(bucket),
        lambda: delete(join(wrong_secret, "file")),
    ):
        with pytest.raises(StorageError, match=f"cannot .* {bucket}") as caught:
            refused()
        assert "swordfish" not in f"{caught.value!r} {caught.value.__cause__!r}"
    with pytest.raises(ConfigError, match=f"{wrong_secret} is not writable: "):
        check_writable(wrong_secret)


def test_a_bucket_that_does_not_exist_is_said(bucket: str) -> None:
    missing = "s3://no-such-bucket"
    assert not exists(join(missing, "file"))
    with pytest.raises(UnavailableError, match="there is no such bucket"):
        read_bytes(join(missing, "file"))
    with pytest.raises(ConfigError, match=f"{missing} is not writable: .*[Bb]ucket"):
        check_writable(missing)


def test_no_server_is_said(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"cannot read .*127\.0\.0\.1:9"):
        read_bytes(join(root, "file"))
    S3FileSystem.clear_instance_cache()

"""Files are written whole, listed with an etag that follows the content, and removed."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError
from file_names import AWKWARD, NAMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.storage import files as storage
from differnet_ray.storage.files import (
    arrow_filesystem,
    check_writable,
    delete,
    exists,
    list_files,
    list_folders,
    read_bytes,
    write_bytes,
)
from differnet_ray.storage.locations import canonical, join, name_of


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A canonical URI of a folder that does not exist yet."""
    return canonical(str(tmp_path / "root"))


def listed(uri: str) -> dict[str, int]:
    """Returns path below `uri` -> size."""
    return {file.uri.removeprefix(uri + "/"): file.size for file in list_files(uri)}


# --- reading and writing ----------------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=st.dictionaries(NAMES, st.binary(max_size=50), min_size=1, max_size=3))
def test_what_is_written_is_read_listed_and_removed_under_any_name(files: dict[str, bytes], root: str) -> None:
    for name, data in files.items():
        write_bytes(join(root, "folder", name), data)
    assert {name: read_bytes(join(root, "folder", name)) for name in files} == files
    assert listed(join(root, "folder")) == {name: len(data) for name, data in files.items()}
    for name in files:
        delete(join(root, "folder", name))
        assert not exists(join(root, "folder", name))
    assert listed(join(root, "folder")) == {}


@pytest.mark.parametrize("name", [255 * "n", 63 * "🔩"])
def test_a_name_may_be_as_long_as_a_disk_allows(name: str, tmp_path: Path) -> None:
    write_bytes(canonical(str(tmp_path / name)), b"x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_replaced_whole_under_the_eyes_of_a_reader(root: str) -> None:
    uri, contents = join(root, "file"), [letter * 200_000 for letter in (b"a", b"bb", b"c")]
    write_bytes(uri, contents[0])
    stop, strange = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            data = read_bytes(uri)
            if data not in contents:
                strange.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_bytes(uri, contents[turn % 3])
    stop.set()
    reader.join()
    assert strange == []
    assert listed(root) == {"file": len(contents[59 % 3])}


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace = os.replace

    def replaced(source: str, target: str) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    monkeypatch.setattr(os, "replace", replaced)
    write_bytes(join(root, "file"), b"x")
    assert calls == ["fsync", "replace"]


def test_no_temporary_file_remains_after_a_write(root: str) -> None:
    write_bytes(join(root, "file"), b"old and longer")
    write_bytes(join(root, "file"), b"new")
    assert os.listdir(root.removeprefix("file://")) == ["file"]
    assert read_bytes(join(root, "file")) == b"new"


def test_no_temporary_file_remains_after_a_failed_write(root: str) -> None:
    write_bytes(join(root, "folder", "file"), b"")
    with pytest.raises(StorageError, match="cannot write .*/root/folder"):
        write_bytes(join(root, "folder"), b"cannot replace a folder")
    assert os.listdir(root.removeprefix("file://")) == ["folder"]


def test_a_new_file_is_not_written_over_another(root: str) -> None:
    write_bytes(join(root, "file"), b"first", create_only=True)
    with pytest.raises(FileExistsError, match=join(root, "file")):
        write_bytes(join(root, "file"), b"second", create_only=True)
    assert read_bytes(join(root, "file")) == b"first"
    assert os.listdir(root.removeprefix("file://")) == ["file"]
    assert Path(root.removeprefix("file://"), "file").stat().st_mode & 0o777 == 0o644


def test_of_many_writers_of_a_new_file_one_succeeds(root: str) -> None:
    start, written = threading.Barrier(8), []

    def write(data: bytes) -> None:
        start.wait()
        try:
            write_bytes(join(root, "file"), data, create_only=True)
        except FileExistsError:
            return
        written.append(data)

    writers = [threading.Thread(target=write, args=(bytes([i]) * 100_000,)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert written == [read_bytes(join(root, "file"))]
    assert listed(root) == {"file": 100_000}


def test_a_new_file_below_a_file_is_a_storage_error(root: str) -> None:
    write_bytes(join(root, "file"), b"x")
    with pytest.raises(StorageError, match="cannot write"):
        write_bytes(join(root, "file", "below"), b"", create_only=True)


def test_a_disk_without_hard_links_looks_first(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", target)

    monkeypatch.setattr(os, "link", link)
    write_bytes(join(root, "file"), b"first", create_only=True)
    with pytest.raises(FileExistsError):
        write_bytes(join(root, "file"), b"second", create_only=True)
    assert read_bytes(join(root, "file")) == b"first"
    assert listed(root) == {"file": 5}


class StoreWithoutConditions:
    """Answers a conditional write as S3 servers do that do not know it."""

    connect = Mock()

    def __init__(self, status: int) -> None:
        self.status, self.objects = status, {}

    def exists(self, path: str) -> bool:
        return path in self.objects

    def pipe_file(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            answer = {"Error": {"Code": str(self.status)}, "ResponseMetadata": {"HTTPStatusCode": self.status}}
            raise OSError(errno.EIO, "refused") from ClientError(answer, "PutObject")
        self.objects[path] = data


def test_a_store_that_knows_no_conditions_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoreWithoutConditions(501)
    monkeypatch.setattr(storage, "_filesystem", lambda uri: (store, "b/k"))
    write_bytes("s3://b/k", b"first", create_only=True)
    with pytest.raises(FileExistsError):
        write_bytes("s3://b/k", b"second", create_only=True)
    assert store.objects == {"b/k": b"first"}


def test_another_refusal_of_a_new_file_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoreWithoutConditions(500)
    monkeypatch.setattr(storage, "_filesystem", lambda uri: (store, "b/k"))
    with pytest.raises(StorageError, match="cannot write s3://b/k"):
        write_bytes("s3://b/k", b"", create_only=True)
    assert store.objects == {}


def test_others_may_read_what_was_written(root: str) -> None:
    write_bytes(join(root, "file"), b"x")
    assert Path(root.removeprefix("file://"), "file").stat().st_mode & 0o777 == 0o644


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    uri = canonical(str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError, match=f"cannot write {uri}") as caught:
        write_bytes(uri, b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "file").read_bytes() == b"not a folder"


def test_check_writable_says_so_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    uri = canonical(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=f"{uri} is not writable: ") as caught:
        check_writable(uri)
    assert ".differnet-ray-" not in str(caught.value).split("not writable: ")[0]


def test_check_writable_leaves_no_file(tmp_path: Path) -> None:
    check_writable(canonical(str(tmp_path / "new" / "folder")))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_reading_what_is_not_there_is_an_answer_and_no_storage_error(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "nothing"))
    assert not exists(join(root, "nothing"))


def test_reading_a_folder_is_a_storage_error_that_names_it(root: str) -> None:
    write_bytes(join(root, "folder", "file"), b"x")
    with pytest.raises(StorageError, match=f"cannot read {root}/folder"):
        read_bytes(join(root, "folder"))


def test_a_fault_of_the_store_is_explained(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def cat_file(self, path: str) -> bytes:
            raise RuntimeError("the endpoint sent no answer")

    monkeypatch.setattr(storage, "_filesystem", lambda uri: (Broken(), uri))
    with pytest.raises(StorageError, match="cannot read s3://b/k: RuntimeError: the endpoint sent no answer"):
        read_bytes("s3://b/k")


# --- listing ----------------------------------------------------------------------------------------------------------


def test_a_folder_lists_all_files_below_it_by_canonical_uri(root: str) -> None:
    for name in ["b/2", "a/deep/er/1", "3", ".hidden", *AWKWARD]:
        write_bytes(join(root, name), name.encode())
    assert listed(root) == {name: len(name.encode()) for name in ["b/2", "a/deep/er/1", "3", ".hidden", *AWKWARD]}
    assert all(canonical(file.uri) == file.uri for file in list_files(root))


def test_a_folder_does_not_list_a_sibling_whose_name_begins_alike(root: str) -> None:
    write_bytes(join(root, "screw", "1"), b"x")
    write_bytes(join(root, "screws", "2"), b"x")
    assert listed(join(root, "screw")) == {"1": 1}


def test_a_file_lists_itself(root: str) -> None:
    write_bytes(join(root, "file"), b"abc")
    (only,) = list_files(join(root, "file"))
    assert (only.uri, only.size) == (join(root, "file"), 3)
    assert only in list(list_files(root))


def test_an_empty_folder_lists_nothing_and_a_missing_one_is_an_error(root: str) -> None:
    os.makedirs(root.removeprefix("file://"))
    assert list(list_files(root)) == []
    with pytest.raises(FileNotFoundError):
        list(list_files(join(root, "missing")))


def test_a_folder_that_cannot_be_listed_is_not_left_out(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(join(root, "open", "1"), b"x")
    write_bytes(join(root, "locked", "2"), b"x")
    scandir = os.scandir

    def locked(path: str) -> object:  # tests may run as root, for whom no folder is locked
        if str(path).endswith("/locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(StorageError, match="locked"):
        list(list_files(root))


def etag(uri: str) -> str:
    """Returns the etag of one file."""
    (only,) = list_files(uri)
    return only.etag


def test_the_etag_stays_until_the_content_changes(root: str) -> None:
    uri = join(root, "file")
    write_bytes(uri, b"one")
    first = etag(uri)
    assert etag(uri) == first
    write_bytes(uri, b"three")
    assert etag(uri) != first


def test_the_etag_changes_with_content_of_the_same_size(root: str) -> None:
    uri = join(root, "file")
    write_bytes(uri, b"one")
    os.utime(uri.removeprefix("file://"), (1_700_000_000, 1_700_000_000))
    first = etag(uri)
    write_bytes(uri, b"two")
    assert etag(uri) != first


def test_the_etag_of_a_link_changes_with_what_it_points_to(root: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"one")
    os.utime(target, (1_700_000_000, 1_700_000_000))
    (tmp_path / "link").symlink_to(target)
    first = etag(canonical(str(tmp_path / "link")))
    (from_folder,) = (f.etag for f in list_files(canonical(str(tmp_path))) if name_of(f.uri) == "link")
    target.write_bytes(b"two")
    assert etag(canonical(str(tmp_path / "link"))) != first
    assert [f.etag for f in list_files(canonical(str(tmp_path))) if name_of(f.uri) == "link"] != [from_folder]


def test_folders_directly_below_are_listed_sorted(root: str) -> None:
    for name in ["b/x/1", "a b/2", "ü/3", "file"]:
        write_bytes(join(root, name), b"")
    assert list_folders(root) == ["a b", "b", "ü"]
    assert list_folders(join(root, "missing")) == list_folders(join(root, "file")) == []


# --- removing ---------------------------------------------------------------------------------------------------------


def test_delete_removes_a_file_or_a_whole_folder_and_nothing_else(root: str) -> None:
    for name in ["a/1", "a/b/2", "ab/3", "c"]:
        write_bytes(join(root, name), b"")
    delete(join(root, "a"))
    assert listed(root) == {"ab/3": 0, "c": 0}
    delete(join(root, "c"))
    assert listed(root) == {"ab/3": 0}


def test_deleting_what_is_not_there_does_nothing(root: str) -> None:
    delete(join(root, "nothing"))
    write_bytes(join(root, "file"), b"")
    delete(join(root, "nothing"))
    assert listed(root) == {"file": 0}


def test_arrow_reads_a_file_by_the_same_uri(root: str) -> None:
    for name in AWKWARD:
        write_bytes(join(root, name), name.encode())
        filesystem, path = arrow_filesystem(join(root, name))
        with filesystem.open_input_file(path) as file:
            assert file.read() == name.encode()

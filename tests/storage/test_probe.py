"""What `doctor` says of locations, on a disk and on a real S3 server; it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from differnet_ray.checks import Check
from differnet_ray.storage.files import list_files, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.storage.probe import LIFECYCLE, check_location, clock, ends_uploads


def checks(location: object, *, writes: bool = True) -> dict[str, Check]:
    """The checks by what follows the location in their names."""
    return {check.name.removeprefix(str(location)).strip(): check for check in check_location(str(location), writes=writes)}


def test_a_folder_is_listed_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"pixels")
    found = checks(tmp_path)
    assert set(found) == {"", "writes", "create-only", "disk"}
    assert {found[name].state for name in ("", "writes", "create-only")} == {"ok"}
    assert "read" in found[""].found
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_where_nothing_is_written_nothing_is_tried(tmp_path: Path) -> None:
    assert list(checks(tmp_path, writes=False)) == [""]
    assert "empty" in checks(tmp_path, writes=False)[""].found


@pytest.mark.parametrize(
    ("location", "words"),
    [("nowhere", "does not exist"), ("file/below", "exist"), ("https://plant/x", "scheme"), ("/proc/sys/kernel", "cannot")],
)
def test_what_is_wrong_has_its_mend(location: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    failed = [check for check in checks(location).values() if check.state == "FAIL"]
    assert len(failed) == 1
    assert words in failed[0].found
    assert failed[0].mend


def test_a_bucket_says_its_time_and_what_it_does_with_open_uploads(bucket: str) -> None:
    place = join(bucket, "results")
    found = checks(place)
    assert set(found) == {"", "writes", "create-only", "clock", "lifecycle"}
    assert {found[name].state for name in ("", "writes", "create-only", "clock")} == {"ok"}
    assert "nothing is there yet" in found[""].found
    assert found["lifecycle"].state == "note"  # this server knows no rules
    with pytest.raises(FileNotFoundError):
        list(list_files(place))
    write_bytes(join(place, "image.png"), b"pixels")
    assert set(checks(place, writes=False)) == {"", "clock"}


def test_a_bucket_that_is_not_there_is_a_failure(bucket: str) -> None:
    (found,) = checks("s3://no-such-bucket-here/x").values()
    assert found.state == "FAIL"
    assert "no-such-bucket-here" in found.found


def test_clocks_may_be_half_a_minute_apart() -> None:
    assert clock("s3://a", 29).state == clock("s3://a", -29).state == "ok"
    assert clock("s3://a", -31).state == "FAIL"
    assert "NTP" in clock("s3://a", 31).mend


def test_a_rule_that_is_off_ends_no_uploads() -> None:
    assert not ends_uploads({"Status": "Disabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}})
    assert not ends_uploads({"Status": "Enabled", "Expiration": {"Days": 7}})
    assert "--bucket plant " in LIFECYCLE.format("plant")

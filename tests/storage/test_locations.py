"""Locations have one spelling, whoever writes them down."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_names import AWKWARD, NAMES
from hypothesis import given
from hypothesis import strategies as st

from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical, join, name_of


@pytest.mark.parametrize("spelling", ["a/b", "./a/b", "a//b/", "a/c/../b", "{cwd}/a/b", "file://{cwd}/a/b", "{cwd}/a/b///"])
def test_every_spelling_of_a_local_path_gives_one_uri(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical(spelling.format(cwd=tmp_path)) == f"file://{tmp_path}/a/b"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert canonical("~/archive/") == "file:///home/someone/archive"
    assert canonical("~") == "file:///home/someone"
    assert canonical("/data/~/x") == "file:///data/~/x"


@pytest.mark.parametrize("name", AWKWARD)
def test_names_are_kept_letter_by_letter(name: str) -> None:
    assert canonical(f"/data/{name}") == f"file:///data/{name}"
    assert canonical(f"s3://bucket/{name}") == f"s3://bucket/{name}"


@given(parts=st.lists(NAMES, min_size=1, max_size=3))
def test_canonical_is_idempotent_and_does_not_mix_up_paths(parts: list[str]) -> None:
    uri = canonical("/data/" + "/".join(parts))
    assert canonical(uri) == uri == join("file:///data", *parts)


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/key/", "s3://bucket/key"),
        ("s3://bucket/a b/ü@home%20", "s3://bucket/a b/ü@home%20"),
    ],
)
def test_an_s3_location_loses_only_its_last_slash(location: str, uri: str) -> None:
    assert canonical(location) == uri


def test_the_root_folder_keeps_its_slash() -> None:
    assert canonical("/") == canonical("file:///") == "file:///"


def test_two_leading_slashes_are_one() -> None:
    assert canonical("//data/x") == canonical("/data/x")


@pytest.mark.parametrize("location", ["http://h/x", "https://h/x", "gs://b/x", "s3a://b/x", "S3://b/x", "ftp://h/x"])
def test_another_scheme_is_refused_and_named(location: str) -> None:
    with pytest.raises(ConfigError, match=f"scheme {location.split('://')[0]!r}: expected a local path or s3://"):
        canonical(location)


@pytest.mark.parametrize("location", ["", "file://", "s3://", "s3:///key"])
def test_an_empty_location_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match="expected|needs the form"):
        canonical(location)


@pytest.mark.parametrize(
    "location",
    [
        "s3://AKIAEXAMPLE:swordfish@bucket/key",
        "s3://AKIAEXAMPLE:swordfish@bucket",
        "s3://AKIAEXAMPLE:swordfish@",
        "https://AKIAEXAMPLE:swordfish@host/key",
        pytest.param("s3://AKIAEXAMPLE:sword/fish@bucket/key", id="secret with a slash"),
        pytest.param("s3://AKIAEXAMPLE:/swordfish@bucket/key", id="secret beginning with a slash"),
    ],
)
def test_credentials_in_a_location_are_refused_and_never_repeated(location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        canonical(location)
    for secret in ("AKIA", "sword", "fish"):
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_names_join_and_part_again() -> None:
    assert join("s3://bucket/", "a", "b") == join("s3://bucket", "a", "b") == "s3://bucket/a/b"
    assert name_of("s3://bucket/a/b/") == name_of("s3://bucket/a/b") == "b"

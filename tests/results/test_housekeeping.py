"""What is old is named and, on demand, removed; what a row needs never is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.asyn import sync
from s3fs import S3FileSystem
from said import json_of, run
from staged_runs import a_run, files, manifest_of, published_run, scored, stage

from differnet_ray.results.housekeeping import Leftover, leftovers, remove
from differnet_ray.results.runs import run_uri, staging
from differnet_ray.storage.files import read_bytes, write_bytes
from differnet_ray.storage.locations import join

DAYS = 40


def aged(output: str, *names: str, days: float = DAYS) -> None:
    """Makes files below the output as old as that."""
    root = Path(output.removeprefix("file://"))
    then = time.time() - days * 24 * 3600
    for name in names:
        found = [path for path in root.glob(name) if path.is_file()]
        assert found, name
        for path in found:
            os.utime(path, (then, then))


def found_in(output: str, keep_days: int = 30) -> set[tuple[str, str]]:
    return {(found.kind, found.uri.removeprefix(join(output, ""))) for found in leftovers(output, keep_days)}


@pytest.fixture
def results(output: str) -> str:
    """Results of two runs, of which one has lost its rows to the other; staged work; a page; and a cached index."""
    published_run(output, a_run(run_id="lost"))
    published_run(output, a_run(run_id="kept"))
    stage(output, killed := a_run(run_id="killed"), scored(manifest_of(["screw"]), killed))
    for name in ("_index/0123.parquet", "reports/kept.html", "reports/notes.txt", "audit/ledger/0-1.parquet"):
        write_bytes(join(output, name), b"content")
    return output


def test_young_things_stay_and_old_ones_are_named(results: str) -> None:
    assert found_in(results) == set()
    assert found_in(results, 1) == set()
    aged(results, "**/*")
    expected = {
        ("staged work", "_staging/killed"),
        ("index cache", "_index/0123.parquet"),
        ("page", "reports/kept.html"),
        ("run without rows", "runs/lost.json"),
    }
    assert found_in(results) == expected
    aged(results, "_staging/killed/rows/0.parquet", days=1)  # one file of it is young
    assert found_in(results) == expected - {("staged work", "_staging/killed")}
    aged(results, "_staging/killed/rows/0.parquet")
    write_bytes(staging(results, a_run(run_id="killed")) + ".lease.json", b"{}")  # who holds it renews it
    assert found_in(results) == expected - {("staged work", "_staging/killed")}


def test_the_run_that_rows_were_decided_from_is_kept(results: str) -> None:
    uri = run_uri(results, a_run(run_id="kept"))
    record = json.loads(read_bytes(uri))
    record["options"]["redecided"] = json.dumps({"screw": {"from": {"lost": 9}}})
    write_bytes(uri, json.dumps(record).encode())
    aged(results, "**/*")
    assert not [name for kind, name in found_in(results) if kind == "run without rows"]


def test_an_unfinished_publication_is_left_to_the_next_one(results: str) -> None:
    write_bytes(staging(results, a_run(run_id="killed"), "publishing"), b"2026-01-31")
    aged(results, "**/*")
    assert not [name for kind, name in found_in(results) if kind == "staged work"]


def test_the_command_removes_only_when_it_is_told_to(results: str) -> None:
    aged(results, "**/*")
    before = files(results)
    named = json_of(run("tidy", "--output", results, "--keep", 30, "--json"))
    assert [row["removed"] for row in named] == [False] * 4
    assert "4 found" in run("tidy", "--output", results, "--keep", 30).stdout
    assert files(results) == before
    assert "removed 4 of 4" in run("tidy", "--output", results, "--keep", 30, "--delete").stdout
    gone = before.keys() - files(results).keys()
    assert {name.split("/")[0] for name in gone} == {"_staging", "_index", "reports", "runs"}
    assert {name: content for name, content in before.items() if name not in gone} == files(results)
    assert "0 found" in run("tidy", "--output", results, "--keep", 30).stdout


@pytest.fixture
def upload(bucket: str) -> Iterator[tuple[str, str]]:
    """URI and id of an upload in parts that was begun."""
    filesystem = S3FileSystem(client_kwargs={"region_name": os.environ["AWS_REGION"]})
    key = "results/scores/part.parquet"

    def call(method: str, **arguments: str) -> dict[str, str]:
        found: dict[str, str] = sync(filesystem.loop, filesystem._call_s3, method, Bucket=bucket[5:], Key=key, **arguments)
        return found

    upload_id = call("create_multipart_upload")["UploadId"]
    yield f"{bucket}/{key}", upload_id
    call("abort_multipart_upload", UploadId=upload_id)


def test_open_uploads_are_named_and_left_to_the_store(bucket: str, upload: tuple[str, str]) -> None:
    write_bytes(f"{bucket}/results/reports/page.html", b"young")
    everything = -1  # the store's clock may be ahead of ours
    _, found = leftovers(f"{bucket}/results", everything)
    assert found == Leftover("open upload", upload[0], 0, found.days, upload[1])
    assert not remove(found)
    assert [left.kind for left in leftovers(f"{bucket}/results", everything)] == ["page", "open upload"]
    assert leftovers(f"{bucket}/results", 1) == []

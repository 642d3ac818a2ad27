"""What lies beside the results for longer than it is of use: staged work, the index cache, pages, files of runs without rows.

Published rows are never touched, nor a run file that one of them names, nor the ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from differnet_ray.results.publish import PUBLISHING
from differnet_ray.results.runs import RUNS_FOLDER, STAGING_FOLDER, run_of
from differnet_ray.storage.files import StoredFile, delete, list_files, open_uploads, read_bytes
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import SCORES

Kind = Literal["staged work", "index cache", "page", "run without rows", "open upload"]
SECONDS_PER_DAY = 24 * 3600
INDEX, REPORTS = "_index", "reports"
NIGHT_INDEX = "index.html"  # of the pages: it is kept up, however long ago a night was


@dataclass(frozen=True)
class Leftover:
    """Something that is old.

    Attributes:
        kind: what it is.
        uri: of the file or folder.
        n_bytes: in it; unknown, 0, of an upload.
        days: since it was last written to.
        upload_id: of an upload, which is for the store's own tools to end.
    """

    kind: Kind
    uri: str
    n_bytes: int
    days: float
    upload_id: str | None = None


def leftovers(output: str, keep_days: int, reports: str | None = None) -> list[Leftover]:
    """Finds what has not been written to for so many days.

    Args:
        output: canonical URI of the results.
        keep_days: younger things stay.
        reports: canonical URI of the folder of the pages; None: OUTPUT/reports.
    """
    now = time.time()

    def old(kind: Kind, uri: str, files: list[StoredFile], upload: str | None = None) -> Iterator[Leftover]:
        days = (now - max(file.modified for file in files)) / SECONDS_PER_DAY
        if days >= keep_days:
            yield Leftover(kind, uri, sum(file.size for file in files), round(days, 1), upload)

    found: list[Leftover] = []
    for name, files in _staged(output).items():
        if not any(name_of(file.uri) == PUBLISHING for file in files):  # the next publication puts that right
            found += old("staged work", join(output, STAGING_FOLDER, name), files)
    for file in _files(join(output, INDEX)):
        found += old("index cache", file.uri, [file])
    for file in _files(reports or join(output, REPORTS)):
        if file.uri.endswith(".html") and name_of(file.uri) != NIGHT_INDEX:
            found += old("page", file.uri, [file])
    run_files = _files(join(output, RUNS_FOLDER))
    if run_files:
        with_rows = _runs_with_rows(output)
        for file in run_files:
            if _run_of_file(file.uri) not in with_rows:
                found += old("run without rows", file.uri, [file])
    for upload in open_uploads(output):
        found += old("open upload", upload.uri, [upload], upload.etag)
    return found


def remove(found: Leftover) -> bool:
    """Removes it, unless it is an upload; returns whether it did."""
    if found.kind == "open upload":
        return False
    delete(found.uri)
    return True


def _staged(output: str) -> dict[str, list[StoredFile]]:
    """What lies in the staging folder: run id, or name of a lease, to files. A run that is at work renews its lease."""
    root = join(output, STAGING_FOLDER, "")
    by_name: dict[str, list[StoredFile]] = {}
    for file in _files(join(output, STAGING_FOLDER)):
        by_name.setdefault(file.uri.removeprefix(root).split("/")[0], []).append(file)
    for name, files in by_name.items():
        files += by_name.get(f"{name}.lease.json", [])
    return by_name


def _runs_with_rows(output: str) -> set[str]:
    """The runs that published rows are of, and those that these were decided from."""
    waiting = {run_of(file.uri) for file in _files(join(output, SCORES.name)) if file.uri.endswith(".parquet")}
    runs = set[str]()
    while waiting:
        runs.add(run_id := waiting.pop())
        with suppress(FileNotFoundError):
            options = json.loads(read_bytes(join(output, RUNS_FOLDER, f"{run_id}.json")))["options"]
            for decided in json.loads(options.get("redecided", "{}")).values():
                waiting |= decided["from"].keys() - runs
    return runs


def _run_of_file(uri: str) -> str:
    return name_of(uri).removesuffix(".json").removesuffix(".no-category.csv")


def _files(uri: str) -> list[StoredFile]:
    try:
        return list(list_files(uri))
    except FileNotFoundError:
        return []

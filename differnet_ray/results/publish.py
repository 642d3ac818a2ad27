"""Publishing a scoring run: staged rows are checked against the manifest, sorted and made visible, category by category.

    staging/RUN_ID/{manifest,rows} -> check each category -> write each category -> run file -> remove what was replaced

Readers see all images of a (dt, category) at any time: files that are replaced go last, by a list that a repeat goes on with.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Any

from differnet_ray.errors import LeaseError, ReconciliationError, StorageError, TableError
from differnet_ray.results.runs import (
    RUNS_FOLDER,
    STAGING_FOLDER,
    UNPLACED,
    Run,
    no_category_uri,
    partition,
    run_of,
    run_uri,
    staging,
)
from differnet_ray.results.staged_run import Checked, StagedRun
from differnet_ray.storage.files import StoredFile, delete, exists, list_files, list_folders, read_bytes, write_bytes
from differnet_ray.storage.lease import lease
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import MAPS, RUNS, SCORES

REPLACED = "replaced.json"
PATIENCE, SECONDS_BETWEEN_LOOKS = 600.0, 2.0  # with another publication of the day

Each = Callable[[Callable[[str], Any], Iterable[str]], Iterable[Any]]
"""`map`, or what does the same elsewhere and side by side."""


def publish(output: str, run: Run, libraries: Mapping[str, str], each: Each = map) -> dict[str, Any]:
    """Checks staged rows against the staged manifest and makes them visible.

    Killed at any moment, it is put right by a repeat; if that was after the run file, by `finish_publishing`.

    Args:
        output: canonical URI of the results.
        run: whose manifest and rows lie in its staging folder.
        libraries: versions, for the run file.
        each: works on the categories.

    Returns:
        The content of runs/RUN_ID.json.

    Raises:
        ReconciliationError: an image has no row, or a row has no image; nothing is published.
    """
    staged = StagedRun.of(output, run)
    checked = dict(zip(staged.categories, each(staged.check, staged.categories), strict=True))
    _reconcile(checked.values(), run)

    def write() -> tuple[set[str], dict[str, Any]]:
        written = {uri for uris in each(staged.write, staged.categories) for uri in uris}
        with suppress(FileNotFoundError):  # none, or none were there when the manifest was staged
            unplaced = read_bytes(f"{staging(output, run, 'manifest')}.{UNPLACED}")
            write_bytes(no_category_uri(output, run.run_id), unplaced)
        counts = {category: of_category.counts for category, of_category in checked.items()}
        return written, run_record_of(run, counts, sum(of_category.n_maps for of_category in checked.values()), libraries)

    with publishing(output, run.dt):
        return replace_partitions(output, run, staged.categories, write)


@contextmanager
def publishing(output: str, dt: date) -> Iterator[None]:
    """Waits for other publications of the same day, and keeps others waiting while the block runs.

    Raises:
        LeaseError: another one takes longer than `PATIENCE` seconds.
    """
    end = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lease(join(output, STAGING_FOLDER, f"dt={dt}.lease.json")))
                break
            except LeaseError:
                if time.monotonic() > end:
                    raise
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def replace_partitions(
    output: str, run: Run, categories: Iterable[str], write: Callable[[], tuple[set[str], dict[str, Any]]]
) -> dict[str, Any]:
    """Puts files in the place of those of some partitions: new files first, then the run file, then removal of the old ones.

    To be called within `publishing`. What fails before the run file takes its new files back. Whether a run file is there whose
    writing was interrupted cannot be known: then old and new files stay, and a repeat puts that right.

    Args:
        output: canonical URI of the results.
        run: that the files belong to.
        categories: with the day of the run, the partitions.
        write: writes the new files; returns their URIs and the content of the run file.

    Returns:
        The content of the run file.
    """
    folders = {partition(output, table, run.dt, category) for category in categories for table in (SCORES, MAPS)}
    before = _files_in(output, run.dt, folders)

    def take_back() -> None:  # readers must not find an image twice
        for uri in _files_in(output, run.dt, folders).keys() - before.keys():
            if run_of(uri) == run.run_id:
                delete(uri)

    try:
        written, record = write()
        replaced = {file.uri: file.etag for file in before.values() if file.uri not in written}
        write_bytes(staging(output, run, REPLACED), json.dumps(replaced).encode())
    except BaseException:
        take_back()
        raise
    try:
        write_bytes(run_uri(output, run), (json.dumps(record, indent=2) + "\n").encode())
    except StorageError:
        if not exists(run_uri(output, run)):
            take_back()
        raise
    finish_publishing(output, run.run_id)
    return record


def finish_publishing(output: str, run_id: str) -> None:
    """Once the run file is there: removes the files that its rows replaced, and what was staged, if that is not done yet.

    Only the very files are removed that stood there then: a later run may have published others under their names.
    """
    folder = join(output, STAGING_FOLDER, run_id)
    try:
        replaced = json.loads(read_bytes(join(folder, REPLACED)))
    except FileNotFoundError:
        return
    for uri, etag in replaced.items():
        with suppress(FileNotFoundError):
            if [file.etag for file in list_files(uri)] == [etag]:
                delete(uri)
    for part in ("manifest", "rows", "done"):  # the list goes last, by which a repeat goes on
        delete(join(folder, part))
    delete(folder)


def finish_all(output: str) -> None:
    """Finishes the publications that were killed when their run file was there already."""
    for run_id in list_folders(join(output, STAGING_FOLDER)):
        if exists(join(output, RUNS_FOLDER, f"{run_id}.json")):
            finish_publishing(output, run_id)


def _reconcile(checked: Iterable[Checked], run: Run) -> None:
    checked = list(checked)
    n_images, lost, unknown, undecided = (
        sum(getattr(of_category, name) for of_category in checked) for name in ("n_images", "lost", "unknown", "undecided")
    )
    if lost or unknown or undecided:
        raise ReconciliationError(
            f"run {run.run_id} does not reconcile and was not published: of {n_images} images {lost} have no row, "
            f"{unknown} rows have no image, {undecided} have no known status; --no-resume scores all of them again"
        )


def _files_in(output: str, dt: date, folders: Container[str]) -> dict[str, StoredFile]:
    """What is published now in some partitions of a day, by URI."""
    found = {}
    for table in (SCORES, MAPS):
        with suppress(FileNotFoundError):
            for file in list_files(join(output, table.name, f"dt={dt}")):
                if file.uri.removesuffix("/" + name_of(file.uri)) in folders and file.uri.endswith(".parquet"):
                    found[file.uri] = file
    return found


def run_record_of(
    run: Run, counts: Mapping[str, Mapping[str, int]], n_maps: int, libraries: Mapping[str, str]
) -> dict[str, Any]:
    """The content of a run file.

    Args:
        run: what it is.
        counts: category to status to rows.
        n_maps: rows with a gradient map.
        libraries: versions.
    """
    by_status = sum(map(Counter, counts.values()), Counter[str]())
    record = {
        "schema_version": RUNS.version,
        "run_id": run.run_id,
        "dt": str(run.dt),
        "fingerprint": run.fingerprint,
        "listing_digest": run.listing_digest,
        "options": dict(run.options),
        "models": {category: version for category, (version, _) in run.models.items()},
        "model_digests": {category: digest for category, (_, digest) in run.models.items()},
        "libraries": dict(libraries),
        "n_images": by_status.total(),
        "skipped": dict(run.skipped),
        "counts": dict(by_status),
        "category_counts": {category: dict(of_category) for category, of_category in counts.items()},
        "n_maps": n_maps,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if list(record) != RUNS.schema.names:
        raise TableError(f"the run file has the keys {list(record)}, expected {RUNS.schema.names}")
    return record

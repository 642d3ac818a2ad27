"""Publishing a scoring run: staged rows are checked against the manifest, sorted and made visible, category by category.

    staging/RUN_ID/{manifest,rows} -> check each category -> write each category -> run file -> take out what was replaced

A day's table is the union of its runs; of an image, the newest row holds. Readers see all images of a day at any time: rows
that are replaced go last, by a list that a repeat, or the next publication of the day, goes on with.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from differnet_ray.errors import LeaseError, ReconciliationError, StorageError, TableError
from differnet_ray.results.replaced import Replaced, overlapping, take_out, whole
from differnet_ray.results.runs import (
    RUNS_FOLDER,
    STAGING_FOLDER,
    UNPLACED,
    Run,
    no_category_uri,
    published,
    run_of,
    run_uri,
    staging,
)
from differnet_ray.results.staged_run import Checked, StagedRun
from differnet_ray.storage.files import StoredFile, delete, exists, list_files, list_folders, read_bytes, write_bytes
from differnet_ray.storage.lease import lease
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import MAPS, RUNS, SCORES

PUBLISHING, REPLACED = "publishing", "replaced.json"  # in the staging folder: the day; the files that lose rows
PATIENCE, SECONDS_BETWEEN_LOOKS = 600.0, 2.0  # with another publication of the day

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or what does the same elsewhere and side by side."""


def publish(
    output: str, run: Run, libraries: Mapping[str, str], each: Each = map, *, replace_day: bool = False
) -> dict[str, Any]:
    """Checks staged rows against the staged manifest and makes them visible.

    Killed at any moment, it is put right by a repeat, or by the next publication of the day.

    Args:
        output: canonical URI of the results.
        run: whose manifest and rows lie in its staging folder.
        libraries: versions, for the run file.
        each: works on the categories.
        replace_day: remove all rows of other runs from the day, also of other images.

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
        return add_files(output, run, write, each, replace_day=replace_day)


def publish_alone(output: str, run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Removes all rows of other runs from the day of a run that is published already.

    Args:
        output: canonical URI of the results.
        run: the published run.
        record: the content of its file.

    Returns:
        The new content of its file.
    """
    with publishing(output, run.dt):
        mine = {uri for uri in _files_of_day(output, run.dt) if run_of(uri) == run.run_id}
        return add_files(output, run, lambda: (mine, record | {"finished_at": _now()}), replace_day=True)


@contextmanager
def publishing(output: str, dt: date) -> Iterator[None]:
    """Waits for other publications of the same day, and keeps others waiting while the block runs.

    First it puts right what publications of the day left that were killed: one that had its run file is finished, and the
    files of another go, since its staged rows are still there.

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
        for run_id in list_folders(join(output, STAGING_FOLDER)):
            with suppress(FileNotFoundError):
                if read_bytes(join(output, STAGING_FOLDER, run_id, PUBLISHING)).decode() == str(dt):
                    _put_right(output, dt, run_id)
        yield


def _put_right(output: str, dt: date, run_id: str) -> None:
    if exists(join(output, RUNS_FOLDER, f"{run_id}.json")):
        _finish(output, run_id)
    else:
        for uri in _files_of_day(output, dt):
            if run_of(uri) == run_id:
                delete(uri)


def add_files(
    output: str, run: Run, write: Callable[[], tuple[set[str], dict[str, Any]]], each: Each = map, *, replace_day: bool = False
) -> dict[str, Any]:
    """Adds the files of a run to its day: new files first, then the run file, then other runs lose the rows of its images.

    To be called within `publishing`. What fails before the run file takes its new files back. Whether a run file is there whose
    writing was interrupted cannot be known: then old and new files stay, and a repeat puts that right.

    Args:
        output: canonical URI of the results.
        run: that the files belong to.
        write: writes the new files; returns their URIs and the content of the run file.
        each: works on the partitions.
        replace_day: other runs lose all rows of the day.

    Returns:
        The content of the run file.
    """
    mark = staging(output, run, PUBLISHING)
    before, earlier = _files_of_day(output, run.dt), published(output, run)

    def take_back() -> None:  # readers must not find an image twice
        for uri in _files_of_day(output, run.dt).keys() - before.keys():
            if run_of(uri) == run.run_id:
                delete(uri)
        delete(mark)

    write_bytes(mark, str(run.dt).encode())
    try:
        written, record = write()
        older = [file for uri, file in before.items() if uri not in written]
        replaced = _replaced(output, run, older, written, each, replace_day)
        record["replaced"] = _lost(output, run, replaced, earlier)
        plan = {"written": sorted(written), "files": [asdict(file) for file in replaced]}
        write_bytes(staging(output, run, REPLACED), json.dumps(plan).encode())
    except BaseException:
        take_back()
        raise
    try:
        write_bytes(run_uri(output, run), (json.dumps(record, indent=2) + "\n").encode())
    except StorageError:
        if not exists(run_uri(output, run)):
            take_back()
        raise
    _finish(output, run.run_id, each)
    return record


def _replaced(
    output: str, run: Run, older: Sequence[StoredFile], written: Collection[str], each: Each, replace_day: bool
) -> list[Replaced]:
    """Which older files of the day lose rows: those of the run itself, and on demand all others, lose all."""
    emptied: list[StoredFile] = []
    others: dict[str, list[StoredFile]] = {}
    for file in older:
        loses_all = replace_day or run_of(file.uri) == run.run_id
        (emptied if loses_all else others.setdefault(_folder(file.uri), [])).append(file)
    newer = _images_of(output, written)
    work = [(files, newer[folder]) for folder, files in others.items() if folder in newer]
    found = [replaced for of_folder in each(_overlapping, work) for replaced in of_folder]
    return [*map(whole, emptied), *found]


def _overlapping(work: tuple[Sequence[StoredFile], Sequence[str]]) -> list[Replaced]:
    return overlapping(*work)


def _lost(output: str, run: Run, replaced: Iterable[Replaced], earlier: Mapping[str, Any] | None) -> dict[str, int]:
    """Other runs, and how many rows each has lost to this one, in this publication and in an earlier one of the same."""
    lost = Counter[str]()
    for file in replaced:
        if file.uri.startswith(join(output, SCORES.name, "")) and run_of(file.uri) != run.run_id:
            lost[run_of(file.uri)] += file.n_rows
    for run_id, n_rows in (earlier or {}).get("replaced", {}).items():
        with suppress(FileNotFoundError):
            other = json.loads(read_bytes(join(output, RUNS_FOLDER, f"{run_id}.json")))
            if earlier and other["finished_at"] < earlier["finished_at"]:  # else it has all its rows again
                lost[run_id] += n_rows
    return dict(sorted(lost.items()))


def _images_of(output: str, written: Iterable[str]) -> dict[str, list[str]]:
    """For each folder of `scores` and `maps`, the files of a run that say which images are newer than those in it."""
    newer: dict[str, list[str]] = {}
    for uri in written:
        if uri.startswith(scores := join(output, SCORES.name, "")):
            for table in (SCORES, MAPS):
                newer.setdefault(join(output, table.name, _folder(uri).removeprefix(scores)), []).append(uri)
    return newer


def _finish(output: str, run_id: str, each: Each = map) -> None:
    """Once the run file is there: takes out of other files what its rows replaced, and removes what was staged.

    Only the very files lose rows that stood there then: what was done before a kill is not done again.
    """
    folder = join(output, STAGING_FOLDER, run_id)
    with suppress(FileNotFoundError):
        plan = json.loads(read_bytes(join(folder, REPLACED)))
        newer = _images_of(output, plan["written"])
        replaced = [Replaced(**file) for file in plan["files"]]
        list(each(partial(_take_out, newer), replaced))
        for part in ("manifest", "rows", "done"):  # the list goes last, by which a repeat goes on
            delete(join(folder, part))
        delete(folder)


def _take_out(newer: Mapping[str, Sequence[str]], replaced: Replaced) -> None:
    take_out(replaced, newer.get(_folder(replaced.uri), ()))


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


def _files_of_day(output: str, dt: date) -> dict[str, StoredFile]:
    """What is published now of a day, by URI."""
    found = {}
    for table in (SCORES, MAPS):
        with suppress(FileNotFoundError):
            for file in list_files(join(output, table.name, f"dt={dt}")):
                if file.uri.endswith(".parquet"):
                    found[file.uri] = file
    return found


def _folder(uri: str) -> str:
    return uri.removesuffix("/" + name_of(uri))


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
        "replaced": {},
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": _now(),
    }
    if list(record) != RUNS.schema.names:
        raise TableError(f"the run file has the keys {list(record)}, expected {RUNS.schema.names}")
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

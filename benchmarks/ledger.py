"""The ledger's part of an audit: a listing compared, its new images staged, the ledger updated; time and memory.

    python -m benchmarks.ledger [LISTED] [NEW]

The first night takes all images, the second lists them again with some new ones, the third finds nothing new. Each is a process
of its own, whose memory is shown with the listing alone, which stays in Ray's object store in an audit, and at its largest.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.archives.index import image_id
from differnet_ray.results.ledger import Ledger, compare, read_ledger, write_ledger
from differnet_ray.results.runs import write_manifest
from differnet_ray.storage.locations import canonical, join
from differnet_ray.tables import MANIFEST

FIRST, CATEGORIES, ROWS_AT_ONCE = date(2026, 1, 31), 20, 100_000
ARCHIVE = "s3://plant/archive"


def main(n_listed: int, n_new: int) -> None:
    """Prints Markdown."""
    columns = ("night", "listed", "to score", "seconds", "ledger", "memory with the listing", "at its largest")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        nights = (("first", n_listed - n_new), ("second", n_listed), ("third", n_listed))
        for number, (name, n) in enumerate(nights):
            _write_listing(Path(folder, "listing.parquet"), n)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                taken, seconds, before, peak = pool.apply(_night, (folder, FIRST + timedelta(days=number)))
            size = sum(path.stat().st_size for path in Path(folder, "out", "audit", "ledger").iterdir()) / 2**20
            row = (name, f"{n:,}", f"{taken:,}", f"{seconds:.1f}", f"{size:.0f} MiB", f"{before:.0f} MiB", f"{peak:.0f} MiB")
            print(f"| {' | '.join(row)} |", flush=True)


def _write_listing(path: Path, n: int) -> None:
    """Loose files in S3, each with an MD5 for its etag, as the manifest has them."""
    with pq.ParquetWriter(path, MANIFEST.schema) as writer:
        for start in range(0, n, ROWS_AT_ONCE):
            numbers = range(start, min(start + ROWS_AT_ONCE, n))
            uris = [f"{ARCHIVE}/line{k % 7}/2026-01-31/category{k % CATEGORIES:02d}/{k:09d}.jpg" for k in numbers]
            count, none = len(uris), pa.nulls
            columns = {
                "image_id": [image_id(uri) for uri in uris],
                "uri": uris,
                "member": none(count, pa.string()),
                "category": [f"category{k % CATEGORIES:02d}" for k in numbers],
                "offset": none(count, pa.int64()),
                "size": pa.array(numbers, pa.int64()),
                "etag": [image_id(uri, "etag") for uri in uris],
                "captured_at": none(count, MANIFEST.schema.field("captured_at").type),
                "attributes": pa.array(
                    [[("date", "2026-01-31"), ("line", f"line{k % 7}")] for k in numbers],
                    MANIFEST.schema.field("attributes").type,
                ),
            }
            writer.write_table(pa.table(columns, schema=MANIFEST.schema))


def _night(folder: str, dt: date) -> tuple[int, float, float, float]:
    """Audits without scoring; returns images to score, seconds, and MiB with the listing alone and at most."""
    output = canonical(f"{folder}/out")
    listing = pq.read_table(f"{folder}/listing.parquet")
    before, began = _peak(), time.monotonic()
    ledger = read_ledger(output)
    found, taken = compare(output, ledger, listing, dt=dt, inputs=[ARCHIVE])
    write_manifest(join(output, "audit", "plan", "manifest"), taken)
    write_ledger(output, Ledger(str(dt), dt, (ARCHIVE,), found.files, found.n_images))
    return taken.num_rows, time.monotonic() - began, before, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3] or ("1000000", "10000")))

"""The manifest of an imaginary plant, and the rows that a scoring run over it stages: shared by the tests of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.archives.index import image_id
from differnet_ray.results.publish import publish
from differnet_ray.results.runs import Run, plan_run, staging, write_manifest
from differnet_ray.table_contract import Table
from differnet_ray.tables import MANIFEST, SCORED_STATUSES, STAGED, STATUSES, conform

DAY = date(2026, 1, 31)
MAP_SHAPE = (4, 6)
LIBRARIES = {"differnet-ray": "0.1.0", "torch": "2.11"}
# Category names that a Hive-style path has to escape, or that a reader could take for something else.
CATEGORIES = ("screw", "Größe 漢", "100% wool", 'it\'s "quoted"', "a+b&c#?*[x]", "a%20b", "0042")


def manifest_of(categories: Sequence[str] = CATEGORIES, per_category: int = 9, bucket: str = "plant") -> pa.Table:
    """Returns manifest rows; some have a capture time, which falls along the manifest, some lie in archives."""
    rows = []
    for category in sorted(categories):
        for n in range(per_category):
            uri, member = (
                (f"s3://{bucket}/{category}/{n}.png", None) if n % 3 else (f"s3://{bucket}/{category}.tar", f"{n}.png")
            )
            taken = datetime(2026, 1, 30, tzinfo=UTC) - timedelta(hours=n)
            rows.append(
                {
                    "image_id": image_id(uri, member),
                    "uri": uri,
                    "member": member,
                    "category": category,
                    "offset": None if member is None else 512 * n,
                    "size": 1000 + n,
                    "etag": f"etag-{n}",
                    "captured_at": taken if n % 2 else None,
                    "attributes": [("defect", "scratch"), ("line", f"{n} 'a'")],
                }
            )
    return conform(pa.Table.from_pylist(rows, schema=MANIFEST.schema), MANIFEST.schema)


def a_run(*, listing_digest: str = "listing", dt: date = DAY, run_id: str | None = None, **options: str) -> Run:
    """Returns the identity of a run over two models."""
    models = {"screw": ("20260101T000000Z-aaaaaaaa", "a" * 64), "100% wool": ("20260102T000000Z-bbbbbbbb", "b" * 64)}
    return plan_run(dt=dt, listing_digest=listing_digest, models=models, options={"maps": "flagged"} | options, run_id=run_id)


def scored(manifest: pa.Table, run: Run, statuses: Sequence[str] = STATUSES, scale: float = 1.0) -> pa.Table:
    """Returns one staged row for each image, statuses in turn; anomalous ones have a map, unscored ones an error."""
    rows = [
        _staged(image, run, status=statuses[n % len(statuses)], score=scale * (0.5 + n))
        for n, image in enumerate(manifest.to_pylist())
    ]
    return conform(pa.Table.from_pylist(rows, schema=STAGED), STAGED)


def map_of(name: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Returns the gradient map that `scored` gives to an image, (4, 6) float16."""
    return np.random.default_rng(int(name[:8], 16)).standard_normal(MAP_SHAPE).astype("<f2")


def _staged(image: Mapping[str, Any], run: Run, *, status: str, score: float) -> dict[str, Any]:
    row: dict[str, Any] = {name: image[name] for name in image if name not in ("offset", "size")}
    row |= {"dt": run.dt, "run_id": run.run_id, "scored_by": run.run_id, "status": status, "bytes": image["size"]}
    if status not in SCORED_STATUSES:
        return row | {"error": f"{status}: told why"}
    row |= {
        "anomaly_score": score,
        "score_std": score / 10,
        "n_transforms": 64,
        "threshold": 2.0,
        "review_threshold": 1.5,
        "p_value": 0.25,
        "width": 640,
        "height": 480,
        "model_version": "20260101T000000Z-aaaaaaaa",
        "model_digest": "a" * 64,
        "scored_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    }
    if status != "anomalous":
        return row
    height, width = MAP_SHAPE
    row |= {"peak_x": 0.5, "peak_y": 0.25, "area_fraction": 0.125, "map_height": height, "map_width": width}
    return row | {"gradient_map": map_of(image["image_id"]).tobytes()}


def stage(output: str, run: Run, rows: pa.Table, n_files: int = 3) -> None:
    """Writes rows to the staging folder of a run, as the scoring job does: in several files of any order."""
    folder = Path(staging(output, run, "rows").removeprefix("file://"))
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-rows.num_rows // n_files) or 1
    for part in range(n_files):
        pq.write_table(rows.slice(part * size, size), folder / f"{part}.parquet")


SMALL = manifest_of(("100% wool", "screw"))


def published_run(
    output: str, run: Run, manifest: pa.Table | None = None, *, replace_day: bool = False, **how: Any
) -> dict[str, Any]:
    """Stages one row for each image of the manifest and publishes them; returns the record of the run."""
    manifest = SMALL if manifest is None else manifest
    stage(output, run, scored(manifest, run, **how))
    return publish_staged(output, run, manifest, replace_day=replace_day)


def publish_staged(output: str, run: Run, manifest: pa.Table = SMALL, *, replace_day: bool = False) -> dict[str, Any]:
    """Publishes what has been staged as the rows of a manifest."""
    write_manifest(staging(output, run, "manifest"), manifest)
    return publish(output, run, LIBRARIES, replace_day=replace_day)


def files(output: str, *parts: str) -> dict[str, tuple[int, bytes]]:
    """Returns every file below a folder of the output: path -> (modification time, content)."""
    root = Path(output.removeprefix("file://"), *parts)
    found = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def parquet(output: str, table: Table, category: str = "screw") -> Path:
    """Returns the only file of a partition."""
    (path,) = Path(output.removeprefix("file://"), table.name, f"dt={DAY}", f"category={category}").iterdir()
    return path


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Returns image id -> row."""
    return {row["image_id"]: row for row in table.to_pylist()}


def parquet_files(output: str, table: Table) -> list[Path]:
    """Returns all files of a table."""
    return list(Path(output.removeprefix("file://"), table.name).rglob("*.parquet"))

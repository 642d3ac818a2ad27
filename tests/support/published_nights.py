"""Nights of an imaginary plant: rows of images of which only scores and parts matter, published."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
from staged_runs import a_run, publish_staged, stage

from differnet_ray.archives.index import image_id
from differnet_ray.tables import MANIFEST, STAGED, conform


def an_image(uri: str, score: float | None = 1.0, *, member: str | None = None, **changes: Any) -> dict[str, Any]:
    """A row of the screws; without a score it is unreadable."""
    row: dict[str, Any] = {"image_id": image_id(uri, member), "uri": uri, "member": member, "category": "screw"}
    row |= {"anomaly_score": score, "status": "ok" if score is not None else "unreadable"}
    row |= {"error": None if score is not None else "cut off", "attributes": []}
    return row | changes


def publish_night(output: str, dt: date, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Publishes rows of a night; returns the record of the run."""
    run = a_run(listing_digest=f"{dt} {len(rows)}", dt=dt)
    staged = [{"dt": dt, "run_id": run.run_id} | row for row in rows]
    stage(output, run, conform(pa.Table.from_pylist(staged, schema=STAGED), STAGED))
    manifest = [{name: row.get(name) for name in MANIFEST.schema.names} for row in rows]
    return publish_staged(output, run, conform(pa.Table.from_pylist(manifest, schema=MANIFEST.schema), MANIFEST.schema))

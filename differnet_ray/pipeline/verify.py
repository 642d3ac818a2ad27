"""BRIDGE: published rows computed again from their images, and compared.

A row is right if the image gives its status, or its score within a tolerance, and if the score and its thresholds give its
status. Maps are not computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.config import Recipe
from differnet_ray.errors import ConfigError
from differnet_ray.pipeline.stages import ScoreImages, best_device
from differnet_ray.results.runs import open_table
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import MANIFEST, SCORES, conform, status_of

ROWS_AT_ONCE = 16
_SCORED_BY = ("category", "model_version", "n_transforms")
PASSING = ("missing", "failed")  # statuses that the image alone does not give


@dataclass(frozen=True)
class Comparison:
    """A published row and what its image gives now.

    Attributes:
        image_id, category, name: of the image; the name as people know it.
        difference: of the scores, relative; None where one of them has none.
        wrong: what does not match, for people; empty where all does.
        gone: the image is not there, is another one or could not be read, now or then: nothing can be said.
    """

    image_id: str
    category: str
    name: str
    difference: float | None
    wrong: str
    gone: bool = False


@dataclass(frozen=True)
class Expected:
    """What stands in rows that a model scored.

    Attributes:
        digest: of the model.
        limits: pairs of threshold and review threshold, one of which decided a row.
    """

    digest: str | None
    limits: Sequence[tuple[float, float]]


def verify(
    output: str, models: str, record: Mapping[str, Any], *, sample: int, seed: int, tolerance: float
) -> Iterator[Comparison]:
    """Computes rows of a run again, drawn at random.

    Args:
        output: canonical URI of the results.
        models: canonical URI of the model store.
        record: content of the run file.
        sample: how many rows; all if there are fewer.
        seed: of the draw.
        tolerance: largest relative difference of scores.

    Raises:
        ConfigError: no row of the run is published any more.
        ModelStoreError: a model that scored is gone or damaged.
    """
    rows = _drawn(output, record, sample, seed)
    decided = json.loads(record["options"].get("redecided", "{}"))
    device, store = best_device(), ModelStore(models)
    torch.set_num_threads(1)  # images side by side, each by one thread, as when they were scored
    threads = 1 if device == "cuda" else os.cpu_count() or 1
    for (category, version, n_transforms), some in groupby(rows, lambda row: tuple(row[name] for name in _SCORED_BY)):
        version = version or record["models"].get(category)
        model = store.record(category, version) if version else None
        limits = [of for of in decided.get(category, {}).get("decided", ()) if of["model_version"] == version]
        expected = Expected(
            digest=model["digest"] if model else None,
            limits=[_limits(of) for of in limits or ([model["decision"]] if model else [])],
        )
        score = ScoreImages(
            models=models,
            versions={category: version} if version else {},
            n_transforms=None if model is None or model["recipe"]["transforms"]["pooled"] else n_transforms,
            maps="none",
            dt=date.fromisoformat(record["dt"]),
            run_id=record["run_id"],
            device=device,
            threads=threads,
        )
        fetch = FetchImages({category: Recipe.from_dict(model["recipe"]).image_form} if model else {})
        group = list(some)
        for start in range(0, len(group), ROWS_AT_ONCE):
            published = group[start : start + ROWS_AT_ONCE]
            again = score(fetch(_images(published))).to_pylist()
            for row, found in zip(published, again, strict=True):
                yield _compare(row, found, expected, tolerance)


def _drawn(output: str, record: Mapping[str, Any], sample: int, seed: int) -> list[dict[str, Any]]:
    """Rows of a run, each as likely as another, sorted by what scored them and where they lie."""
    published = open_table(output, SCORES, dt=date.fromisoformat(record["dt"]))
    of_run = published.filter(pc.field("run_id") == record["run_id"])
    n = of_run.count_rows()
    if n == 0:
        raise ConfigError(f"no row of run {record['run_id']} is published any more: another run has replaced it")
    wanted = np.sort(np.random.default_rng(seed).choice(n, min(sample, n), replace=False))
    found, first = [], 0
    for batch in of_run.scanner(batch_readahead=2, fragment_readahead=2).to_batches():
        here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
        found += batch.take(pa.array(here)).to_pylist()
        first += batch.num_rows
    return sorted(found, key=lambda row: [str(row[name]) for name in (*_SCORED_BY, "uri", "member")])


def _images(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Manifest rows of published ones: the place inside an archive is found by the member's name."""
    images = [{**row, "size": row["bytes"], "offset": None} for row in rows]
    return conform(pa.Table.from_pylist(images, schema=MANIFEST.schema), MANIFEST.schema)


def _compare(row: Mapping[str, Any], found: Mapping[str, Any], expected: Expected, tolerance: float) -> Comparison:
    name = row["uri"] + (f" {row['member']}" if row["member"] else "")
    wrong, difference = [], None
    if found["status"] != row["status"] and {found["status"], row["status"]} & set(PASSING):
        why = f"status {row['status']}, now {found['status']}: {found['error'] or row['error']}"
        return Comparison(row["image_id"], row["category"], name, None, why, gone=True)
    was, now = row["anomaly_score"], found["anomaly_score"]
    if was is None or now is None:
        if (was, row["status"]) != (now, found["status"]):
            wrong.append(f"status {row['status']}, now {found['status']}")
    else:
        difference = abs(was - now) / abs(now)
        if not difference <= tolerance:
            wrong.append(f"score {was:.9g}, computed again {now:.9g}")
        by_thresholds = status_of(was, row["threshold"], row["review_threshold"])
        if row["status"] != by_thresholds:
            wrong.append(f"status {row['status']}, by score and thresholds {by_thresholds}")
        if row["model_digest"] != expected.digest:
            wrong.append(f"model_digest {row['model_digest']}, expected {expected.digest}")
        if _limits(row) not in expected.limits:
            wrong.append(f"threshold and review threshold {_limits(row)}, expected {' or '.join(map(str, expected.limits))}")
    return Comparison(row["image_id"], row["category"], name, difference, "; ".join(wrong))


def _limits(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["threshold"], row["review_threshold"]

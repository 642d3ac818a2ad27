"""Scores of a plain loop over the stages, which those of every job must equal."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.distributed.score import models_in_use
from differnet_ray.pipeline.stages import ScoreImages

ROWS = 64


def scores_without_ray(rows: pa.Table, models: str) -> dict[str, float | None]:
    """Returns image id -> score of manifest rows, None where there is none; `models` is a canonical URI."""
    in_use, sizes = models_in_use(models, sorted(set(rows["category"].to_pylist())), {})
    fetch = FetchImages(sizes)
    score = ScoreImages(
        models=models,
        versions={category: version for category, (version, _) in in_use.items()},
        n_transforms=None,
        maps="none",
        dt=date(2026, 1, 31),
        run_id="loop",
        device="cpu",
        threads=2,
    )
    scored = pa.concat_tables([score(fetch(rows.slice(start, ROWS))) for start in range(0, rows.num_rows, ROWS)])
    return dict(zip(scored["image_id"].to_pylist(), scored["anomaly_score"].to_pylist(), strict=True))

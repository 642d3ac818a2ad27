"""What the scoring job costs beside scoring: images per second of the job against a plain loop over the same decoded images.

    python -m benchmarks.pipeline [IMAGES]

One scoring actor with both of its threads on two cores, 448 pixels, T transforms, no maps; the plain loop calls the same
`ScoreImages` with as many threads on tables that were fetched before. Loop and job take turns; the job's rate is that between
its first finished batch and its last, and the whole job, with the start of its actors, stands beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import Listing, list_images, select
from differnet_ray.cli.fit import run_fit
from differnet_ray.config import Recipe
from differnet_ray.distributed.index import index_listing
from differnet_ray.distributed.resources import cluster, plan_score
from differnet_ray.distributed.score import ScoreJob, ScoreProgress, models_in_use, score_archive
from differnet_ray.pipeline.stages import ScoreImages
from differnet_ray.results.runs import plan_run
from differnet_ray.storage.locations import canonical

TURNS, BATCH, DAY = 3, 16, date(2026, 1, 31)


def main(n: int, n_transforms: int) -> None:
    """Prints Markdown."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    recipe = Recipe().override(n_transforms=n_transforms, n_blocks=2, hidden=64, epochs=1, fresh_epochs=1, folds=0)
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder, cluster():
        data, models = Path(folder) / "data", str(Path(folder) / "models")
        _make(data / "part" / "train" / "good", 4)
        _make(data / "part" / "test" / "good", n)
        run_fit(str(data), models, (), recipe, "random", test=False)
        listing = select(list_images([str(data)]), split="test")
        print(f"{n} images of 640 x 480, T = {n_transforms}, {plan_score()}\n")
        print("| turn | plain loop | job | ratio | whole job |\n|---|---|---|---|---|", flush=True)
        for turn in range(TURNS):
            loop = _loop(listing, models)
            job, whole = _job(listing, models, str(Path(folder) / f"output-{turn}"))
            print(f"| {turn + 1} | {loop:.2f} | {job:.2f} | {job / loop:.2f} | {whole:.2f} |", flush=True)


def _make(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(n)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(40, 200, (30, 40, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        coarse.save(folder / f"{i:05d}.jpg", quality=90)


def _loop(listing: Listing, models: str) -> float:
    in_use, sizes = models_in_use(canonical(models), listing.categories, {})
    fetch = FetchImages(sizes)
    tables = [fetch(listing.table.slice(start, BATCH)) for start in range(0, listing.table.num_rows, BATCH)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    score = ScoreImages(
        models=canonical(models),
        versions={category: version for category, (version, _) in in_use.items()},
        n_transforms=None,
        maps="none",
        dt=DAY,
        run_id="loop",
        device="cpu",
        threads=plan_score().threads,
    )
    score(tables[0])  # loads the model
    began = time.monotonic()
    pa.concat_tables([score(table) for table in tables])
    seconds = time.monotonic() - began
    torch.set_num_threads(before)
    return listing.table.num_rows / seconds


def _job(listing: Listing, models: str, output: str) -> tuple[float, float]:
    in_use, sizes = models_in_use(canonical(models), listing.categories, {})
    run = plan_run(dt=DAY, listing_digest=listing.digest(), models=in_use, options={})
    seen: list[tuple[float, int]] = []
    where = {"models": canonical(models), "output": canonical(output)}
    job = ScoreJob(run=run, index=index_listing(listing), maps="none", batch_size=BATCH, **where)

    def note(progress: ScoreProgress) -> None:
        if progress.all_done and (not seen or progress.all_done > seen[-1][1]):
            seen.append((time.monotonic(), progress.all_done))

    began = time.monotonic()
    score_archive(job, sizes, note)
    whole = listing.table.num_rows / (time.monotonic() - began)
    (first, done), (last, all_done) = seen[0], seen[-1]
    return (all_done - done) / (last - first), whole


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256, int(sys.argv[2]) if len(sys.argv) > 2 else 8)

"""The steps of the demo."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click
import duckdb

from differnet_ray.archives.fetch import decoded_image
from differnet_ray.archives.manifest import list_images, select
from differnet_ray.cli.demo.archive import make_archive
from differnet_ray.cli.evaluate import metrics_table
from differnet_ray.cli.fit import fit_table, run_fit, with_backbone
from differnet_ray.cli.score import run_score, run_table
from differnet_ray.cli.text_table import table
from differnet_ray.config import ALEXNET, ExtractorConfig, ImageForm, preset
from differnet_ray.distributed.resources import cluster
from differnet_ray.errors import ConfigError, WeightsError
from differnet_ray.model.extractor import RANDOM, load_backbone_weights, with_network
from differnet_ray.report.evaluation import evaluate_scores, maps_of
from differnet_ray.report.run_report import write_run_report
from differnet_ray.results.overlay import overlay
from differnet_ray.results.runs import read_table
from differnet_ray.storage.files import delete
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import SCORES

SMALL_NETWORK = "timm:tf_efficientnet_lite0"  # its weights come as a package, in the extra `demo`
MARKER = ".differnet-ray-demo"
GOOD_IMAGES = 60  # per category: a third of them calibrates a threshold of 5 %, which takes 19
WORST = 3  # images per category that get an overlay
OVERLAY_PIXELS = 512
QUERY = """
SELECT category, attributes['defect'] AS defect, count(*) AS images,
       count(*) FILTER (status = 'anomalous') AS anomalous, round(median(anomaly_score), 2) AS median_score
FROM read_parquet('{scores}/**/*.parquet', hive_partitioning = true)
GROUP BY ALL ORDER BY category, median_score DESC
"""


def run_demo(folder: Path, *, fast: bool, backbone_weights: str | None) -> None:
    """Makes an archive, fits a model per category, scores the archive's test images, evaluates and queries.

    Args:
        folder: where archive, models and results go; what a demo left there before is replaced.
        fast: fewer images to score, and fewer transforms.
        backbone_weights: as for `fit`; None: what there is, else random ones.
    """
    began = time.monotonic()
    archive, models, output = (str(folder / name) for name in ("archive", "models", "results"))
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ConfigError(f"--dir {folder} holds files that no demo made: give an empty or a new folder")
    for location in (archive, models, output):
        delete(canonical(location))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `differnet-ray demo`, which replaces what is here.\n", encoding="utf-8")

    click.secho(f"1. An archive of images of three products: {archive}", bold=True)
    to_score = {"n_test_good": 6, "n_test_defect": 2} if fast else {"n_test_good": 12, "n_test_defect": 6}
    make_archive(Path(archive), n_train=GOOD_IMAGES, **to_score)
    listing = list_images([archive])
    n_train = select(listing, split="train").table.num_rows
    click.echo(f"   {n_train} good images to learn from, {listing.table.num_rows - n_train} to score\n")

    with cluster():
        click.secho("2. Fit a flow per category on the good images (Ray Train)", bold=True)
        recipe = preset("demo").override(n_transforms=4, n_rotations=2) if fast else preset("demo")
        network, weights = (ALEXNET, backbone_weights) if backbone_weights else _backbone_at_hand()
        recipe = with_backbone(recipe, network)
        if weights == RANDOM:  # what an untrained last layer answers to is not where a defect is: docs/benchmarks.md
            recipe = recipe.override(map_kind="gradient")
        click.echo(fit_table(run_fit(archive, models, (), recipe, weights)) + "\n")

        click.secho("3. Score the archive into Parquet (Ray Data)", bold=True)
        today = datetime.now(UTC).date()
        record = run_score(select(listing, split="test"), models=models, output=output, dt=today, maps="all")
        click.echo(run_table(record) + "\n")

    click.secho("4. How well were the planted defects found?", bold=True)
    metrics = evaluate_scores(read_table(canonical(output), SCORES), canonical(output))
    click.echo(metrics_table(metrics) + "\n")

    click.secho("5. Where are they? Overlays of the images with the highest scores", bold=True)
    for path in _write_overlays(canonical(output), folder / "overlays"):
        click.echo(f"   {path}")
    click.echo(f"   {folder / 'results' / 'evaluation'}: ROC, histograms and sheets of images")
    page = write_run_report(canonical(output), record["run_id"], models=canonical(models))
    click.echo(f"   {page}: the report of the run, for a browser\n")

    click.secho("6. Ask the results with SQL (DuckDB)", bold=True)
    query = QUERY.format(scores=folder / "results" / "scores").strip()
    answer = duckdb.connect().execute(query)
    columns = [column[0] for column in answer.description or ()]
    click.echo(query + "\n")
    click.echo(table(columns, [[str(value) for value in row] for row in answer.fetchall()]))
    click.echo(f"\nDone in {time.monotonic() - began:.0f} s. Everything is in {folder}.")


def _backbone_at_hand() -> tuple[str, str | None]:
    """Network and weights, as for `fit`: AlexNet's, else those that the extra `demo` installs, else random ones."""
    try:
        load_backbone_weights(None)
        return ALEXNET, None
    except WeightsError as error:
        why = getattr(error.__cause__, "reason", error.__cause__) or error
    try:
        load_backbone_weights(None, with_network(ExtractorConfig(), SMALL_NETWORK))
    except WeightsError:
        click.echo(f"   no pretrained weights could be had ({why}): the demo goes on with random ones", err=True)
        return ALEXNET, RANDOM
    click.echo(f"   no weights of AlexNet could be had ({why}): the demo goes on with {SMALL_NETWORK}", err=True)
    return SMALL_NETWORK, None


def _write_overlays(output: str, folder: Path) -> list[Path]:
    rows = read_table(output, SCORES).sort_by([("category", "ascending"), ("anomaly_score", "descending")]).to_pylist()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for category in sorted({row["category"] for row in rows}):
        maps = maps_of(output, category)
        worst = [row for row in rows if row["category"] == category and row["image_id"] in maps][:WORST]
        for rank, row in enumerate(worst, 1):
            pixels = decoded_image(row["uri"], row["member"], ImageForm(OVERLAY_PIXELS)).pixels
            path = folder / f"{category}-{rank}-{dict(row['attributes'])['defect']}.png"
            path.write_bytes(overlay(pixels, maps[row["image_id"]]))
            written.append(path)
    return written

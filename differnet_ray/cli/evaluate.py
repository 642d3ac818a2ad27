"""`differnet-ray evaluate`: how well a labelled data set is told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import AS_JSON, CATEGORIES, CONFIG, DATA, GOOD_NAMES, MODELS, OUTPUT
from differnet_ray.cli.score import run_score
from differnet_ray.errors import ConfigError

if TYPE_CHECKING:
    from differnet_ray.pipeline.stages import Maps


@click.command()
@CONFIG
@DATA
@MODELS
@OUTPUT
@CATEGORIES
@GOOD_NAMES
@AS_JSON
def evaluate(data: str, models: str, output: str, categories: tuple[str, ...], good: tuple[str, ...], as_json: bool) -> None:
    """Measure detection on a labelled data set: metrics, ROC, histograms, sheets of images."""
    from differnet_ray.archives.manifest import list_images, select
    from differnet_ray.archives.masks import has_masks
    from differnet_ray.distributed.score import models_in_use
    from differnet_ray.report.evaluation import evaluate_scores, stored_scores
    from differnet_ray.storage.locations import canonical

    listing = select(list_images([data], good=good), split="test", categories=categories)
    if not listing.table.num_rows:
        raise ConfigError(f"{data}: no test images; expected some in <category>/test/<defect>")
    in_use, forms = models_in_use(canonical(models), listing.categories, {})
    digests = [digest for _, digest in in_use.values()]
    rows = stored_scores(canonical(output), listing.table, digests)
    if rows is None:
        maps: Maps = "all" if has_masks(listing.table["uri"].to_pylist()) else "flagged"
        record = run_score(listing, models=models, output=output, dt=datetime.now(UTC).date(), maps=maps)
        click.echo(f"scored {record['n_images']} images in run {record['run_id']}", err=True)
        rows = stored_scores(canonical(output), listing.table, digests)
    metrics = evaluate_scores(rows, canonical(output), forms)
    click.echo(json.dumps(metrics, indent=2) if as_json else metrics_table(metrics))
    for category, found in metrics.items():
        for note in found["notes"]:
            click.echo(f"{category}: {note}", err=True)
    click.echo(f"plots and metrics.json: {canonical(output)}/evaluation", err=True)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per category of an evaluation, and the mean; blank where there is no figure, and where a mean lacks one."""
    from differnet_ray.cli.text_table import table

    columns = {
        "auroc": "AUROC",
        "average_precision": "AP",
        "f1_max": "F1-max",
        "recall_at_zero_fpr": "recall at 0 FPR",
        "recall_at_1_percent_fpr": "recall at 1 % FPR",
        "recall_at_threshold": "recall at threshold",
        "fpr_at_threshold": "FPR at threshold",
        "pixel_auroc": "pixel AUROC",
        "aupro": "AUPRO",
    }
    rows = []
    for category, found in metrics.items():
        low, high = found["intervals"]["auroc"]
        figures = {key: "" if found[key] is None else f"{found[key]:.3f}" for key in columns}
        figures["auroc"] += f" [{low:.3f}, {high:.3f}]"
        rows.append([category, str(found["n_good"]), str(found["n_anomalous"]), *figures.values()])
    if len(metrics) > 1:
        known = [[found[key] for found in metrics.values() if found[key] is not None] for key in columns]
        means = [f"{sum(values) / len(values):.3f}" if len(values) == len(metrics) else "" for values in known]
        rows.append(["mean", "", "", *means])
    return table(["category", "good", "defects", *columns.values()], rows)

"""DOOR: the verbs over stored results. They read no archive, and need no Ray."""

from __future__ import annotations

import json
from typing import Any

import click

from differnet_ray.cli_options import AS_JSON, CATEGORIES, CONFIG, MODELS, OUTPUT, RUN_ID, day
from differnet_ray.errors import EXIT_FAILED, EXIT_NOT_ALL_SCORED


@click.command()
@CONFIG
@OUTPUT
@click.option("--date", "dt", required=True, callback=day, metavar="YYYY-MM-DD", help="Day of the rows.")
@CATEGORIES
@click.option("--threshold", type=float, help="A score at or over it is anomalous.")
@click.option("--review-threshold", type=float, help="A score from here to the threshold is for review; default: as it was.")
@click.option("--target-fpr", type=float, help="Instead: share of good images that may be called anomalous.")
@click.option("--models", help="Model store, for --target-fpr.")
@AS_JSON
def redecide(output: str, categories: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Apply another threshold to stored scores; no image is read."""
    from differnet_ray.summaries import run_table
    from differnet_ray.verbs_results import run_redecide

    record = run_redecide(output, categories=categories, **options)
    if record is None:
        click.echo("all rows have been decided by these thresholds already: nothing to do", err=True)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    elif record is not None:
        click.echo(run_table(record))


@click.command()
@CONFIG
@OUTPUT
@RUN_ID
@MODELS
@click.option("--sample", type=click.IntRange(min=1), default=100, show_default=True, help="Rows, drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-5, show_default=True, help="Relative, of scores.")
@AS_JSON
@click.pass_context
def verify(ctx: click.Context, /, output: str, as_json: bool, **options: Any) -> None:
    """Compute random rows of a run again from their images, and compare; exit code 1 if one is wrong, 4 if one is gone."""
    from dataclasses import asdict

    from differnet_ray.verbs_results import run_verify

    summary, wrong = run_verify(output, **options)
    if as_json:
        click.echo(json.dumps(summary | {"not_right": [asdict(row) for row in wrong]}, indent=2))
    else:
        for row in wrong:
            click.echo(f"{'GONE ' if row.gone else 'WRONG'} {row.category} {row.name}: {row.wrong}")
        click.echo(
            f"run {summary['run_id']}: {summary['rows']} rows computed again, {summary['wrong']} wrong, "
            f"{summary['gone']} gone; largest relative difference of scores {summary['largest_difference']:.2g}"
        )
    if summary["wrong"]:
        ctx.exit(EXIT_FAILED)
    if summary["gone"]:
        ctx.exit(EXIT_NOT_ALL_SCORED)


@click.command()
@CONFIG
@OUTPUT
@RUN_ID
@click.option("--models", help="Model store, for the scores of the calibration sets.")
@click.option("--report", "target", metavar="URI", help="The page; default: OUTPUT/reports/RUN_ID.html.")
@click.option(
    "--images", "max_images", type=click.IntRange(min=0), default=24, show_default=True, help="Shown of each category."
)
def report(output: str, run_id: str, models: str | None, target: str | None, max_images: int) -> None:
    """Write the report of a run as one HTML page: counts, scores, the worst images with their maps, the lineage."""
    from differnet_ray.data.storage import canonical
    from differnet_ray.report.run_report import write_run_report

    page = write_run_report(
        canonical(output),
        run_id,
        models=canonical(models) if models else None,
        target=canonical(target) if target else None,
        max_images=max_images,
    )
    click.echo(page)

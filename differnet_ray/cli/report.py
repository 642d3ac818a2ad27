"""`differnet-ray report`: a run as one HTML page."""

from __future__ import annotations

import click

from differnet_ray.cli.options import CONFIG, OUTPUT, RUN_ID


@click.command()
@CONFIG
@OUTPUT
@RUN_ID
@click.option("--models", help="Model store, for the scores of the calibration sets, and the grey range of pictures.")
@click.option("--report", "target", metavar="URI", help="The page; default: OUTPUT/reports/RUN_ID.html.")
@click.option(
    "--images", "max_images", type=click.IntRange(min=0), default=24, show_default=True, help="Shown of each category."
)
def report(output: str, run_id: str, models: str | None, target: str | None, max_images: int) -> None:
    """Write the report of a run as one HTML page: counts, scores, the worst images with their maps, the lineage."""
    from differnet_ray.report.run_report import write_run_report
    from differnet_ray.storage.locations import canonical

    page = write_run_report(
        canonical(output),
        run_id,
        models=canonical(models) if models else None,
        target=canonical(target) if target else None,
        max_images=max_images,
    )
    click.echo(page)

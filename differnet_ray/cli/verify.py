"""`differnet-ray verify`: random rows of a run, computed again from their images."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import AS_JSON, CONFIG, MODELS, OUTPUT, RUN_ID
from differnet_ray.errors import EXIT_FAILED, EXIT_NOT_ALL_SCORED

if TYPE_CHECKING:
    from differnet_ray.pipeline.verify import Comparison


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


def run_verify(
    output: str, *, run_id: str, models: str, sample: int, seed: int, tolerance: float
) -> tuple[dict[str, Any], list[Comparison]]:
    """`verify`, checked before any work; returns a summary for programs and the rows that are not right.

    Args:
        output: the results.
        run_id: of the rows.
        models: the model store.
        sample: rows to compute again.
        seed: of the draw.
        tolerance: largest relative difference of scores.
    """
    from differnet_ray.cli.progress import Reporter
    from differnet_ray.pipeline.verify import verify
    from differnet_ray.results import run
    from differnet_ray.storage.locations import canonical

    record = run(output, run_id)
    n, difference, wrong = 0, 0.0, []
    with Reporter("rows") as reporter:
        for row in verify(canonical(output), canonical(models), record, sample=sample, seed=seed, tolerance=tolerance):
            n, difference = n + 1, max(difference, row.difference or 0.0)
            reporter.show({"verify": (n, min(sample, record["n_images"]), f"largest difference {difference:.2g}")})
            if row.wrong:
                wrong.append(row)
    gone = sum(row.gone for row in wrong)
    summary = {
        "run_id": run_id,
        "rows": n,
        "wrong": len(wrong) - gone,
        "gone": gone,
        "largest_difference": difference,
        "tolerance": tolerance,
    }
    return summary, wrong

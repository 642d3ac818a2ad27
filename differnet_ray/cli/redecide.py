"""`differnet-ray redecide`: another threshold over stored scores; no image is read, and no Ray is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date
from typing import Any

import click

from differnet_ray.cli.options import AS_JSON, CATEGORIES, CONFIG, OUTPUT, day
from differnet_ray.cli.score import run_table
from differnet_ray.errors import ConfigError


@click.command()
@CONFIG
@OUTPUT
@click.option("--date", "dt", required=True, callback=day, metavar="YYYY-MM-DD", help="Day of the rows.")
@CATEGORIES
@click.option("--threshold", type=float, help="A score at or over it is anomalous.")
@click.option("--review-threshold", type=float, help="A score from here to the threshold is for review; default: as it was.")
@click.option("--target-fpr", type=float, help="Instead: share of good images that may be called anomalous.")
@click.option("--models", help="Model store, for --target-fpr; alone: the thresholds in use there.")
@AS_JSON
def redecide(output: str, categories: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Apply another threshold to stored scores; no image is read."""
    record = run_redecide(output, categories=categories, **options)
    if record is None:
        click.echo("all rows have been decided by these thresholds already: nothing to do", err=True)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    elif record is not None:
        click.echo(run_table(record))


def run_redecide(
    output: str,
    *,
    dt: date,
    categories: Sequence[str],
    threshold: float | None,
    review_threshold: float | None,
    target_fpr: float | None,
    models: str | None,
) -> dict[str, Any] | None:
    """`redecide`, checked before any work; returns the content of the run file, or None where nothing changes.

    Args:
        output: the results.
        dt: day of the rows.
        categories: of them; all if empty.
        threshold: of all these categories; None: from `target_fpr`, else those of the models in use.
        review_threshold: None: the one that the rows have, or the threshold where that is lower.
        target_fpr: share of good images that may be called anomalous.
        models: the model store, where there is no `threshold`.
    """
    given = [value for value in (threshold, target_fpr) if value is not None]
    if len(given) > 1 or (not given and models is None):
        raise ConfigError("expected one of --threshold and --target-fpr, or --models alone for the thresholds in use there")
    if review_threshold is not None and threshold is None and target_fpr is None:
        raise ConfigError("--review-threshold: expected with --threshold")
    if target_fpr is not None and (models is None or review_threshold is not None or not 0 < target_fpr < 1):
        raise ConfigError("--target-fpr: expected a share between 0 and 1, with --models and without --review-threshold")
    if threshold is not None and not 0 < threshold < math.inf:
        raise ConfigError(f"--threshold {threshold:g}: expected a score over 0")

    from differnet_ray.pipeline.redecide import (
        Limits,
        Scored,
        decided,
        limits_in_use,
        limits_of_rate,
        limits_of_threshold,
        published_files,
        redecide,
    )
    from differnet_ray.results.publish import publishing
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.model_store import ModelStore
    from differnet_ray.versions import library_versions

    output = canonical(output)
    published_files(output, dt, categories)  # refuses before anything is written
    check_writable(output)
    with publishing(output, dt):
        rows = decided(output, dt, categories)
        limits: dict[str, dict[Scored, Limits]] = {}
        for of_category in rows:
            of_scored = limits.setdefault(of_category.category, {})
            for scored in of_category.scored:
                if threshold is not None:
                    of_scored[scored] = limits_of_threshold(threshold, review_threshold, scored)
                elif models is not None:
                    store = ModelStore(canonical(models))
                    of_scored[scored] = (
                        limits_in_use(store, of_category.category, scored)
                        if target_fpr is None
                        else limits_of_rate(store, target_fpr, of_category.category, scored)
                    )
        return redecide(output, dt, rows, limits, library_versions())

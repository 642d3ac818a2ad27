"""`differnet-ray calibrate`: new thresholds for a model in the field, from good images that it was not fitted on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import AS_JSON, CATEGORIES, CONFIG, GOOD_NAMES, MODELS, versions_of
from differnet_ray.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from differnet_ray.store.model_store import ModelStore

    Scores = dict[str, tuple[str, pa.Table]]  # category to the version that scored, and `tables.CALIBRATION`


@click.command()
@CONFIG
@MODELS
@CATEGORIES
@click.option("--data", help="Good images that were not fitted on: a folder, an archive or a manifest.")
@GOOD_NAMES
@click.option("--output", help="Instead of --data: results, with --run-id.")
@click.option("--run-id", help="The published run whose images are good, or those of --confirmed.")
@click.option(
    "--confirmed", metavar="CSV", help="Images of the run that a person found good: a column image_id, or uri (and member)."
)
@click.option("--target-fpr", type=float, help="Share of good images that may be called anomalous; default: as before.")
@click.option("--review-fpr", type=float, help="Share of good images that may be for review; default: as before.")
@click.option("--model", "versions", multiple=True, callback=versions_of, metavar="NAME=VERSION", help="Not the latest.")
@AS_JSON
def calibrate(models: str, as_json: bool, **options: Any) -> None:
    """Find new thresholds on good images, and put them in use as a new version with the same flow; `redecide` applies it."""
    made = run_calibrate(models, **options)
    click.echo(json.dumps(made, indent=2) if as_json else calibrated_table(made))
    for record in made:
        click.echo(f"{record['category']}: the threshold rests on {record['statement']}", err=True)


def run_calibrate(
    models: str,
    *,
    categories: Sequence[str] = (),
    data: str | None = None,
    good: Sequence[str] = (),
    output: str | None = None,
    run_id: str | None = None,
    confirmed: str | None = None,
    target_fpr: float | None = None,
    review_fpr: float | None = None,
    versions: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """`calibrate`, checked before any work; returns what was made, a row for each category.

    Args:
        models: the model store.
        categories: which; all that have images if empty.
        data: location of good images.
        good: further names of good images.
        output: instead, the results.
        run_id: of a published run in them.
        confirmed: a CSV of its good images; None takes all of them.
        target_fpr: share of good images that may be anomalous; None: as before.
        review_fpr: share that may be for review; None: as before.
        versions: category to version, where it is not the latest.
    """
    if (data is None) == (output is None) or (output is None) != (run_id is None) or (confirmed and not output):
        raise ConfigError("expected --data, or --output with --run-id (and optionally --confirmed)")

    from differnet_ray.pipeline.calibrate import recalibrated
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.model_store import ModelStore

    store, made = ModelStore(canonical(models)), list[dict[str, Any]]()
    origin: dict[str, Any]
    check_writable(store.uri)
    if data is not None:
        found, origin = _scores_of_data(store, data, categories, good, versions or {}), {"data": [canonical(data)]}
    else:
        found = _scores_of_run(store, str(output), str(run_id), categories, confirmed, versions or {})
        origin = {"output": canonical(str(output)), "run_id": run_id, "confirmed": confirmed is not None}
    for category, (version, scores) in found.items():
        stored = store.load(category, version)
        model = recalibrated(stored, scores, target_fpr=target_fpr, review_fpr=review_fpr, origin=origin)
        made.append(
            {
                "category": category,
                "from": version,
                "version": store.publish(model),
                "n_images": model.decision.n_images,
                "threshold_before": stored.decision.threshold,
                "threshold": model.decision.threshold,
                "review_threshold": model.decision.review_threshold,
                "statement": model.decision.statement,
            }
        )
    return made


def _scores_of_data(
    store: ModelStore, data: str, categories: Sequence[str], good: Sequence[str], versions: Mapping[str, str]
) -> Scores:
    import pyarrow as pa

    from differnet_ray.archives.manifest import Listing, list_images, select
    from differnet_ray.cli.progress import Reporter
    from differnet_ray.labels import GOOD
    from differnet_ray.pipeline.calibrate import TRAIN, scores_of_images

    only = categories[0] if len(categories) == 1 else None
    images = list_images([data], category=only, good=good).table
    said = [dict(attributes) for attributes in images["attributes"].to_pylist()]
    kept = [image.get("split") != TRAIN and image.get("defect", GOOD) == GOOD for image in said]
    listing = select(Listing(images.filter(pa.array(kept, pa.bool_()))), categories=categories)
    if not listing.table.num_rows:
        raise ConfigError(f"{data}: no good images to calibrate on; those of the split train may have been fitted on")
    found: Scores = {}
    with Reporter("images") as reporter:
        for category in listing.categories:
            version = versions.get(category) or store.latest(category)
            found[category] = (
                version,
                scores_of_images(
                    store.uri,
                    category,
                    version,
                    select(listing, categories=[category]),
                    lambda done, total, category=category: reporter.show({category: (done, total, "")}),  # type: ignore[misc]
                ),
            )
    return found


def _scores_of_run(
    store: ModelStore,
    output: str,
    run_id: str,
    categories: Sequence[str],
    confirmed: str | None,
    versions: Mapping[str, str],
) -> Scores:
    from differnet_ray import results
    from differnet_ray.archives.manifest import read_image_ids
    from differnet_ray.pipeline.calibrate import scores_of_run
    from differnet_ray.storage.locations import canonical

    record = results.run(output, run_id)
    chosen = None if confirmed is None else read_image_ids(canonical(confirmed))
    if chosen is None:
        click.echo(
            f"WARNING: all scored images of run {run_id} are taken as good; --confirmed CSV names those that are", err=True
        )
    found: Scores = {}
    for category in categories or sorted(record["models"]):
        version = versions.get(category) or store.latest(category)
        scores = scores_of_run(canonical(output), record, store, category, version, chosen)
        if scores.num_rows or category in categories or chosen is None:
            found[category] = version, scores
    if not found:
        raise ConfigError(f"{confirmed} names no scored image of run {run_id}")
    return found


def calibrated_table(made: Sequence[Mapping[str, Any]]) -> str:
    """What was calibrated, for people."""
    from differnet_ray.cli.text_table import table

    headers = ["category", "good images", "threshold before", "threshold", "version"]
    return table(
        headers,
        [
            [row["category"], str(row["n_images"]), f"{row['threshold_before']:.4g}", f"{row['threshold']:.4g}", row["version"]]
            for row in made
        ],
    )

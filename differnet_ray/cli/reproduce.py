"""`differnet-ray reproduce`: a table or figure of the paper, on a data set in MVTec AD layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from differnet_ray.cli.fit import backbone_of, with_backbone
from differnet_ray.cli.options import CATEGORIES, CONFIG, DATA, GOOD_NAMES, OUTPUT, preset_option, recipe_options
from differnet_ray.config import AUTO, POSES, Recipe, preset
from differnet_ray.errors import EXIT_FAILED, ConfigError
from differnet_ray.experiments.cells import EXPERIMENTS, published_recipe
from differnet_ray.labels import GOOD


@click.command()
@CONFIG
@click.option("--experiment", type=click.Choice(EXPERIMENTS), required=True)
@DATA
@OUTPUT
@CATEGORIES
@GOOD_NAMES
@click.option("--seeds", "n_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Fits of each row.")
@preset_option("paper")
@recipe_options
@click.pass_context
def reproduce(
    ctx: click.Context,
    /,
    experiment: str,
    data: str,
    output: str,
    categories: tuple[str, ...],
    good: tuple[str, ...],
    n_seeds: int,
    preset_name: str,
    backbone: str | None,
    layers: tuple[int, ...],
    backbone_weights: str | None,
    **changes: Any,
) -> None:
    """Re-run a table or figure of the paper on a data set in MVTec AD layout; run again, it goes on where it was."""
    recipe = with_backbone(published_recipe(experiment, preset(preset_name)).override(**changes), backbone, layers)
    if recipe.transforms.pose == AUTO:
        raise ConfigError(f"--pose {AUTO}: an experiment has one pose for all its fits: expected {', '.join(POSES)}")
    text, complete = run_reproduce(experiment, data, output, categories, recipe, backbone_weights, n_seeds, good=good)
    click.echo(text)
    if not complete:
        ctx.exit(EXIT_FAILED)


def run_reproduce(
    experiment: str,
    data: str,
    output: str,
    categories: Sequence[str],
    recipe: Recipe,
    backbone_weights: str | None,
    n_seeds: int,
    *,
    good: Sequence[str] = (),
) -> tuple[str, bool]:
    """`reproduce`, checked before any work.

    Returns:
        The Markdown of the experiment's table, and whether every cell could be fitted.
    """
    from differnet_ray.archives.manifest import defects, list_images, select
    from differnet_ray.experiments.cells import cells_of, feature_kinds
    from differnet_ray.experiments.features import FeatureStore, all_parts, images_of
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical

    backbone, weights = backbone_of(recipe, backbone_weights)
    images = list_images([data], good=good)
    _check_categories(categories, images.categories, data)
    listing = select(images, categories=categories)
    n_images = {category: images_of(listing, category, "train").num_rows for category in listing.categories}
    for category, n in n_images.items():
        kinds = set(defects(images_of(listing, category, "test")))
        if n < 2 or GOOD not in kinds or len(kinds) < 2:
            raise ConfigError(
                f"category {category!r} of {data} has {n} images in train/good and {sorted(kinds)} in test; expected at "
                "least 2 good training images, and good and defective test images"
            )
    if experiment == "multimodal" and len(n_images) < 2:
        raise ConfigError(f"multimodal fits all categories in one flow: expected at least 2, found {', '.join(n_images)}")
    if experiment == "ablation" and recipe.extractor.n_scales < 2:
        raise ConfigError("ablation compares one scale with several: expected --scales of at least 2")
    output = canonical(output)
    check_writable(output)

    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.reproduce import ReproduceJob, run_experiment
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.experiments.report import Setting, write_report

    job = ReproduceJob(
        output=output,
        listing=listing,
        recipe=recipe,
        store=FeatureStore.at(output, recipe, backbone.digest),
        weights=weights,
        parts=list(all_parts(listing, feature_kinds(experiment, recipe))),
        cells=list(cells_of(experiment, recipe, n_images, n_seeds)),
    )
    with cluster(), Reporter("steps") as reporter:
        results = run_experiment(
            job,
            lambda done, total: reporter.show({"features": (done, total, "")}),
            lambda done, total: reporter.show({"fits": (done, total, "")}),
        )
    text = write_report(Setting(experiment, recipe, backbone, canonical(data), len(n_images)), results, output)
    click.echo(f"table, Parquet and plots: {output}", err=True)
    return text, not any(result.error for result in results)


def _check_categories(wanted: Sequence[str], found: Sequence[str], data: str) -> None:
    for category in wanted:
        if category not in found:
            raise ConfigError(f"{category}: no images below {data}; it has the categories {', '.join(found)}")

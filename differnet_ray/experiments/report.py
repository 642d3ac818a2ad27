"""The result of an experiment: a Parquet file, a Markdown table beside the paper's figures, and the paper's plots.

OUTPUT/EXPERIMENT.parquet           one row per row, category and seed (`tables.REPRODUCTIONS`)
OUTPUT/EXPERIMENT.md                mean and spread over seeds beside the paper's figures, and what it was run with
OUTPUT/EXPERIMENT-CATEGORY-*.png    ROC curves (Fig. 5), score histogram (Fig. 6)
OUTPUT/EXPERIMENT-images.png        AUROC against the number of training images (Fig. 7)
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.config import Recipe
from differnet_ray.experiments.cells import FLOW, CellResult, Row
from differnet_ray.experiments.published import SHOTS_16, TABLE_2_QUOTED, published_auroc
from differnet_ray.labels import GOOD
from differnet_ray.model.metrics import roc_curve
from differnet_ray.report.plots import roc_plot, score_histogram, shots_plot
from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.stored_model import Backbone
from differnet_ray.tables import REPRODUCTIONS, conform
from differnet_ray.versions import library_versions

HEADERS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "f1_max": "F1-max",
    "recall_at_zero_fpr": "recall at 0 FPR",
    "recall_at_1_percent_fpr": "recall at 1 % FPR",
}
READING = (
    "In %, last epoch, mean ± standard deviation over seeds. `best epoch` is the best of the evaluations at epochs 1, 2, 4, "
    "... and the last, chosen on the test set itself: it is how the authors' code reports, and an overestimate."
)


@dataclass(frozen=True)
class Setting:
    """What an experiment was run with, for its report.

    Attributes:
        data: locations of the data set.
        n_categories: that were asked for.
    """

    experiment: str
    recipe: Recipe
    backbone: Backbone
    data: str
    n_categories: int


def write_report(setting: Setting, results: Sequence[CellResult], output: str) -> str:
    """Writes the files of an experiment.

    Args:
        setting: what it was run with.
        results: of its cells.
        output: canonical URI.

    Returns:
        The Markdown.
    """
    experiment = setting.experiment
    buffer = io.BytesIO()
    rows = pa.Table.from_pylist(list(_records(experiment, results)), REPRODUCTIONS.schema)
    pq.write_table(conform(rows, REPRODUCTIONS.schema), buffer, compression="zstd")
    write_bytes(join(output, f"{experiment}.parquet"), buffer.getvalue())
    text = _markdown(setting, results)
    write_bytes(join(output, f"{experiment}.md"), text.encode())
    for name, picture in _plots(experiment, results):
        write_bytes(join(output, f"{experiment}-{name}.png"), picture)
    return text


def _records(experiment: str, results: Sequence[CellResult]) -> Iterator[dict[str, object]]:
    for result in results:
        for row in result.rows:
            paper = published_auroc(experiment, row.row, row.category)
            yield {
                "experiment": experiment,
                "row": row.row,
                "category": row.category,
                "method": result.cell.method,
                "seed": result.cell.seed,
                "n_train": result.n_train,
                "n_good": row.kinds.count(GOOD),
                "n_anomalous": len(row.kinds) - row.kinds.count(GOOD),
                "n_transforms": row.n_transforms,
                **row.metrics,
                "best_epoch_auroc": row.best_epoch_auroc,
                "published_auroc": None if paper is None else paper / 100,
                "seconds": result.seconds,
            }


def _markdown(setting: Setting, results: Sequence[CellResult]) -> str:
    experiment = setting.experiment
    grouped: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))  # row, category: its seeds
    for result in results:
        for row in result.rows:
            grouped[row.row][row.category].append(row)
    lines = [_line(["category", "row", "paper", *HEADERS.values(), "best epoch", "seeds"])]
    lines.append("|" + "---|" * (len(HEADERS) + 5))
    for category in dict.fromkeys(row.category for result in results for row in result.rows):
        for name in grouped:
            if seeds := grouped[name].get(category):
                figures = [_percent([row.metrics[metric] for row in seeds]) for metric in HEADERS]
                best = _percent([row.best_epoch_auroc for row in seeds if row.best_epoch_auroc is not None])
                paper = published_auroc(experiment, name, category)
                lines.append(_line([category, name, _figure(paper), *figures, best, str(len(seeds))]))
    for name, found in grouped.items():
        paper = published_auroc(experiment, name, None)
        if len(found) > 1 or (paper is not None and experiment != "table1"):
            means = [_mean_percent([row.metrics[metric] for row in seeds] for seeds in found.values()) for metric in HEADERS]
            where = f"mean of {len(found)} of {setting.n_categories} categories (paper: of MVTec AD's 15)"
            lines.append(_line([where, name, _figure(paper), *means, "", ""]))
    failed = [
        f"- {', '.join(result.cell.categories)}: {' / '.join(reading.row for reading in result.cell.readings)}, seed "
        f"{result.cell.seed}: {result.error}"
        for result in results
        if result.error
    ]
    unusable = max((result.n_unusable for result in results), default=0)
    quoted = ", ".join(f"{name} {figure}" for name, figure in TABLE_2_QUOTED.items())
    notice = "" if setting.backbone.pretrained else "**The backbone has random, untrained weights: these figures say nothing.**"
    recipe = setting.recipe
    pooled = f"features are pooled over the transforms, and the flow has {recipe.flow.n_blocks} coupling blocks."
    parts = [
        f"# {experiment}",
        notice,
        f"**`DifferNet` is not the published method here: {pooled}**" if recipe.transforms.pooled else "",
        READING,
        "\n".join(lines),
        f"Quoted by the paper, not run here: {quoted}." if experiment == "table2" else "",
        "\n".join(["Failed:", "", *failed]) if failed else "",
        f"Up to {unusable} images of a fit could not be decoded and were left out." if unusable else "",
        f"Data: `{setting.data}`. Backbone: `{setting.backbone.name}`, SHA-256 `{setting.backbone.digest}`.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in library_versions().items())}.",
        "\n".join(["Recipe:", "", "```json", json.dumps(setting.recipe.to_dict(), indent=2), "```"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figure(auroc: float | None) -> str:
    return "" if auroc is None else f"{auroc:.1f}"


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{100 * np.mean(values):.1f}" + (f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _mean_percent(categories: Iterator[list[float]] | Sequence[list[float]]) -> str:
    return f"{100 * np.mean([np.mean(seeds) for seeds in categories]):.1f}"


def _plots(experiment: str, results: Sequence[CellResult]) -> Iterator[tuple[str, bytes]]:
    by_category: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for result in results:
        for row in result.rows:
            if result.cell.seed == 0:
                by_category[row.category].append((result.cell.method, row))
    for category, found in by_category.items():
        file = quote(category, safe="")
        curves = {row.row: roc_curve(row.scores, np.array(row.kinds) != GOOD) for _, row in found}
        points = {name: (curve.false_positive_rate, curve.true_positive_rate) for name, curve in curves.items()}
        yield f"{file}-roc", roc_plot(points, f"{experiment}, {category}: detection of anomalous images, seed 0")
        flows = [row for method, row in found if method == FLOW and row.row != SHOTS_16]
        if flows:
            scores, is_anomaly = np.array(flows[-1].scores), np.array(flows[-1].kinds) != GOOD
            title = f"{experiment}, {category}: {flows[-1].row}, seed 0"
            yield f"{file}-histogram", score_histogram(scores[~is_anomaly], scores[is_anomaly], None, title)
    if experiment == "shots":
        sizes: Mapping[str, list[tuple[int, float]]] = defaultdict(list)
        for result in results:
            for row in result.rows:
                sizes[row.category].append((result.n_train, row.metrics["auroc"]))
        yield "images", shots_plot(sizes, "AUROC against the number of training images")

"""The result of an experiment: a Parquet file, a Markdown table beside the paper's figures, and the paper's plots.

OUTPUT/EXPERIMENT.parquet      one row per row, category and seed (`tables.REPRODUCTIONS`)
OUTPUT/EXPERIMENT.md           mean and spread over seeds beside the paper's figures
OUTPUT/EXPERIMENT-*.png        ROC curves (Fig. 5), score histogram (Fig. 6), number of images (Fig. 7)
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.config import Recipe
from differnet_ray.data.storage import join, write_bytes
from differnet_ray.data.tables import REPRODUCTIONS, conform
from differnet_ray.experiments.published import TABLE_2_QUOTED, published_auroc
from differnet_ray.model.metrics import GOOD, roc_curve
from differnet_ray.report.plots import roc_plot, score_histogram, shots_plot

COLUMNS = ("auroc", "average_precision", "f1_max", "recall_at_zero_fpr", "recall_at_1_percent_fpr")
HEADERS = ("AUROC", "AP", "F1-max", "recall at 0 FPR", "recall at 1 % FPR")


def write_report(experiment: str, results: Sequence[Mapping[str, Any]], recipe: Recipe, output: str) -> str:
    """Writes the files of an experiment.

    Args:
        experiment: its name.
        results: of `distributed/reproduce.py`.
        recipe: that they were fitted with.
        output: canonical URI.

    Returns:
        The Markdown.
    """
    rows = [row for result in results for row in _rows(experiment, result)]
    buffer = io.BytesIO()
    pq.write_table(conform(pa.Table.from_pylist(rows, REPRODUCTIONS.schema), REPRODUCTIONS.schema), buffer, compression="zstd")
    write_bytes(join(output, f"{experiment}.parquet"), buffer.getvalue())
    text = _markdown(experiment, rows, results, recipe)
    write_bytes(join(output, f"{experiment}.md"), text.encode())
    for name, picture in _plots(experiment, results, rows).items():
        write_bytes(join(output, f"{experiment}-{name}.png"), picture)
    return text


def _rows(experiment: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    cell = result["cell"]
    best = max((point["auroc"] for point in result["curve"]), default=None)
    only_one = len(result["rows"]) == 1
    return [
        {
            "experiment": experiment,
            "row": row["row"],
            "category": row["category"],
            "method": cell["method"],
            "seed": cell["seed"],
            "n_train": result["n_train"],
            "n_good": row["metrics"]["n_good"],
            "n_anomalous": row["metrics"]["n_anomalous"],
            "n_transforms": row["n_transforms"],
            **{name: row["metrics"][name] for name in COLUMNS},
            "best_epoch_auroc": best if only_one else None,
            "published_auroc": paper / 100 if paper is not None else None,
            "seconds": result["seconds"],
        }
        for row in result["rows"]
        for paper in [published_auroc(experiment, row["row"], row["category"])]
    ]


def _markdown(experiment: str, rows: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], recipe: Recipe) -> str:
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["category"], row["row"]].append(row)
    headers = ["category", "row", "paper", *HEADERS, "best epoch", "seeds"]
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]

    def line(category: str, row: str, paper: float | None, group: Sequence[Mapping[str, Any]]) -> str:
        cells = [_percent([found.get(name) for found in group]) for name in (*COLUMNS, "best_epoch_auroc")]
        return "| " + " | ".join([category, row, "" if paper is None else f"{paper:.1f}", *cells, str(len(group))]) + " |"

    for (category, name), group in grouped.items():
        lines.append(line(category, name, published_auroc(experiment, name, category), group))
    categories = sorted({category for category, _ in grouped})
    for name in dict.fromkeys(name for _, name in grouped):
        paper = published_auroc(experiment, name, None)
        if len(categories) > 1 or (paper is not None and experiment != "table1"):
            of_categories = [found for (_, row), found in grouped.items() if row == name]
            means = [{column: float(np.mean([row[column] for row in found])) for column in COLUMNS} for found in of_categories]
            lines.append(line("mean of categories (paper: MVTec AD)", name, paper, means))
    failed = [f"- {result['cell']['categories']}: {result['error']}" for result in results if "error" in result]
    quoted = ", ".join(f"{name} {figure}" for name, figure in TABLE_2_QUOTED.items())
    return "\n".join(
        [
            f"# {experiment}",
            "",
            "In %, mean ± standard deviation over seeds, last epoch. `best epoch` is the best of the evaluations at epochs "
            "1, 2, 4, ... and the last on the test set itself: it is how the authors' code reports, and an overestimate.",
            "",
            *lines,
            "",
            *([f"Quoted by the paper, not run here: {quoted}.", ""] if experiment == "table2" else []),
            *(["Failed:", "", *failed, ""] if failed else []),
            "Recipe:",
            "",
            "```json",
            json.dumps(recipe.to_dict(), indent=2),
            "```",
            "",
        ]
    )


def _percent(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return ""
    return f"{np.mean(known):.1f}" + (f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else "")


def _plots(experiment: str, results: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    plots = {}
    first = [row for result in results if result["cell"]["seed"] == 0 for row in result["rows"]]
    curves = {}
    for row in first:
        scores, is_anomaly = np.array(row["scores"]), np.array(row["kinds"]) != GOOD
        curve = roc_curve(scores, is_anomaly)
        curves[f"{row['category']}: {row['row']}"] = (curve.false_positive_rate, curve.true_positive_rate)
    plots["roc"] = roc_plot(curves, f"{experiment}: detection of anomalous images, seed 0")
    of_flow = [row for row in first if row["row"] not in ("OCSVM", "1-NN")]
    for category in dict.fromkeys(row["category"] for row in of_flow):
        row = [row for row in of_flow if row["category"] == category][-1]
        scores, is_anomaly = np.array(row["scores"]), np.array(row["kinds"]) != GOOD
        title = f"{category}, {row['row']}: anomaly scores, seed 0"
        plots[f"histogram-{category}"] = score_histogram(scores[~is_anomaly], scores[is_anomaly], None, title)
    if experiment == "shots":
        points: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row in rows:
            points[row["category"]].append((row["n_train"], row["auroc"]))
        plots["images"] = shots_plot(points, "AUROC against the number of training images")
    return plots

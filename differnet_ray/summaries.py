"""What the verbs print on stdout, as text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from differnet_ray.data.tables import SCORED_STATUSES, STATUSES
from differnet_ray.fit_state import CategoryState

SKIPPED_SHOWN = 5


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table, as wide as it needs to be."""
    made = Table(*headers, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # Text: a name in brackets is not markup
    sink = io.StringIO()
    Console(file=sink, width=10_000).print(made)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def fit_table(states: Mapping[str, CategoryState]) -> str:
    """One row per category of a fitting run, and the reasons of those that failed."""
    headers = ["category", "fitted on", "calibrated on", "skipped", "epochs", "loss", "threshold", "AUROC", "seconds", "status"]
    rows, reasons = [], []
    for category, state in states.items():
        result = state.result
        if result is None:
            rows.append([category, *[""] * 8, state.status])
            reasons.append(f"{category}: {state.error}")
        else:
            images = [str(result.n_fitted), f"{result.n_calibrated} {result.method}", str(len(result.skipped))]
            fit = [str(result.epochs), f"{result.loss:.3f}", f"{result.threshold:.4g}"]
            auroc = "" if result.auroc is None else f"{result.auroc:.3f}"
            rows.append([category, *images, *fit, auroc, f"{result.seconds:.0f}", state.status])
    return "\n".join([table(headers, rows), *reasons])


def state_records(states: Mapping[str, CategoryState]) -> dict[str, Any]:
    """The same for programs."""
    return {
        category: {
            "status": state.status,
            "error": state.error,
            "result": asdict(state.result) if state.result else None,
        }
        for category, state in states.items()
    }


def warn_skipped(states: Mapping[str, CategoryState]) -> None:
    """Names training images that could not be used, notes of fits, and thresholds that promise too little."""
    for category, state in states.items():
        if state.result is None:
            continue
        result, skipped = state.result, state.result.skipped
        for uri, reason in list(skipped.items())[:SKIPPED_SHOWN]:
            click.echo(f"WARNING: {category}: skipped {uri}: {reason}", err=True)
        for note in result.notes:
            click.echo(f"WARNING: {category}: {note}", err=True)
        if result.resumed:
            epochs = ", ".join(map(str, result.resumed))
            click.echo(f"{category}: an interrupted fit went on after epoch {epochs}", err=True)
        if len(skipped) > SKIPPED_SHOWN:
            click.echo(f"WARNING: {category}: {len(skipped) - SKIPPED_SHOWN} more were skipped, see model.json", err=True)
        if result.achieved_fpr > result.target_fpr:
            click.echo(f"WARNING: {category}: the threshold rests on {result.statement}", err=True)


def run_table(record: Mapping[str, Any]) -> str:
    """Counts by category and status of a scoring run."""
    statuses = [status for status in STATUSES if status in record["counts"] or status in SCORED_STATUSES]
    rows = [
        [category, *(str(counts.get(status, 0)) for status in statuses), str(sum(counts.values()))]
        for category, counts in {**record["category_counts"], "all": record["counts"]}.items()
    ]
    return f"{table(['category', *statuses, 'images'], rows)}\n\nrun {record['run_id']}, {record['n_maps']} gradient maps"


def not_scored(record: Mapping[str, Any]) -> int:
    """Images of a run that could not be scored."""
    return sum(n for status, n in record["counts"].items() if status not in SCORED_STATUSES)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per category of an evaluation, and the mean; blank where there is no figure, and where a mean lacks one."""
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

"""What the verbs over stored results do once their options are read: checks before any work, then the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from differnet_ray.errors import ConfigError

if TYPE_CHECKING:
    from differnet_ray.verify import Comparison


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
        threshold: of all these categories; None: from `target_fpr`.
        review_threshold: None: the one that the rows have, or the threshold where that is lower.
        target_fpr: share of good images that may be called anomalous.
        models: the model store, for `target_fpr`.
    """
    if (threshold is None) == (target_fpr is None):
        raise ConfigError("expected one of --threshold and --target-fpr")
    if target_fpr is not None and (models is None or review_threshold is not None or not 0 < target_fpr < 1):
        raise ConfigError("--target-fpr: expected a share between 0 and 1, with --models and without --review-threshold")
    if threshold is not None and not 0 < threshold < math.inf:
        raise ConfigError(f"--threshold {threshold:g}: expected a score over 0")

    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.publish import publishing
    from differnet_ray.data.storage import canonical, check_writable
    from differnet_ray.redecide import Limits, decided, limits_of_rate, published_files, redecide
    from differnet_ray.versions import library_versions

    output = canonical(output)
    published_files(output, dt, categories)  # refuses before anything is written
    check_writable(output)
    with publishing(output, dt):
        rows, limits = decided(output, dt, categories), {}
        for of_category in rows:
            if of_category.limits is None:
                continue
            if threshold is not None:
                review = min(of_category.limits.review_threshold, threshold) if review_threshold is None else review_threshold
                limits[of_category.category] = Limits(threshold, review)
            elif target_fpr is not None and models is not None:
                store = ModelStore(canonical(models))
                limits[of_category.category] = limits_of_rate(store, of_category.category, of_category.version, target_fpr)
        return redecide(output, dt, rows, limits, library_versions())


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
    from differnet_ray.data.storage import canonical
    from differnet_ray.progress import Reporter
    from differnet_ray.results import run
    from differnet_ray.verify import verify

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

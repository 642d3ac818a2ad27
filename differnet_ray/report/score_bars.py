"""A histogram of scores whose bars are found while the scores stream by, and which no outlier squeezes.

Legend: cell k of a category holds the scores from threshold 10^(k/C) to threshold 10^((k+1)/C), C cells a decade. So the
threshold is an edge whatever comes, no score has to be seen twice, and cells are merged into bars once all are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Cells: TypeAlias = Counter[int]

CELLS_PER_DECADE = 128
FURTHEST = 8 * CELLS_PER_DECADE  # cells on either side of the threshold; what lies beyond is in the last ones
BARS = 44  # at most about so many, tails aside
BEYOND = CELLS_PER_DECADE // 2  # cells above threshold or median that are drawn before the tail begins
WIDTH, HEIGHT = 420, 250  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 36, 38  # what its edges leave for labels
TAIL, GAP, ROOM = 16, 8, 38  # width of the bar of all scores beyond an end, what sets it apart, and room for its label


@dataclass(frozen=True)
class Bar:
    """One bar, in units of the drawing; `kind` is `ok`, `review` or `anomalous`, what its scores were decided to be."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str


@dataclass(frozen=True)
class Mark:
    """A labelled position on an axis, in units of the drawing."""

    at: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram as it is drawn.

    Attributes:
        bars: of the run's scores.
        outline: points `x,y ...` of the line over the calibration set's bars; empty where it is not known.
        x_ticks, y_ticks: of the axes.
        threshold, review_threshold: where they are drawn; the latter None where it is not set.
        left, right, top, bottom: edges of the axes.
        n_scores, n_calibration: how many scores it shows.
    """

    bars: tuple[Bar, ...]
    outline: str
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    threshold: Mark
    review_threshold: Mark | None
    n_scores: int
    n_calibration: int
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def cells_of(scores: NDArray[np.float64], threshold: float | None) -> Cells:
    """How many scores lie in which cell; NaN is left out, and scores that have no logarithm are in the first cell.

    >>> sorted(cells_of(np.array([2.0, 1.9999, 20.0]), 2.0).items())
    [(-1, 1), (0, 1), (128, 1)]
    """
    reference = _reference(threshold)
    known = scores[~np.isnan(scores)]
    with np.errstate(divide="ignore", invalid="ignore"):
        cells = np.floor(CELLS_PER_DECADE * np.log10(known / reference))
    cells = np.clip(np.nan_to_num(cells, nan=-FURTHEST, posinf=FURTHEST, neginf=-FURTHEST), -FURTHEST, FURTHEST)
    cells = np.where(known >= reference, np.maximum(cells, 0), np.minimum(cells, -1))  # no rounding over the threshold
    values, counts = np.unique(cells.astype(int), return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def histogram(run: Cells, calibration: Cells, threshold: float | None, review_threshold: float | None) -> Histogram | None:
    """Draws the shares of the run's scores as bars, those of the calibration set as a line over them.

    Returns:
        None where the run has no score.
    """
    if not run:
        return None
    reference = _reference(threshold)
    review = _cell(review_threshold, reference) if review_threshold is not None else None
    low, high = _range(run, calibration, review)
    step = max(1, math.ceil((high - low) / BARS))
    low, high = step * (low // step), step * -(-high // step)  # the threshold, cell 0, stays an edge
    has_first, has_last = min([*run, *calibration]) < low, max([*run, *calibration]) >= high
    start, end = LEFT + (TAIL + GAP) * has_first, WIDTH - RIGHT - (TAIL + GAP) * has_last

    def x_of(cell: float) -> float:
        return start + (end - start) * (cell - low) / (high - low)

    edges = [(x_of(k), x_of(k + step), k, k + step) for k in range(low, high, step)]
    if has_first:
        edges.insert(0, (LEFT, LEFT + TAIL, -FURTHEST, low))
    if has_last:
        edges.append((end + GAP, end + GAP + TAIL, high, FURTHEST + 1))
    shares, expected = (_shares(cells, edges) for cells in (run, calibration))
    top = max([*shares, *expected])

    def y_of(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * math.sqrt(share / top)

    bars = tuple(
        Bar(
            left, y_of(share), right - left, HEIGHT - BOTTOM - y_of(share), _kind(k, review), _label(k, until, reference, share)
        )
        for (left, right, k, until), share in zip(edges, shares, strict=True)
        if share > 0
    )
    beyond = edges[:has_first] + edges[len(edges) - has_last :]
    tails = [Mark((left + right) / 2, _beyond(k, until, reference)) for left, right, k, until in beyond]
    ticks = [Mark(x_of(_position(score, reference)), f"{score:g}") for score in _ticks(low, high, reference)]
    ticks = [tick for tick in ticks if all(abs(tick.at - tail.at) >= ROOM for tail in tails)]
    points = [
        f"{x:.1f},{y_of(share):.1f}" for (left, right, _, _), share in zip(edges, expected, strict=True) for x in (left, right)
    ]
    return Histogram(
        bars=bars,
        outline=" ".join(points) if calibration else "",
        x_ticks=(*ticks, *tails),
        y_ticks=tuple(Mark(y_of(share), f"{100 * share:g} %") for share in _share_ticks(top)),
        threshold=Mark(x_of(0), f"{reference:.4g}"),
        review_threshold=None
        if review is None
        else Mark(x_of(_position(review_threshold, reference)), f"{review_threshold:.4g}"),
        n_scores=run.total(),
        n_calibration=calibration.total(),
    )


def _reference(threshold: float | None) -> float:
    return threshold if threshold is not None and 0 < threshold < math.inf else 1.0


def _position(score: float | None, reference: float) -> float:
    return CELLS_PER_DECADE * math.log10(max(score or 0, 1e-300) / reference)


def _cell(score: float, reference: float) -> int:
    return max(-FURTHEST, min(FURTHEST, math.floor(_position(score, reference) + 1e-9)))


def _range(run: Cells, calibration: Cells, review: int | None) -> tuple[int, int]:
    """First cell and end of what is drawn to scale: no further than the tails of a thousandth, or a factor of 3."""
    both = run + calibration
    middle, lowest = _quantile(both, 0.5), _quantile(both, 0.001)
    low = min(max(lowest, min(middle, 0) - 2 * CELLS_PER_DECADE), 0, 0 if review is None else review)
    high = min(max(both), max(middle, 0) + BEYOND) + 1
    return low - 1, max(high, 2)


def _quantile(cells: Cells, share: float) -> int:
    seen, wanted = 0, share * cells.total()
    for cell in sorted(cells):
        seen += cells[cell]
        if seen >= wanted:
            break
    return cell


def _shares(cells: Cells, edges: Iterable[tuple[float, float, int, int]]) -> list[float]:
    total = max(1, cells.total())
    return [sum(n for cell, n in cells.items() if first <= cell < end) / total for _, _, first, end in edges]


def _kind(cell: int, review: int | None) -> str:
    if cell >= 0:
        return "anomalous"
    return "review" if review is not None and cell >= review else "ok"


def _beyond(first: int, end: int, reference: float) -> str:
    """What a bar of all scores beyond an end holds, in as few signs as a tick has room for."""
    sign, cell = ("<", end) if first <= -FURTHEST else ("\N{GREATER-THAN OR EQUAL TO}", first)
    return f"{sign} {reference * 10 ** (cell / CELLS_PER_DECADE):.2g}"


def _label(first: int, end: int, reference: float, share: float) -> str:
    low, high = (reference * 10 ** (cell / CELLS_PER_DECADE) for cell in (first, end))
    scores = (
        f"below {high:.4g}" if first <= -FURTHEST else f"from {low:.4g}" + (f" to {high:.4g}" if end <= FURTHEST else " up")
    )
    return f"scores {scores}: {100 * share:.3g} % of the images"


def _ticks(low: int, high: int, reference: float) -> list[float]:
    """Some round scores inside a range of cells, evenly spread on its logarithmic axis."""
    first, last = (reference * 10 ** (cell / CELLS_PER_DECADE) for cell in (low, high))
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in ticks if first <= tick <= last]
        if len(inside) <= 7:
            break
    if len(inside) < 2:  # a range so narrow that round numbers miss it
        inside = [float(f"{tick:.4g}") for tick in np.linspace(first, last, 5)[1:-1]]
    return inside[:: -(-len(inside) // 7)]


def _share_ticks(top: float) -> list[float]:
    """Round shares that lie apart on the square-root axis."""
    ticks: list[float] = []
    for share in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001):
        above = math.sqrt(ticks[-1]) if ticks else math.inf
        if share <= top and min(math.sqrt(share), above - math.sqrt(share)) >= 0.14 * math.sqrt(top):
            ticks.append(share)
    return [*ticks, 0.0]

"""The picture on a model's card: how its fit went, and what its thresholds rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from differnet_ray.report.plots import GOOD, LINE_COLOURS, bar_edges, new_figure, png_of, styled

HELD_OUT_COLOUR = LINE_COLOURS[5]


def fit_curves(
    losses: Sequence[float],
    held_out_losses: Sequence[float],
    scores: ArrayLike,
    threshold: float,
    review_threshold: float,
) -> bytes:
    """Draw how a fit went: the loss (eq. 4) of each epoch, and the scores of good images that the flow has not seen.

    A loss far above most of the others, as the first ones can be, leaves the picture at its top.

    Args:
        losses: of the images that the flow is fitted on, epoch by epoch; fewer than two are no curve and not drawn.
        held_out_losses: of good images that it is not fitted on, likewise; may be empty.
        scores: (N,) float, anomaly scores of the good images that calibrate.
        threshold: score from which an image is called anomalous.
        review_threshold: score from which somebody should look.

    Returns:
        PNG bytes, 900 x 300 pixels, or 450 x 300 without a curve.
    """
    n_panels = 1 + (len(losses) > 1)
    figure = new_figure(450 * n_panels, 300)
    *curve, histogram = figure.subplots(1, n_panels, squeeze=False)[0]
    for axes in curve:
        _draw_losses(styled(axes), {"fitted images": losses, "held-out good images": held_out_losses})
    _draw_scores(styled(histogram), scores, {"review from": review_threshold, "threshold": threshold})
    for axes in (*curve, histogram):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=9)
    return png_of(figure)


def _draw_losses(axes: Axes, losses: Mapping[str, Sequence[float]]) -> None:
    for (name, values), colour, style in zip(losses.items(), (GOOD, HELD_OUT_COLOUR), ("-", "--"), strict=True):
        if len(values):
            axes.plot(np.arange(len(values)) + 1, values, color=colour, linestyle=style, linewidth=1.8, label=name)
    known = np.concatenate([np.asarray(values, dtype=np.float64) for values in losses.values()])
    known = known[np.isfinite(known)]
    if known.size:
        low, most = known.min(), np.quantile(known, 0.9)
        top = min(known.max(), most + 2 * (most - low))
        pad = max(0.05 * (top - low), 1e-3 * abs(top), 0.01)
        axes.set_ylim(low - pad, top + pad)
    axes.set(xlabel="epoch", ylabel="loss", xlim=(1, max(map(len, losses.values()))))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_scores(axes: Axes, scores: ArrayLike, thresholds: Mapping[str, float]) -> None:
    unseen = np.clip(np.asarray(scores, dtype=np.float64).ravel(), -1e150, 1e150)
    unseen = unseen[~np.isnan(unseen)]
    edges, _ = bar_edges(unseen, unseen[:0], unseen.max() if unseen.size else None)  # up to the highest score: no tail
    axes.hist(unseen, edges.tolist(), facecolor=(*to_rgb(GOOD), 0.45), edgecolor=GOOD)
    for (name, value), style in zip(thresholds.items(), (":", "--"), strict=True):
        if np.isfinite(value):
            axes.axvline(value, color="black", linestyle=style, linewidth=1.6, label=f"{name} {value:.4g}")
    axes.set(xlabel="anomaly score", ylabel="unseen good images")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))

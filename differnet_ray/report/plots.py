"""Pictures for the report: arrays in, PNG bytes (RGB) out.

Legend: N images, H x W image pixels, h x w map cells. Map unit: 1.0 is what only 1 % of the pixels of good images
exceed. Each picture is drawn on a figure of its own, without pyplot: no global state, nothing stays behind. Names
appear as they are (no mathtext), except for control characters, which become visible signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from differnet_ray.results.overlay import MAP_COLOURS, VMAX, blend, checked_image, png_bytes

DPI = 120
SIDE, GAP, LINE, SMALL = 200, 18, 24, 18  # pixels on the contact sheet: longer side of an image, space between tiles, lines
GOOD, ANOMALOUS = "#0072B2", "#D55E00"  # Okabe and Ito: colour-blind readers can tell all of these apart
LINE_COLOURS = (GOOD, ANOMALOUS, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_WANTED = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Last Resort High-Efficiency")  # last: boxes
Tile: TypeAlias = tuple[str, NDArray[np.uint8], NDArray[np.floating[Any]] | None]
"""Of a contact sheet: caption, which may have several lines; (H, W, 3) RGB; (h, w) gradient map in map units or None."""
FONTS = [name for name in _WANTED if name in font_manager.get_font_names()]


def roc_plot(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str) -> bytes:
    """Draw ROC curves (Fig. 5 of the DifferNet paper), one line per category, with the area under each in the legend.

    Args:
        curves: category -> (false positive rates, true positive rates), each (K,) float, ascending from 0 to 1.
        title: drawn above; may have several lines.

    Returns:
        PNG bytes, 960 x 690 pixels.
    """
    figure, axes = _chart(960, 690, title)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    handles: list[Artist] = []
    labels = []
    for number, (category, points) in enumerate(curves.items()):
        fpr, tpr = (np.asarray(rate, dtype=np.float64) for rate in points)
        colour, style = _line_style(number)
        handles += axes.plot(fpr, tpr, color=colour, linestyle=style, linewidth=2, clip_on=False, zorder=3)
        auroc = f"{100 * np.trapezoid(tpr, fpr):5.1f}".replace(" ", "\u2007")  # a space as wide as a digit
        labels.append(f"{auroc}  {_fit(figure, category, 170, 10)}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("false positive rate (good images called anomalous)", fontsize=11)
    axes.set_ylabel("true positive rate (anomalous images found)", fontsize=11)
    _legend(figure, handles, labels, loc="outside right upper", title="AUROC in %", alignment="left")
    return png_of(figure)


def score_histogram(good: ArrayLike, anomalous: ArrayLike, threshold: float | None, title: str) -> bytes:
    """Draw which share of the good and of the anomalous images has which score (Fig. 6 of the DifferNet paper).

    The threshold is an edge between two bars, so that no bar holds images of both decisions. Scores above three times
    the threshold (or the median good score, where that is larger) share the last bar, and the axis says so.

    Args:
        good: (N,) float, scores of good images. In both groups NaN is left out, and infinity is in the last bar.
        anomalous: (N,) float, scores of anomalous images.
        threshold: score from which an image is called anomalous, or None.
        title: drawn above; may have several lines.

    Returns:
        PNG bytes, 840 x 540 pixels.
    """
    figure, axes = _chart(840, 540, title)
    groups = [np.clip(np.asarray(group, dtype=np.float64).ravel(), -1e150, 1e150) for group in (good, anomalous)]
    groups = [group[~np.isnan(group)] for group in groups]
    theta = None if threshold is None or not np.isfinite(threshold) else threshold
    edges, has_tail = bar_edges(groups[0], groups[1], theta)
    top, bar = edges[-1], edges[-1] - edges[-2]
    lefts, widths = edges[:-1], np.diff(edges)
    if has_tail:
        lefts, widths = np.append(lefts, top + 1.5 * bar), np.append(widths, 2 * bar)
        ticks = [tick for tick in MaxNLocator(6).tick_values(edges[0], top) if edges[0] <= tick <= top - 2 * bar]
        axes.set_xticks([*ticks, top + 2.5 * bar], [*(f"{tick:.4g}" for tick in ticks), f"≥ {top:.3g}"])
    handles: list[Artist] = []
    labels = []
    for scores, name, colour, hatch in zip(groups, ("good", "anomalous"), (GOOD, ANOMALOUS), ("", "///"), strict=True):
        in_tail = has_tail & (scores >= top)
        counts = np.histogram(np.clip(scores[~in_tail], edges[0], top), edges)[0]
        shares = np.append(counts, np.sum(in_tail))[: len(lefts)] / max(scores.size, 1)
        face, some = (*to_rgb(colour), 0.45), shares > 0
        axes.bar(lefts[some], shares[some], widths[some], align="edge", facecolor=face, edgecolor=colour, hatch=hatch)
        handles.append(Patch(facecolor=face, edgecolor=colour, hatch=hatch))
        labels.append(f"{name} ({scores.size:,} images)")
    if theta is not None:
        handles.append(axes.axvline(theta, color="black", linestyle="--", linewidth=1.6))
        labels.append(f"threshold {theta:.4g}")
    axes.set_xlabel(f"anomaly score{f' (the last bar holds all from {top:.3g} up)' if has_tail else ''}", fontsize=11)
    axes.set_ylabel("share of the images of its kind", fontsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(edges[0] - bar, lefts[-1] + widths[-1] + bar)
    axes.set_ylim(0, None if any(group.size for group in groups) else 1)
    _legend(figure, handles, labels, loc="outside lower center", ncols=3)
    return png_of(figure)


def shots_plot(points: Mapping[str, Sequence[tuple[int, float]]], title: str) -> bytes:
    """Draw AUROC against the number of training images (Fig. 7 of the DifferNet paper): the mean of each size, and its points.

    Args:
        points: category -> (number of training images, AUROC), in any order; several of a size are seeds or subsets.
        title: drawn above.

    Returns:
        PNG bytes, 840 x 540 pixels.
    """
    figure, axes = _chart(840, 540, title)
    handles: list[Artist] = []
    for number, found in enumerate(points.values()):
        colour, style = _line_style(number)
        sizes, aurocs = (np.array(values, dtype=np.float64) for values in zip(*found, strict=True))
        at = np.unique(sizes)
        axes.scatter(sizes, 100 * aurocs, s=14, color=colour, alpha=0.5, zorder=3)
        handles += axes.plot(
            at, [100 * aurocs[sizes == size].mean() for size in at], color=colour, linestyle=style, linewidth=2
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("training images", fontsize=11)
    axes.set_ylabel("AUROC in %", fontsize=11)
    _legend(figure, handles, [_fit(figure, category, 170, 10) for category in points], loc="outside right upper")
    return png_of(figure)


def contact_sheet(sections: Mapping[str, Sequence[Tile]], title: str, columns: int = 4) -> bytes:
    """Draw many images on one sheet, in sections, each image beside its overlay where it has a gradient map.

    Args:
        sections: heading -> its tiles, row by row; below a heading without tiles stands "none".
        title: drawn above; may have several lines.
        columns: tiles in a row.

    Returns:
        PNG bytes; an image is at most 197 pixels wide and high.

    Raises:
        ValueError: an array has another shape or type, or `columns` is below 1.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, found {columns}")
    lines, tiles = title.split("\n"), [tile for section in sections.values() for tile in section]
    has_maps = any(gradient_map is not None for _, _, gradient_map in tiles)
    across = SIDE * (1 + has_maps) + GAP
    width = max(GAP + across * min(columns, max(map(len, sections.values()), default=0)), 660)
    texts = [(line, GAP, GAP + LINE * i, width - 2 * GAP, 13) for i, line in enumerate(lines)]
    placed: list[tuple[NDArray[np.uint8], int, int]] = []
    y = GAP + LINE * len(lines) + GAP // 2
    for heading, section in sections.items():
        y += GAP // 2
        texts.append((heading, GAP, y, width - 2 * GAP, 11))
        y += LINE + GAP // 2
        if not section:
            texts.append(("none", GAP, y, width - 2 * GAP, 9))
            y += LINE + GAP
        for start in range(0, len(section), columns):
            row = section[start : start + columns]
            captions = [caption.split("\n") for caption, _, _ in row]
            pictures = [_pair(pixels, gradient_map) for _, pixels, gradient_map in row]
            corners = range(GAP, GAP + across * len(row), across)
            texts += [
                (s, x, y + SMALL * i, across - GAP, 9) for x, c in zip(corners, captions, strict=True) for i, s in enumerate(c)
            ]
            y += SMALL * max(map(len, captions)) + 4
            placed += [(picture, x, y) for picture, x in zip(pictures, corners, strict=True)]
            y += max(picture.shape[0] for picture in pictures) + GAP
    if has_maps:
        key = f"1 to {VMAX:g} times what only 1 % of the pixels of good images exceed, or an eighth of the map's peak"
        texts.append((key, GAP + 138, y, width - 2 * GAP - 138, 9))
    height = y + (LINE + GAP) * has_maps
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI, facecolor="white")
    for text, x, top, limit, size in texts:
        fitted, where = _fit(figure, text, limit, size), (x / width, 1 - top / height)
        figure.text(*where, fitted, va="top", fontsize=size, fontfamily=FONTS, parse_math=False)
    sheet = _pixels(figure)
    for picture, x, top in placed:
        sheet[top : top + picture.shape[0], x : x + picture.shape[1]] = picture
    if has_maps:
        sheet[y + 2 : y + 14, GAP : GAP + 128] = MAP_COLOURS[::2]
    return png_bytes(sheet)


def _line_style(number: int) -> tuple[str, str]:
    return LINE_COLOURS[number % 7], ("-", "--", ":", "-.")[number // 7 % 4]


def bar_edges(
    good: NDArray[np.float64], anomalous: NDArray[np.float64], threshold: float | None
) -> tuple[NDArray[np.float64], bool]:
    """Edges of about 30 equal bars, the threshold among them, and whether scores beyond the last edge get a bar."""
    known = np.concatenate([good, anomalous, [] if threshold is None else [threshold]])
    if not known.size:
        return np.linspace(0.0, 1.0, 31), False
    middle = float(np.median(good if good.size else known))
    reference = middle if threshold is None else max(middle, threshold)
    low, high = known.min(), known.max()
    limit = reference + 2 * max(abs(reference), reference - low) or high  # 3 x reference, for scores above 0
    top, has_tail = min(high, limit), bool(high > limit)
    if top - low <= max(1e-9 * abs(top), 1e-12):  # all scores are equal
        pad = max(0.05 * abs(top), 1e-6)
        low, top = low - pad, top + pad
    anchor = low if threshold is None else threshold
    bar = (top - low) / 30
    above = max(1, round(np.ceil((top - anchor) / bar - 1e-6)))
    if has_tail:
        bar = (top - anchor) / above  # the last edge becomes a number that people recognise
    return anchor + bar * np.arange(-round(np.ceil((anchor - low) / bar - 1e-6)), above + 1), has_tail


def _pair(pixels: NDArray[np.uint8], gradient_map: NDArray[np.floating] | None) -> NDArray[np.uint8]:
    """The image and, right of it, its overlay, both with a longer side of `SIDE` less a seam."""
    image = checked_image(pixels)
    scale = (SIDE - 3) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    if gradient_map is None:
        return small
    seam = np.full((size[1], 3, 3), 255, dtype=np.uint8)
    return np.hstack([small, seam, blend(small, gradient_map, VMAX)])


def _chart(width: int, height: int, title: str) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = styled(figure.subplots())
    lines = "\n".join(_fit(figure, line, width - 60, 13) for line in title.split("\n"))
    figure.suptitle(lines, fontsize=13, fontfamily=FONTS, parse_math=False)
    return figure, axes


def new_figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels, whose parts make room for each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout=layout, facecolor="white")


def styled(axes: Axes) -> Axes:
    """Axes with a faint grid behind what is drawn, and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4")
    axes.set_axisbelow(True)
    return axes


def _legend(figure: Figure, handles: list[Artist], labels: list[str], **where: Any) -> None:
    if handles:
        legend = figure.legend(handles, ["-"] * len(labels), frameon=False, fontsize=10, **where)
        for text, label in zip(legend.get_texts(), labels, strict=True):  # labels with a leading "_" would be left out
            text.set(text=label, parse_math=False, fontfamily=FONTS)


def _fit(figure: Figure, text: str, width: float, size: float) -> str:
    """One line of `text` that is at most `width` pixels wide, shortened in the middle where it must be."""
    text = "".join(c if c.isprintable() else {"\n": "↵"}.get(c, " " if c.isspace() else "\ufffd") for c in text)
    label = figure.text(0, 0, text, fontsize=size, fontfamily=FONTS, parse_math=False)
    keep = len(text)
    while keep > 1 and (wide := label.get_window_extent().width) > width:
        keep = min(keep - 1, int(keep * width / wide))
        label.set_text(f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}")
    label.remove()
    return label.get_text()


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]  # type: ignore[no-untyped-call]
    figure.clear()  # figures hold reference cycles: let go of the arrays at once
    return pixels


def png_of(figure: Figure) -> bytes:
    """The PNG bytes of a finished figure, which is empty afterwards."""
    return png_bytes(_pixels(figure))

"""The plots open as PNG, show what they should, and survive every name and every degenerate input."""

from __future__ import annotations

import gc
import io
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import cache

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from differnet_ray.report import plots

pytestmark = pytest.mark.filterwarnings("error")

NAMES = [
    "$x_",
    "$x_{1}$ \\frac",
    "_hidden",
    "\u87ba\u4e1d \U0001f600 \u00e9",
    "two\nlines",
    "a\tb\0c",
    "bad\udcff",
    "",
    "very_long_" * 40,
]
POINTS = (np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0, 1.0]))
GREY = np.full((40, 60, 3), 120, dtype=np.uint8)


def opened(png: bytes) -> NDArray[np.int64]:
    """Decode to (H, W, 3) signed integers, so that differences do not wrap."""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image).astype(np.int64)


def has_colour(pixels: NDArray[np.int64], colour: str) -> bool:
    """Whether some pixel is (almost) of this colour."""
    wanted = 255 * np.array(mpl.colors.to_rgb(colour))
    return bool((np.abs(pixels - wanted).max(axis=-1) <= 3).any())


PLOTS: dict[str, Callable[[str], bytes]] = {
    "roc": lambda name: plots.roc_plot({name: POINTS, "b": POINTS}, name),
    "histogram": lambda name: plots.score_histogram([0.9, 1.0, 1.1], [1.4, 9.0], 1.3, name),
    "sheet": lambda name: plots.contact_sheet({name: [(name, GREY, np.ones((4, 6)))]}, name),
}


@cache
def unnamed(plot: str) -> bytes:
    return PLOTS[plot]("")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plot", PLOTS)
def test_any_name_is_drawn_as_it_is(plot: str, name: str) -> None:
    pixels = opened(PLOTS[plot](name))
    height, width, _ = pixels.shape
    assert 500 <= width <= 1000
    assert 80 <= height <= 800
    assert pixels.max() == 255
    if name:
        assert not np.array_equal(pixels, opened(unnamed(plot)))


@pytest.mark.parametrize("plot", PLOTS)
def test_same_arrays_same_bytes(plot: str) -> None:
    assert PLOTS[plot]("a") == PLOTS[plot]("a")


@pytest.mark.parametrize("name", NAMES)
def test_long_names_are_shortened_in_the_middle(name: str) -> None:
    figure = Figure()
    for width in (60, 200, 10_000):
        fitted = plots._fit(figure, name, width, 10)
        assert "\n" not in fitted
        if "\u2026" in fitted:
            head, tail = fitted.split("\u2026")
            assert name.startswith(head)
            assert name.endswith(tail)
            assert 0 <= len(head) - len(tail) <= 1
        else:
            assert len(fitted) == len(name)
    assert not figure.texts


def test_nothing_global_and_nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[weakref.ref[Figure]] = []
    draw = plots._pixels

    def watched(figure: Figure) -> NDArray[np.uint8]:
        figures.append(weakref.ref(figure))
        return draw(figure)

    monkeypatch.setattr(plots, "_pixels", watched)
    before = dict(mpl.rcParams)
    for plot in PLOTS.values():
        plot("a")
    gc.collect()
    assert len(figures) == len(PLOTS)
    assert [figure() for figure in figures] == [None] * len(PLOTS)
    assert dict(mpl.rcParams) == before
    program = "import sys; import differnet_ray.report.plots as p; p.roc_plot({}, 'a')"
    check = "; assert not {'matplotlib.pyplot', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program + check], check=True)


@pytest.mark.parametrize("count", [0, 1, 15, 30])
def test_roc_plot_has_a_line_for_each_category(count: int) -> None:
    pixels = opened(plots.roc_plot({f"category_{i}": POINTS for i in range(count)}, "all"))
    assert [has_colour(pixels, colour) for colour in plots.LINE_COLOURS[:2]] == [count > 0, count > 1]


def test_roc_plot_takes_lists() -> None:
    assert plots.roc_plot({"a": ([0, 0, 0.5, 1], [0, 0.5, 1, 1])}, "a") == plots.roc_plot({"a": POINTS}, "a")


DEGENERATE: dict[str, tuple[list[float], list[float], float | None]] = {
    "no images": ([], [], None),
    "only a threshold": ([], [], 1.0),
    "no good": ([], [1.0, 2.0], 1.5),
    "no anomalous": ([1.0, 2.0], [], 1.5),
    "all equal": ([1.0] * 3, [1.0] * 3, 1.0),
    "all zero": ([0.0] * 3, [0.0], 0.0),
    "nearly equal": ([1.0, 1.0 + 1e-15], [1.0], None),
    "tiny": ([5e-324, 0.0], [1e-320], None),
    "huge": ([1.0, 2.0], [1e308, -1e308], 1.5),
    "not finite": ([1.0, math.nan], [math.inf, 2.0, -math.inf], 1.5),
    "infinite threshold": ([1.0], [2.0], math.inf),
    "negative": ([-3.0, -2.0], [-1.0, 50.0], -1.5),
    "threshold far below": ([5.0, 6.0], [1e6], 0.1),
    "threshold far above": ([1.0, 1.1], [1.2], 1e9),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_histogram_of_degenerate_scores(case: str) -> None:
    pixels = opened(plots.score_histogram(*DEGENERATE[case], case))
    assert pixels.shape == (540, 840, 3)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-5, 50), max_size=30),
    st.lists(st.floats(-5, 50) | st.floats(0, 1e12), max_size=30),
    st.none() | st.floats(-5, 50),
)
def test_bars_cover_all_scores_and_keep_both_decisions_apart(
    good: list[float], anomalous: list[float], threshold: float | None
) -> None:
    edges, has_tail = plots.bar_edges(np.array(good), np.array(anomalous), threshold)
    assert 30 <= len(edges) <= 70
    assert (np.diff(edges) > 0).all()
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], rtol=1e-4)
    scores = np.array(good + anomalous)
    slack = edges[1] - edges[0]
    if scores.size:
        assert scores.min() >= edges[0] - 1e-5 * slack
        assert has_tail or scores.max() <= edges[-1] + 1e-5 * slack
    if threshold is not None:
        assert threshold in edges
        if has_tail and good and threshold > np.median(good) and scores.min() >= 0:
            assert edges[-1] == pytest.approx(3 * threshold, rel=1e-6, abs=1e-5)


def test_a_long_tail_shares_the_last_bar() -> None:
    good = np.linspace(0.8, 1.2, 50)
    near, far = (plots.score_histogram(good, [2.0, 2.5, last], 1.3, "a") for last in (3.0, 1e9))
    assert near != far
    assert far == plots.score_histogram(good, [2.0, 2.5, math.inf], 1.3, "a")  # how far does not matter


@pytest.mark.parametrize(("count", "columns"), [(0, 4), (1, 4), (4, 4), (5, 4), (3, 1), (2, 100)])
def test_contact_sheet_places_every_tile(count: int, columns: int) -> None:
    colours = ["#ff0000", "#00ff00", "#0000ff", "#00ffff", "#ff00ff"][:count]
    tiles = [
        (colour, np.full((30 + 20 * i, 50, 3), 255 * np.array(mpl.colors.to_rgb(colour)), dtype=np.uint8), None)
        for i, colour in enumerate(colours)
    ]
    pixels = opened(plots.contact_sheet({"some": tiles[:2], "others": tiles[2:]}, "tiles", columns))
    assert all(has_colour(pixels, colour) for colour in colours)
    with_maps = [(caption, image, np.full((2, 2), 2.0)) for caption, image, _ in tiles]
    mapped = opened(plots.contact_sheet({"some": with_maps[:2], "others": with_maps[2:]}, "tiles", columns))
    assert count == 0 or mapped.size > pixels.size


def test_contact_sheet_takes_images_of_any_form() -> None:
    shapes = [(1, 1), (1, 3000), (3000, 1), (7, 5), (900, 1200)]
    tiles = [(str(s), np.zeros((*s, 3), dtype=np.uint8), np.ones((3, 3)) if s[0] > 1 else None) for s in shapes]
    height, width, _ = opened(plots.contact_sheet({"all": tiles}, "forms", 3)).shape
    assert 500 < height < 700
    assert 1200 < width < 1400


def test_contact_sheet_refuses_no_columns() -> None:
    with pytest.raises(ValueError, match="columns must be at least 1, found 0"):
        plots.contact_sheet({"all": [("a", GREY, None)]}, "a", columns=0)


def test_contact_sheet_says_where_there_is_none() -> None:
    tile = ("a", GREY, None)
    without, with_none = (plots.contact_sheet(s, "a") for s in ({"found": [tile]}, {"found": [tile], "missed": []}))
    assert opened(with_none).shape[0] > opened(without).shape[0]
    assert opened(plots.contact_sheet({}, "a")).shape[1] == 660

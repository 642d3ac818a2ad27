"""Which pictures of the magnetic tiles show the same tile, and splits of the good ones that keep tiles together or do not.

Each tile was photographed about six times; the pictures of one have neighbouring numbers (`exp3_num_258558.jpg`), those of
different tiles are mostly over 60 apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FOLDS, GAP = 5, 60
Integers = npt.NDArray[np.int64]


def numbers_of(names: Iterable[str]) -> Integers:
    """The numbers in the names or URIs of pictures."""
    return np.array([int(re.sub(r".*_num_(\d+)\..*", r"\1", name)) for name in names])


def tiles_of(numbers: Integers) -> Integers:
    """Which tile each number belongs to, counted from 0: a gap in the sorted numbers begins another.

    Example:
        >>> tiles_of(np.array([258558, 11, 258561, 8])).tolist()
        [1, 0, 1, 0]
    """
    order = np.argsort(numbers)
    tile = np.zeros(len(numbers), np.int64)
    tile[order[1:]] = np.cumsum(np.diff(numbers[order]) > GAP)
    return tile


def held_out(tile: Integers) -> dict[str, list[Integers]]:
    """Positions that each of five folds holds out of the pictures of these tiles, `at random` and `by tile`."""
    rng = np.random.default_rng(0)
    order, tile_order = rng.permutation(len(tile)), rng.permutation(tile.max() + 1)
    return {
        "at random": [order[i::FOLDS] for i in range(FOLDS)],
        "by tile": [np.flatnonzero(np.isin(tile, tile_order[i::FOLDS])) for i in range(FOLDS)],
    }

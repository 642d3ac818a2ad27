"""How well gradient maps (eq. 7 of the DifferNet paper) mark the defects that ground-truth masks show.

Legend: N images, H x W pixels, R regions: the 8-connected components of each image's mask. A larger value means more
anomalous; pixels with equal values are never told apart. Positive means defect, so a false positive is a pixel without
defect that is called one, in an anomalous or a good image. Values may be compared across images only where the maps have
the same unit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from differnet_ray.labels import GOOD

MAX_FPR = 0.3
_CONNECTED = np.zeros((3, 3, 3), dtype=np.bool_)  # within an image all eight neighbours, between images none
_CONNECTED[1] = True


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """Area under the ROC curve of all pixels of all images; ties count half.

    Equal to scikit-learn's `roc_auc_score` of the flattened arrays. Large defects and large images of them dominate it.

    Args:
        maps: (N, H, W) float, larger is more anomalous; infinite values are allowed.
        masks: (N, H, W) bool, True on the defect; all False for a good image.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: the shapes differ, a value is NaN, or there is no pixel with or none without defect.

    Example:
        >>> pixel_auroc([[[1.0, 2.0], [2.0, 3.0]]], [[[False, False], [True, True]]])
        0.875
    """
    values, defect = _checked(maps, masks)
    normal, marked = np.sort(values[~defect]), np.sort(values[defect])  # sorted look-ups are near each other in memory
    twice_the_wins = sum(int(np.searchsorted(normal, marked, side).sum()) for side in ("left", "right"))
    return twice_the_wins / (2 * normal.size * marked.size)


def aupro(maps: ArrayLike, masks: ArrayLike, max_fpr: float = MAX_FPR) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by that rate.

    The overlap at a threshold is the mean, over all regions of all images, of the share of the region's pixels at or above
    it: a small defect weighs as much as a large one. The false positive rate is the share of all pixels without defect at
    or above it. Points of the curve (one for each distinct value, after (0, 0)) are joined by straight lines, also across
    `max_fpr` (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, and the evaluation code of MVTec AD).

    Args:
        maps: (N, H, W) float, larger is more anomalous; infinite values are allowed.
        masks: (N, H, W) bool, True on the defect; all False for a good image.
        max_fpr: where the curve ends, above 0 and at most 1.

    Returns:
        The normalized area, in [0, 1]; maps of chance have about `max_fpr` / 2.

    Raises:
        ValueError: the shapes differ, a value is NaN, there is no pixel with or none without defect, or `max_fpr` is out of
            range.

    Example:
        >>> maps = [[[4.0, 3.0, 1.0, 2.0]]]  # two regions; the second is found after half of the other pixels
        >>> round(aupro(maps, [[[True, False, False, True]]], max_fpr=1.0), 6)
        0.75
    """
    if not 0.0 < max_fpr <= 1.0:
        raise ValueError(f"max_fpr must be above 0 and at most 1, found {max_fpr}")
    values, defect = _checked(maps, masks)
    region = ndimage.label(defect, structure=_CONNECTED)[0][defect]
    weight = 1.0 / np.bincount(region)[1:]  # all pixels of a region together weigh 1
    order = np.argsort(values[defect])
    marked, below = values[defect][order], np.append(0.0, np.cumsum(weight[region[order] - 1]))

    def overlap(thresholds: NDArray[np.floating[Any]], side: Literal["left", "right"]) -> NDArray[np.float64]:
        """Of the pixels at or above each threshold (`left`) or above it (`right`)."""
        return np.asarray(1.0 - below[np.searchsorted(marked, thresholds, side)] / below[-1])

    normal = np.sort(values[~defect])
    limit = max_fpr * normal.size  # the curve ends after so many false positives: with or within the ties of `last`
    last = normal[-1 - min(int(limit), normal.size - 1)]
    top = normal[np.searchsorted(normal, last) :][::-1]
    ends = np.append(np.flatnonzero(top[1:] != top[:-1]) + 1, top.size)
    starts = np.append(0, ends[:-1])
    above, at_or_above = overlap(top[starts], "right"), overlap(top[starts], "left")
    width = np.minimum(ends, limit) - starts
    area = width * (above + (at_or_above - above) * width / (ends - starts) / 2)  # a trapezoid, the last one cut at the limit
    return float(area.sum() / limit)


def localization_metrics(maps: ArrayLike, masks: ArrayLike, kinds: ArrayLike) -> dict[str, Any]:
    """All pixel metrics of one category.

    Args:
        maps: (N, H, W) float, larger is more anomalous; infinite values are allowed.
        masks: (N, H, W) bool, True on the defect; all False for a good image.
        kinds: (N,) str, the kind of defect of each image; `good` is none.

    Returns:
        `pixel_auroc`, `aupro`, and `by_defect`, kind to both of these of its images together with all good ones; None for
        a kind whose masks are empty.

    Raises:
        ValueError: the shapes differ, a value is NaN, or there is no pixel with or none without defect.
    """
    field, mask, kind = np.asarray(maps), np.asarray(masks), np.asarray(kinds, dtype=np.str_)
    if kind.shape != field.shape[:1]:
        raise ValueError(f"kinds must have one entry for each of the {field.shape[:1]} maps, found shape {kind.shape}")
    found: dict[str, Any] = {"pixel_auroc": pixel_auroc(field, mask), "aupro": aupro(field, mask), "by_defect": {}}
    for defect in np.unique(kind[kind != GOOD]).tolist():
        among, marked = (kind == GOOD) | (kind == defect), mask[kind == defect].any()
        found["by_defect"][defect] = {
            "pixel_auroc": pixel_auroc(field[among], mask[among]) if marked else None,
            "aupro": aupro(field[among], mask[among]) if marked else None,
        }
    return found


def _checked(maps: ArrayLike, masks: ArrayLike) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
    """Both as arrays of shape (N, H, W), with pixels of both kinds; raises ValueError as the metrics say."""
    values, defect = np.asarray(maps), np.asarray(masks)
    if values.dtype not in (np.float32, np.float64):  # float16 sorts slowly
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    if values.ndim != 3 or values.shape != defect.shape:
        raise ValueError(f"maps and masks must both have shape (N, H, W), found {values.shape} and {defect.shape}")
    n_nan = int(np.isnan(values).sum())
    if n_nan:
        raise ValueError(f"{n_nan} of {values.size} values of the maps are NaN: leave out images that have no map")
    if not values.size:
        raise ValueError("there are no pixels: some with and some without defect are needed")
    if defect.dtype != np.bool_:  # 0/255 would do, but a mask of labels or probabilities must not pass
        raise ValueError(f"masks must hold booleans, found dtype {defect.dtype}")
    n_defect = int(defect.sum())
    if n_defect in (0, defect.size):
        missing = "with a defect" if n_defect == 0 else "without defect"
        raise ValueError(f"none of the {defect.size} pixels is {missing}: both kinds are needed to compare their values")
    return values, defect

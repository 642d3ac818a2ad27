"""Groups of good images that belong together, such as pictures of one part, and splits that never cut through one.

Legend: N images, D features, G groups. A partition of the images is int64 (N,), the number of each image's group.

A density that was fitted on one picture of a part knows its siblings: their scores say nothing of the next part. Where no
name tells which images are siblings, their features do. Independent images come only so near to each other; how near is
found on N made images of the same covariance and distances from the mean (`independent_distances`). Images are joined, the
most similar first, until they are about as far from other groups as that (`similar_groups`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, pdist, squareform

from differnet_ray.model.flow import OFFSET, SMALLEST_STD

Floats = npt.NDArray[np.float64]
Partition = npt.NDArray[np.int64]

POWER = 0.25  # pooled features of a ReLU network are skewed; that of the preset `pooled`
NEAREST_SHARES = 0.1, 0.25  # of the images, whose distances tell whether a set has siblings: few of them, or many
APART = 0.95  # of the distance of independent images: real ones are not quite normal (docs/benchmarks.md)
MADE = 4000  # images that are made, as sets of N, so that their distances hardly depend on chance
LARGEST = 4000  # images that are joined; of more, the others go with their nearest neighbour among so many
ROWS_PER_PASS = 256
SEED = 0  # the groups depend on the features alone


def raised(features: npt.NDArray[np.float32]) -> Floats:
    """Features >= 0 with a distribution that is less skewed, as `Flow` raises them."""
    y: Floats = (np.asarray(features, dtype=np.float64) + OFFSET) ** POWER
    return y


def comparable(features: npt.NDArray[np.float32]) -> Floats:
    """Features >= 0 of some images, (N, D), with zero mean and unit deviation, so that Euclidean distances compare them."""
    y = raised(features)
    std = y.std(axis=0)
    return np.asarray((y - y.mean(axis=0)) / np.where(std > SMALLEST_STD * np.median(std), std, 1.0))


def similar_groups(features: npt.NDArray[np.float32]) -> Partition:
    """Groups of similar images: average linkage, cut where the groups lie as far apart as independent images do.

    The cut is the one with most groups of which the distances from an image to the nearest one of another group are, in the
    mean of their lowest tenth and of their lowest quarter, at least 0.95 of what they are for independent images.

    Args:
        features: (N, D), N >= 2, not negative, such as the mean over the transforms of an image.

    Returns:
        (N,), numbered from 0 in the order of their first images; each image alone where none are too similar.
    """
    z = comparable(features)
    some = _some(z)
    joined = _joined(some)
    return numbered(joined if len(some) == len(z) else joined[_nearest(z, some)[0]])


def independent_distances(z: Floats) -> Floats:
    """Nearest-neighbour distances in sets of N independent images, made with the spread of the given ones.

    They are normal with the covariance of z: sums of its rows with random weights have it. Each is then scaled to the norm
    of one of the given images, so that a few that lie far out do not move the others.

    Args:
        z: (N, D) of zero mean.

    Returns:
        (N times the number of sets,); the same for the same z.
    """
    rng, norms = np.random.default_rng(SEED), np.linalg.norm(z, axis=1)
    found = []
    for _ in range(max(1, MADE // len(z))):
        made = rng.normal(size=(len(z), len(z))) @ z
        lengths = np.linalg.norm(made, axis=1)
        made *= (norms / np.where(lengths > 0, lengths, 1.0))[:, None]
        found.append(_nearest(made, made, np.arange(len(z)))[1])
    return np.concatenate(found)


def separation(features: npt.NDArray[np.float32], folds: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """How far unseen images are from those fitted on: 1 as far as independent images are, 0 the very same ones.

    Args:
        features: (N, D), as in `similar_groups`.
        folds: positions that a flow is fitted on, and of images that it then scores; of at least one image each.

    Returns:
        The distances from an unseen image to the nearest one fitted on over those of independent images, both in the mean
        of their lowest tenth or quarter, whichever gives less; 1 where the features do not vary at all.
    """
    z = comparable(features)
    found = np.concatenate([_nearest(z[list(unseen)], z[list(train)])[1] for train, unseen in folds])
    expected = _lowest(independent_distances(_some(z)))
    return float((_lowest(found) / expected).min()) if (expected > 0).all() else 1.0


def grouped(keys: Sequence[str] | None, features: npt.NDArray[np.float32], *, similar: bool) -> Partition:
    """The group of each image.

    Args:
        keys: those of the groups, where names say them.
        features: (N, D), as in `similar_groups`.
        similar: without keys, whether similar images are one group; else each is alone.
    """
    if keys is not None:
        return numbered(keys)
    return similar_groups(features) if similar else np.arange(len(features))


def numbered(keys: Sequence[str] | Partition) -> Partition:
    """The partition of images by their keys: numbers from 0 in the order of the first images.

    Example:
        >>> numbered(["b", "a", "b"]).tolist()
        [0, 1, 0]
    """
    _, first, inverse = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse.ravel()], dtype=np.int64)


def split_holdout(groups: Partition, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Splits images of G >= 2 groups into those to fit on and those held out, whole groups and at least one of each.

    Groups in random order are held out as long as each brings the number of images nearer to the fraction.

    Returns:
        Two sorted lists of positions, drawn from the seed.
    """
    sizes = np.bincount(groups)
    target = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    held_out: list[int] = []
    n = 0
    for group in np.random.default_rng([seed, 2]).permutation(len(sizes)).tolist():
        if abs(n + sizes[group] - target) < abs(n - target) and len(held_out) < len(sizes) - 1:
            held_out.append(group)
            n += sizes[group]
    chosen = np.isin(groups, held_out or [int(sizes.argmin())])  # all are over twice the fraction: the smallest
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()


def split_folds(groups: Partition, folds: int, seed: int) -> list[list[int]]:
    """Splits images into folds of whole groups for cross-fitting, no more folds than groups.

    The largest groups go first, each into the fold with the fewest images; those of a size in random order.

    Returns:
        Sorted lists of positions, drawn from the seed, that together hold each image once.
    """
    sizes = np.bincount(groups)
    order = np.random.default_rng([seed, 0, 2]).permutation(len(sizes))
    filled = np.zeros(min(folds, len(sizes)), dtype=np.int64)
    fold_of = np.zeros(len(sizes), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return [np.flatnonzero(fold_of[groups] == fold).tolist() for fold in range(len(filled))]


def draw(groups: Partition, n: int, rng: np.random.Generator) -> list[int]:
    """At most n images from whole groups in random order, of which the last is cut short where it does not fit.

    Returns:
        Sorted positions.
    """
    rank = rng.permutation(int(groups.max()) + 1)[groups]
    return sorted(np.argsort(rank, kind="stable")[:n].tolist())


def _joined(z: Floats) -> Partition:
    goal = APART * _lowest(independent_distances(z))
    distances = pdist(z)
    tree, square = linkage(distances, "average"), squareform(distances)

    def cut(merges: int) -> Partition:
        found: Partition = fcluster(tree, len(z) - merges, "maxclust").astype(np.int64)
        return found

    def apart(groups: Partition) -> bool:
        nearest = [row[groups != own].min(initial=np.inf) for row, own in zip(square, groups, strict=True)]
        return bool((_lowest(np.array(nearest)) >= goal).all())

    low, high = 0, len(z) - 1  # merges: the more, the further apart, so the first cut that is apart is found by halving
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if apart(cut(middle)) else (middle + 1, high)
    return cut(low)


def _some(z: Floats) -> Floats:
    """At most LARGEST rows of z, in their order."""
    if len(z) <= LARGEST:
        return z
    return z[np.sort(np.random.default_rng(SEED).choice(len(z), LARGEST, replace=False))]


def _lowest(distances: Floats) -> Floats:
    """The means of the lowest distances, a share of them each."""
    found = np.sort(distances)
    return np.array([found[: max(1, round(share * len(found)))].mean() for share in NEAREST_SHARES])


def _nearest(of: Floats, among: Floats, other_than: Partition | None = None) -> tuple[Partition, Floats]:
    """For each row of `of`, (N, D), which row of `among` is nearest and how far, leaving out one for each where given."""
    which, distance = np.empty(len(of), np.int64), np.empty(len(of))
    for start in range(0, len(of), ROWS_PER_PASS):
        rows = slice(start, start + ROWS_PER_PASS)
        found = cdist(of[rows], among)
        if other_than is not None:
            found[np.arange(len(found)), other_than[rows]] = np.inf
        which[rows] = found.argmin(axis=1)
        distance[rows] = found.min(axis=1)
    return which, distance

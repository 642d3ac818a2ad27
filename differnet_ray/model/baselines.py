"""What the paper compares the flow with: a one-class SVM and the nearest neighbour, on the same features and transforms.

Legend: M samples (transformed images), D features.

A baseline replaces the flow and nothing else (section 4.3): it is fitted on features of transformed training images, scores
each transformed test image, and the score of an image is the mean over its transforms, as in eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Scorer = Callable[[Floats], npt.NDArray[np.float64]]
"""Features (M, D) to one score a sample (M,); larger is more anomalous."""

NEIGHBOUR_DIMENSIONS = 64  # after PCA, as in the paper
SVM_SAMPLES = 8192  # an SVM takes time with the square of its samples: at most so many, drawn from the seed


def fit_nearest_neighbour(features: Floats, seed: int) -> Scorer:
    """1-NN: the Euclidean distance to the nearest training sample, after z-scores and PCA to 64 dimensions.

    Args:
        features: float32 (M, D) of training samples.
        seed: of the randomized PCA.

    Returns:
        The scorer; a score is a distance in standard deviations.
    """
    from sklearn.decomposition import PCA  # here: scikit-learn takes seconds to import, and only experiments need it
    from sklearn.neighbors import NearestNeighbors
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dimensions = min(NEIGHBOUR_DIMENSIONS, *features.shape)
    reduce = make_pipeline(StandardScaler(), PCA(dimensions, random_state=seed))
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(reduce.fit_transform(features))

    def score(samples: Floats) -> npt.NDArray[np.float64]:
        distances, _ = neighbours.kneighbors(reduce.transform(samples))
        return np.asarray(distances[:, 0], dtype=np.float64)

    return score


def fit_one_class_svm(features: Floats, seed: int) -> Scorer:
    """OCSVM: minus the decision function of a one-class SVM with an RBF kernel (scikit-learn's defaults) on z-scores.

    Args:
        features: float32 (M, D) of training samples, of which at most `SVM_SAMPLES` are used.
        seed: of that choice.

    Returns:
        The scorer; a score over 0 lies outside of the estimated support.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    if len(features) > SVM_SAMPLES:
        features = features[np.random.default_rng(seed).choice(len(features), SVM_SAMPLES, replace=False)]
    machine = make_pipeline(StandardScaler(), OneClassSVM(gamma="scale")).fit(features)

    def score(samples: Floats) -> npt.NDArray[np.float64]:
        return -np.asarray(machine.decision_function(samples), dtype=np.float64)

    return score

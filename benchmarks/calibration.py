"""Whether thresholds keep their promise: false alarms among the 191 good test images of the magnetic tiles.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.calibration OUTPUT

It takes its features from the output of `reproduce --preset pooled` and says how to make them. Each seed is another split of
the 761 good training images into those fitted on and those held out.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from scipy import stats

from benchmarks import tiles
from differnet_ray.config import preset
from differnet_ray.experiments.run_cell import StoredBank
from differnet_ray.labels import GOOD
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.groups import split_holdout
from differnet_ray.model.scoring import transform_scores

SEEDS, TARGETS = 5, (0.1, 0.05, 0.01)


def main(output: str) -> None:
    """Prints Markdown."""
    pooled = preset("pooled")
    train, test, kinds = tiles.stored_features(output, replace(tiles.stored_recipe(), flow=pooled.flow).override(pooled=True))
    train, test = train.mean(axis=1, keepdims=True), test[kinds == GOOD].mean(axis=1, keepdims=True)
    print("| seed | target | promised | false alarms | rate | 95 % of binomial(191, promised) | inside |\n|" + "---|" * 7)
    for seed in range(SEEDS):
        chosen, held_out = split_holdout(np.arange(len(train)), pooled.calibration.holdout_fraction, seed)
        flow = Flow(train.shape[-1], pooled.flow, seed=seed)
        list(fit(flow, StoredBank(torch.from_numpy(train[chosen]), pooled.fit), pooled.fit))
        calibration, good = (transform_scores(flow, features)[:, 0] for features in (train[held_out], test))
        for target in TARGETS:
            threshold = conformal_threshold(calibration, target)
            alarms = int(np.sum(good >= threshold.value))
            low, high = stats.binom.interval(0.95, len(good), threshold.achieved_fpr)
            promised, rate, inside = threshold.achieved_fpr, alarms / len(good), "yes" if low <= alarms <= high else "no"
            found = f"{alarms} of {len(good)} | {rate:.2%} | {low:.0f} to {high:.0f} | {inside}"
            print(f"| {seed} | {target:.0%} | {promised:.2%} | {found} |")


if __name__ == "__main__":
    main(sys.argv[1])

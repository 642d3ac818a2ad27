"""Why training blows up, and what keeps it from it: the loss of every batch on real features, with and without each cure.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.training OUTPUT [CURVES.png]

It takes its features from the output of `reproduce` and says how to make them, so that it costs minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks import tiles
from differnet_ray.errors import FitError
from differnet_ray.experiments.run_cell import StoredBank
from differnet_ray.model.fitting import EpochStats, fit
from differnet_ray.model.flow import Flow

EPOCHS = 16
CURES: dict[str, dict[str, object]] = {
    "published": {},
    "gradient clipped at 1": {"max_grad_norm": 1.0},
    "Adam's usual betas, eps": {"betas": (0.9, 0.999), "eps": 1e-8},
    "standardized features": {"first_layer": "standardize"},
    "standardized and clipped": {"first_layer": "standardize", "max_grad_norm": 1.0},
    "power 0.25, standardized, clipped": {"power": 0.25, "first_layer": "standardize", "max_grad_norm": 1.0},
    "standardized, alpha 1": {"first_layer": "standardize", "clamp_alpha": 1.0},
    "standardized, alpha 0.3": {"first_layer": "standardize", "clamp_alpha": 0.3},
}


def main(output: str, picture: str | None) -> None:
    """Prints a Markdown table, and draws the curves where a file is named."""
    train, _, _ = tiles.stored_features(output)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    print("| fit | largest batch loss | in epoch | loss, epoch 1 | loss, last | largest gradient |\n|---|---|---|---|---|---|")
    for name, changes in CURES.items():
        recipe = tiles.stored_recipe().override(hidden=256, epochs=EPOCHS, **changes)
        flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0)
        epochs: list[EpochStats] = []
        end = ""
        try:
            for stats in fit(flow, StoredBank(torch.from_numpy(train), recipe.fit), recipe.fit):
                epochs.append(stats)
        except FitError as error:
            end = f"; then {error}"
        worst = max(epochs, key=lambda stats: stats.largest_loss)
        print(
            f"| {name} | {worst.largest_loss:.3g} | {worst.epoch} | {epochs[0].loss:.3g} | {epochs[-1].loss:.3f}{end} | "
            f"{max(stats.grad_norm for stats in epochs):.3g} |",
            flush=True,
        )
        axes.plot([stats.epoch for stats in epochs], [stats.largest_loss for stats in epochs], label=name)
    axes.set(xlabel="epoch", ylabel="largest loss of a batch (eq. 4 / D)", yscale="symlog")
    axes.grid(color="#E4E4E4")
    axes.legend(frameon=False)
    if picture is not None:
        figure.savefig(Path(picture))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)

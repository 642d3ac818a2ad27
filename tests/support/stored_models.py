"""A small model, and where its files lie in a store on disk: what the tests of the model store share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from differnet_ray.archives.index import image_id
from differnet_ray.config import CalibrationConfig, FitConfig, FlowConfig, Recipe
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import HELD_OUT, Backbone, Decision, Lineage, StoredModel
from differnet_ray.tables import CALIBRATION

PARTS = ("flow.safetensors", "calibration.parquet", "card.md", "model.json")


def a_model(category: str = "screw", seed: int = 0, **changes: Any) -> StoredModel:
    """Returns a small model; flow, thresholds and calibration follow from the seed, the backbone is always the same."""
    rng, same = np.random.default_rng(seed), np.random.default_rng(0)
    uris = [f"s3://plant/{category}/train/good/{n}.png" for n in range(5)]
    scores = rng.uniform(0.5, 1.5, 5)
    model = StoredModel(
        category=category,
        recipe=Recipe(
            flow=FlowConfig(n_blocks=2, hidden=16, clamp_alpha=1.9),
            fit=FitConfig(epochs=2, seed=seed, betas=(0.9, 0.999), max_grad_norm=None),
            calibration=CalibrationConfig(target_fpr=0.01, review_fpr=0.05),
        ),
        transforms={"angles": (0.0, 0.1, 1 / 3), "brightness": (1.0, 1.0, 1.1), "contrast": (1.0, 0.9, 1.0)},
        backbone=Backbone("alexnet-imagenet1k-v1", "0123456789abcdef" * 4, True),
        decision=Decision(
            threshold=2.0 + seed / 7,
            review_threshold=1.5 + seed / 7,
            target_fpr=0.01,
            achieved_fpr=1 / 6,
            n_images=5,
            n_groups=5,
            method=HELD_OUT,
            extrapolated=False,
            statement="5 held-out good images: at most 16.7 % of good images are flagged",
            map_unit=0.003,
        ),
        lineage=Lineage(
            data=("s3://plant/archive",),
            listing_digest="f" * 64,
            fingerprint="e" * 64,
            n_fitted=20,
            n_held_out=5,
            n_fits=1,
            n_groups=25,
            separation=0.98,
            skipped={"s3://plant/screw/train/good/9.png": "unreadable: the PNG file is damaged"},
            losses=(1.25, -0.5),
            resumed=(1,),
            notes=("the chunk was halved to 32: memory was short",),
            test={"auroc": 0.9876, "n_good": 10, "n_anomalous": 20},
            seconds=3.5,
            peak_memory=2**30,
            device="cpu",
            libraries={"torch": "2.11"},
        ),
        flow={
            "w": rng.standard_normal((3, 4)).astype(np.float32),
            "order": rng.permutation(7),
            "on": np.array([True, False]),
        },
        weights={"features.0.weight": same.standard_normal((4, 3, 2, 2)).astype(np.float32)},
        calibration=pa.table(
            {
                "image_id": [image_id(uri) for uri in uris],
                "uri": uris,
                "anomaly_score": scores,
                "score_std": scores / 10,
                "group": np.arange(5),
            },
            schema=CALIBRATION.schema,
        ),
    )
    return replace(model, **changes)


def folder(store: ModelStore, *parts: str) -> Path:
    """Returns a path in the store."""
    return Path(store.uri.removeprefix("file://"), *parts)


def stored(store: ModelStore, version: str, part: str) -> Path:
    """Returns the path of a file that the screw model of this version needs."""
    if part == "backbone":
        (path,) = folder(store, "backbones").iterdir()
        return path
    return folder(store, "screw", version, part)


def assert_same(loaded: StoredModel, published: StoredModel, *, lineage: bool = True) -> None:
    """Compares all that a model is."""
    for name in ("flow", "weights"):
        found, expected = getattr(loaded, name), getattr(published, name)
        assert set(found) == set(expected)
        for key in expected:
            assert found[key].dtype == expected[key].dtype, key
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key, strict=True)
    assert loaded.calibration.equals(published.calibration)
    names = ["category", "recipe", "transforms", "backbone", "decision", *(["lineage"] if lineage else [])]
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(published, name) for name in names}

"""Where a run computes, what it takes, and where its figures go."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from differnet_ray.config import Recipe, preset
from differnet_ray.model.extractor import RANDOM, load_backbone_weights

WEIGHTS = "weights/alexnet-imagenet1k-v1-features.safetensors"
FILE = "results.jsonl"
SMALL = {"image_size": 64, "n_scales": 1, "n_transforms": 4, "n_rotations": 2, "hidden": 16}
SMALL_PAPER = {"n_blocks": 2, "epochs": 4, "fresh_epochs": 4}


@dataclass(frozen=True)
class Setting:
    """One run, as plain values.

    Attributes:
        device: `cuda` or `cpu`.
        small: a reduced size that checks the script, not the method: small networks, few images, random weights allowed.
        data: folder of `weights/` and `mtd/`.
        work: scratch folder; what lies there is used again.
        out: folder of the results.
        deadline: of the step, by the clock of `time.monotonic`; it ends in time to say what it has.
    """

    device: str
    small: bool
    data: Path
    work: Path
    out: Path
    deadline: float = math.inf

    def recipe(self, name: str = "paper") -> Recipe:
        """A preset for the tiles: brightness and contrast 0.15, as the paper has them there, parts in any pose."""
        recipe = preset(name).override(brightness=0.15, contrast=0.15, pose="any")
        if self.small:
            recipe = recipe.override(**SMALL, **(SMALL_PAPER if name == "paper" else {}))
        return recipe

    def weights(self) -> dict[str, Tensor]:
        """Of the backbone: the real ones; random ones at the reduced size where there are none."""
        path = self.data / WEIGHTS
        return load_backbone_weights(RANDOM if self.small and not path.is_file() else str(path))[0]

    def peak(self, precision: str) -> float:
        """The measured rate of a matrix product, in operations a second; NaN where it was not measured."""
        path, found = self.out / FILE, math.nan
        for line in path.read_text().splitlines() if path.is_file() else []:
            figures = json.loads(line)
            if figures["what"] == f"matrix product, {precision}":
                found = figures["tflops"] * 1e12
        return found

    @property
    def seconds_left(self) -> float:
        """Until the deadline; may be negative."""
        return self.deadline - time.monotonic()

    def choose(self, full: int, small: int) -> int:
        """A size: that of the whole run, or of a small one."""
        return small if self.small else full

    def synchronize(self) -> None:
        """Waits for all work on the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Results:
    """The figures of a step, appended to `results.jsonl` one line each as they come, and printed.

    Processes may write at the same time: a line is one write at the end of the file.
    """

    folder: Path
    step: str

    def add(self, what: str, **figures: object) -> None:
        """Appends figures; long lists are not printed."""
        line = json.dumps({"step": self.step, "what": what} | {key: _plain(value) for key, value in figures.items()})
        descriptor = os.open(self.folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in figures.items() if not _is_long(value))
        sys.stdout.write(
            f"{self.step}: {what}: {shown}\n" if shown else f"{self.step}: {what}\n"
        )  # one write: lines stay whole
        sys.stdout.flush()


def timed(setting: Setting, calls: int, warm: int, call: Callable[[], object]) -> Iterator[float]:
    """Seconds of each of so many calls of a function, each waited for, after some that are not measured."""
    for i in range(warm + calls):
        setting.synchronize()
        began = time.perf_counter()
        call()
        setting.synchronize()
        if i >= warm:
            yield time.perf_counter() - began


def _is_long(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 8


def _plain(value: object) -> object:
    """A value that strict JSON has: 6 digits, and no infinity."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

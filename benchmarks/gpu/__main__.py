"""Runs the steps, each in a process of its own that ends at its limit, so that a cut-off or a crash loses one step only."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu import ceilings, features, fits, graphs, images, maps, paper, profiled, published, same, speed
from benchmarks.gpu.setting import Results, Setting

SLOWER_CPU = 10.0  # factor on the limits of the steps
GRACE = 5.0  # seconds after its deadline in which a step may say what it has


@dataclass(frozen=True)
class Step:
    """A step and the most seconds that it may take at full size."""

    run: Callable[[Setting], None]
    seconds: float


STEPS = {
    "ceilings": Step(ceilings.run, 30),
    "decode": Step(images.run, 40),
    "same": Step(same.run, 70),
    "features": Step(features.run, 150),
    "paper": Step(paper.run, 200),
    "tile-features": Step(features.run_tiles, 60),
    "by-tile": Step(paper.run_tiles, 180),
    "speed": Step(speed.run, 100),
    "published": Step(published.run, 30),
    "maps": Step(maps.run, 40),
    "graphs": Step(graphs.run, 60),
    "profile": Step(profiled.run, 40),
    "fit": Step(fits.run, 110),
    "compile": Step(graphs.run_compiled, 100),
}
FIRST = ("ceilings", "decode")  # what all others need, and which costs seconds


def main() -> None:
    """Runs the chosen steps in the order above, and prints how each ended."""
    arguments = _arguments()
    device, work = "cpu" if arguments.cpu else "cuda", arguments.work / ("small" if arguments.small else "full")
    for folder in (work, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(device, arguments.small, arguments.data, work, arguments.out)
    end = time.monotonic() + arguments.limit
    chosen = [name for name in STEPS if name in FIRST or name in (arguments.steps or STEPS)]
    lines = []
    for name in chosen:
        seconds = min(STEPS[name].seconds * (SLOWER_CPU if arguments.cpu else 1.0), end - time.monotonic() - GRACE)
        began = time.monotonic()
        how = _run(name, setting, seconds) if seconds > 3 else "not begun: no time is left"
        lines.append(f"| {name} | {how} | {time.monotonic() - began:.1f} |")
        Results(setting.out, name).add("step", ended=how, seconds=time.monotonic() - began)
    print("\n| step | ended | seconds |\n|---|---|---|", *lines, sep="\n", flush=True)
    if not all("| done |" in line for line in lines):
        raise SystemExit(1)


def _run(name: str, setting: Setting, seconds: float) -> str:
    """How the step ended. The device is touched in its process only, and all that it started ends with it."""
    setting = replace(setting, deadline=time.monotonic() + seconds)
    process = multiprocessing.get_context("fork").Process(target=_step, args=(name, setting))
    process.start()
    process.join(seconds + GRACE)
    late = process.is_alive()
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a group of its own, which `_step` makes: what it has started, too
    process.join()
    return "cut off" if late else "done" if process.exitcode == 0 else f"failed, exit code {process.exitcode}"


def _step(name: str, setting: Setting) -> None:
    os.setpgid(0, 0)
    if setting.small:
        torch.set_num_threads(1)  # more threads than that wait for each other, where the cores are shared
    try:
        STEPS[name].run(setting)
    except Exception as error:
        traceback.print_exc()
        Results(setting.out, name).add("failed", error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run.sh", description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[[], *STEPS], metavar="STEP", help=f"of {', '.join(STEPS)}; none: all")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to check the script")
    parser.add_argument("--small", action="store_true", help="at a reduced size, to check the script")
    parser.add_argument("--limit", type=float, help="seconds for all steps together; otherwise 540, or an hour on the CPU")
    scratch = Path(os.environ.get("WORK") or Path(tempfile.gettempdir()) / "differnet-gpu")
    parser.add_argument("--work", type=Path, default=scratch, help="scratch folder, used again")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or scratch / "out"), help="for the results")
    parser.add_argument("--data", type=Path, help="folder of weights/ and mtd/; otherwise WORK/data")
    arguments = parser.parse_args()
    arguments.limit = arguments.limit or (3600.0 if arguments.cpu else 540.0)
    arguments.data = arguments.data or arguments.work / "data"
    return arguments


if __name__ == "__main__":
    main()

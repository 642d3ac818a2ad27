"""The online endpoint under load, from another process, against the bare loop over `ScoreImages` in the same run.

    python -m benchmarks.serving [--seconds 60] [--small 10000] [--models FOLDER --category NAME --images FOLDER]

Starts `differnet-ray serve` on this machine. Without `--models` it fits a model of quarter turns with random weights on
images that it makes: speed does not depend on weights. `--small N` sends N requests to a model of 64 pixels, and shows the
memory of Serve's processes on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import list_images
from differnet_ray.config import Recipe
from differnet_ray.distributed.scorer import NICENESS
from differnet_ray.pipeline.stages import ScoreImages, best_device
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import MANIFEST

CONCURRENCY, OVERLOAD = (1, 8, 32), 64
SMALL = ("--image-size=64", "--scales=1", "--transforms=1", "--blocks=2", "--hidden=16", "--clamp-alpha=0.3", "--epochs=1")
IMAGES, LOOKS = 32, 10
Answers = list[tuple[int, float]]  # status and seconds


def main() -> None:
    """Prints Markdown."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--small", type=int, default=1000)
    options.add_argument("--models")
    options.add_argument("--category", default="part")
    options.add_argument("--images")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder:
        images = _made(Path(folder) / "data" / "part" / "train" / "good", 448)
        _made(Path(folder) / "data" / "small" / "train" / "good", 64)
        models = asked.models or f"{folder}/models"
        if asked.models is None:
            _fit(folder, models, "part", "--preset=pooled", "--pose=quarter")
        _fit(folder, f"{folder}/small", "small", *SMALL)
        files = sorted(Path(asked.images or images).iterdir())[:IMAGES]
        with _serving(folder, models) as address:
            _load(address, models, asked.category, files, asked.seconds)
        if asked.small:
            with _serving(folder, f"{folder}/small") as address:
                _memory_along(address, Path(folder) / "data" / "small" / "train" / "good", asked.small)


def _load(address: str, models: str, category: str, files: list[Path], seconds: float) -> None:
    contents = [file.read_bytes() for file in files]
    bare = [_bare(models, category, files, seconds / 2)]
    asyncio.run(_ask(address, category, contents, 2, 2))
    print(
        f"| load | images a second | p50, ms | p95 | p99 | errors |\n|---|---|---|---|---|---|\n| bare loop | {bare[0]:.2f} |"
    )
    for n in CONCURRENCY:
        if n == 32:
            bare.append(_bare(models, category, files, seconds / 2))
            print(f"| bare loop | {bare[1]:.2f} |")
        began = time.monotonic()
        answers = asyncio.run(_ask(address, category, contents, n, seconds))
        took = time.monotonic() - began
        rate = sum(status == 200 for status, _ in answers) / took
        print(f"| {n} at a time | {rate:.2f} | {_percentiles(answers, 200)} | {_others(answers)} |", flush=True)
        if n == 8:
            at_8 = rate
    print(f"\nAt 8: {at_8 / np.mean(bare):.2f} of the bare loop.")
    answers = asyncio.run(_ask(address, category, contents, OVERLOAD, seconds))
    print(
        f"\n{OVERLOAD} at a time, those with 429 again after `Retry-After`:\n\n"
        "| status | answers | p50, ms | p95 | p99 |\n|---|---|---|---|---|"
    )
    for status, n in sorted(Counter(status for status, _ in answers).items()):
        print(f"| {status} | {n} | {_percentiles(answers, status)} |", flush=True)


def _percentiles(answers: Answers, status: int) -> str:
    times = [1000 * seconds for found, seconds in answers if found == status]
    return " | ".join(f"{value:.0f}" for value in np.percentile(times, (50, 95, 99)))


def _others(answers: Answers) -> str:
    others = Counter(status for status, _ in answers if status != 200)
    return ", ".join(f"{n} of status {status}" for status, n in others.items()) or "none"


async def _ask(address: str, category: str, images: list[bytes], n: int, seconds: float) -> Answers:
    """Keeps so many requests on the way for so long; a refused one comes again when it is told to."""
    answers: Answers = []
    turn, late = itertools.cycle(images), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=n)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:

        async def keep_asking() -> None:
            while time.monotonic() < late:
                how = {"params": {"category": category}, "headers": {"Content-Type": "application/octet-stream"}}
                began = time.perf_counter()
                answer = await client.post("/v1/score", content=next(turn), **how)  # type: ignore[arg-type]
                answers.append((answer.status_code, time.perf_counter() - began))
                await asyncio.sleep(float(answer.headers.get("retry-after", 0)))

        await asyncio.gather(*(keep_asking() for _ in range(n)))
    return answers


def _bare(models: str, category: str, files: list[Path], seconds: float) -> float:
    """Images a second of the bare loop, in a process of the priority that scorers have."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=os.nice, initargs=(NICENESS,)) as pool:
        return pool.submit(_loop, models, category, files, seconds).result()


def _loop(models: str, category: str, files: list[Path], seconds: float) -> float:
    """Images a second of a loop over `ScoreImages`, with as many threads as cores, on images that are decoded already."""
    torch.set_num_threads(1)
    store = ModelStore(canonical(models))
    version = store.latest(category)
    form = Recipe.from_dict(store.record(category, version)["recipe"]).image_form
    rows = list_images([str(file) for file in files]).table
    at = rows.schema.get_field_index("category")
    rows = rows.set_column(at, MANIFEST.schema.field(at), pa.array([category] * rows.num_rows))
    rows = FetchImages({category: form})(rows)
    score = ScoreImages(
        models=store.uri,
        versions={category: version},
        n_transforms=None,
        maps="none",
        dt=date(2026, 1, 31),
        run_id="bare",
        device=best_device(),
        threads=os.cpu_count() or 1,
    )
    score(rows.slice(0, 4))  # the first images of a process are slower
    n, began = 0, time.monotonic()
    while time.monotonic() < began + seconds:
        n += score(rows).num_rows
    return n / (time.monotonic() - began)


def _memory_along(address: str, images: Path, n: int) -> None:
    contents = [path.read_bytes() for path in sorted(images.iterdir())]
    print(f"\n{n:,} requests of 64 pixels, 8 at a time; resident memory, MiB:\n")
    kinds = ("ProxyActor", "Ingress", "Scorer")
    print("| requests | seconds | " + " | ".join(kinds) + " |\n|---|---|" + "---|" * len(kinds))
    began = time.monotonic()
    for part in range(LOOKS + 1):
        if part:
            asyncio.run(_some(address, contents, n // LOOKS))
        memory = _memory(kinds)
        print(
            f"| {part * n // LOOKS:,} | {time.monotonic() - began:.0f} | "
            + " | ".join(f"{memory[k]:.0f}" for k in kinds)
            + " |"
        )


async def _some(address: str, images: list[bytes], n: int) -> None:
    left = itertools.repeat(None, n)
    turn = itertools.cycle(images)
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:

        async def keep_asking() -> None:
            for _ in left:
                how = {"params": {"category": "small"}, "headers": {"Content-Type": "image/jpeg"}}
                (await client.post("/v1/score", content=next(turn), **how)).raise_for_status()  # type: ignore[arg-type]

        await asyncio.gather(*(keep_asking() for _ in range(8)))


def _memory(kinds: tuple[str, ...]) -> Counter[str]:
    """Resident memory of Serve's processes that are descendants of this one."""
    found: Counter[str] = Counter()
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            parents[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            names[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace")
    for process, name in names.items():
        above = process
        while above in parents and above != os.getpid():
            above = parents[above]
        kind = next((kind for kind in kinds if kind in name and "::" in name), None)
        if kind and above == os.getpid():
            with contextlib.suppress(OSError):
                found[kind] += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def _fit(folder: str, models: str, category: str, *options: str) -> None:
    where = ["--data", f"{folder}/data", "--models", models, "--category", category]
    quick = ["--backbone-weights", "random", "--fresh-epochs", "1", "--no-test", "--group-by", "none"]
    command = [sys.executable, "-m", "differnet_ray.cli", "fit", *where, *quick, *options]
    subprocess.run(command, env=_environment(folder), check=True, stdout=subprocess.DEVNULL)  # noqa: S603


@contextlib.contextmanager
def _serving(folder: str, models: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "differnet_ray.cli", "serve", "--models", models, "--port", str(port)]
    process = subprocess.Popen(command, env=_environment(folder), stdout=subprocess.DEVNULL)  # noqa: S603
    address = f"http://127.0.0.1:{port}"
    try:
        while not _ready(address):
            if process.poll() is not None:
                sys.exit("the endpoint did not start")
            time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def _ready(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/readyz").status_code == 200
    return False


def _environment(folder: str) -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}


def _made(folder: Path, size: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(size)
    for n in range(IMAGES):
        Image.fromarray(rng.normal(90, 12, (size, size, 3)).clip(0, 255).astype(np.uint8)).save(folder / f"{n:02d}.jpg")
    return folder


if __name__ == "__main__":
    main()
